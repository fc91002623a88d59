"""Procedural objects: closed parts of known volumes, every kind usable, the same number the same object."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from v3d import cli
from v3d.data.combining import join
from v3d.data.filters import fault, mesh_fingerprint
from v3d.data.orbit_shards import OrbitShards
from v3d.data.procedural.kinds import KINDS, Kind
from v3d.data.procedural.living import creature
from v3d.data.procedural.make import make_objects, procedural_object
from v3d.data.procedural.paint import Painter
from v3d.data.procedural.parts import ball, box, lathe, mirrored, moved, prism, tube
from v3d.meshes.files import load_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import sample_texture

TEXTURE = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
DRUM = [(0.0, 0.0), (0.7, 0.0), (0.7, 2.0), (0.0, 2.0)]
SQUARE = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
LINE = torch.linspace(0, 1, 5)[:, None] * torch.tensor([[0.6, 0.0, 0.8]])


def solid(part: Mesh) -> trimesh.Trimesh:
    """The part with the copies of its vertices along seams made one."""
    places, place = np.unique(part.vertices.numpy() + 0.0, axis=0, return_inverse=True)
    return trimesh.Trimesh(places, place.reshape(-1)[part.faces.numpy()], process=False)


def of_circle(segments: int) -> float:
    """The area of the regular polygon of that many corners in the unit circle."""
    return segments / 2 * math.sin(2 * math.pi / segments)


@pytest.mark.parametrize(
    ("part", "volume"),
    [
        (box((1.0, 2.0, 3.0), TEXTURE), 6.0),
        (lathe(DRUM, TEXTURE, segments=24), of_circle(24) * 0.49 * 2),
        (ball(TEXTURE, power=1.0, segments=40), of_circle(40) * 2 / 3),
        (ball(TEXTURE, power=2.0, segments=160), 4 / 3 * math.pi),
        (prism(SQUARE, 0.5, TEXTURE), 2.0),
        (tube(LINE, torch.full((5,), 0.1), TEXTURE, segments=12), of_circle(12) * 0.01),
    ],
)
def test_parts_are_closed_and_hold_what_they_should(part: Mesh, volume: float) -> None:
    for mesh in (part, mirrored(part), moved(part, turn=(0.3, 1.0, -2.0), to=(1.0, 2.0, 3.0))):
        found = solid(mesh)
        assert found.is_watertight and found.is_winding_consistent
        assert found.volume == pytest.approx(volume, rel=2e-3)
    double = moved(part, scale=(2.0, 1.0, 0.5))
    assert solid(double).volume == pytest.approx(volume, rel=2e-3)


def test_a_rounded_box_lies_between_the_box_and_what_is_inside_it() -> None:
    size = (1.0, 2.0, 0.8)
    for rounding in (0.1, 0.3, 0.5):
        found = solid(box(size, TEXTURE, rounding=rounding))
        radius = rounding * min(size)
        inner = [s - 2 * radius for s in size]
        assert found.is_watertight
        np.testing.assert_allclose(found.extents, size, atol=1e-6)
        # Steiner's formula for a box thickened by a ball.
        faces = 2 * (inner[0] * inner[1] + inner[1] * inner[2] + inner[0] * inner[2])
        exact = (
            math.prod(inner) + faces * radius + math.pi * radius**2 * sum(inner) + 4 / 3 * math.pi * radius**3
        )
        assert 0.95 * exact < found.volume < exact


def test_a_tube_keeps_its_radius_around_a_bend() -> None:
    t = torch.linspace(0, math.pi, 30)
    path = torch.stack([t.cos(), t.sin(), 0.2 * t], -1)
    found = tube(path, torch.full((30,), 0.1), TEXTURE, segments=8).vertices.view(32, 9, 3)[1:-1]
    torch.testing.assert_close((found - path[:, None]).norm(dim=-1), torch.full((30, 9), 0.1))
    # No twist: a vertex stays next to the one before it.
    step = (found[1:] - found[:-1]).norm(dim=-1)
    assert float(step.max()) < 1.25 * float((path[1:] - path[:-1]).norm(dim=-1).max())


def test_boxes_wear_a_cell_of_the_texture_on_every_side() -> None:
    cells = torch.arange(6.0).view(2, 3)[:, :, None].expand(-1, -1, 3) / 6
    texture = cells.repeat_interleave(32, 0).repeat_interleave(32, 1)
    part = box((1.0, 1.0, 1.0), texture)
    assert part.uv is not None and part.texture is not None
    colours = sample_texture(part.texture, part.uv[part.faces].mean(1), nearest=True)[:, 0]
    sides = part.face_normals @ torch.eye(3).T
    expected = torch.where(sides.sum(1) > 0, 2 * sides.abs().argmax(1), 2 * sides.abs().argmax(1) + 1) / 6
    torch.testing.assert_close(colours, expected)


def test_a_label_faces_the_front_and_reads_from_left_to_right() -> None:
    part = lathe(DRUM, TEXTURE, segments=24)
    assert part.uv is not None
    wall = part.vertices[:, :2].norm(dim=-1) > 0.5
    front = wall & (part.vertices[:, 0] > 0.6)
    assert 0.35 < float(part.uv[front, 0].mean()) < 0.65
    # Seen from +x the right hand is +y.
    assert torch.corrcoef(torch.stack([part.vertices[front, 1], part.uv[front, 0]]))[0, 1] > 0.9
    assert torch.corrcoef(torch.stack([part.vertices[wall, 2], part.uv[wall, 1]]))[0, 1] < -0.9


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_makes_objects_of_use(kind: Kind) -> None:
    marks = set()
    for seed in range(12):
        rng = random.Random(seed)
        mesh = join(kind(rng, Painter(rng)))
        assert fault(mesh) is None
        assert mesh.uv is not None and mesh.texture is not None
        assert float(mesh.uv.min()) >= 0 and float(mesh.uv.max()) <= 1
        assert float(mesh.texture.min()) >= 0 and float(mesh.texture.max()) <= 1
        marks.add(mesh_fingerprint(mesh))
    assert len(marks) == 12


def test_creatures_are_alike_left_and_right() -> None:
    alike = 0
    for seed in range(20):
        rng = random.Random(seed)
        vertices = join(creature(rng, Painter(rng))).vertices
        image = vertices * torch.tensor([1.0, -1.0, 1.0])
        alike += (
            float(torch.cdist(image, vertices, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max())
            < 1e-4
        )
    assert 12 <= alike < 20  # some hold a tool in one hand


def test_a_number_names_one_object_whatever_the_state_of_chance() -> None:
    first = procedural_object(7)
    torch.rand(3), random.random()
    again, other = procedural_object(7), procedural_object(8)
    assert mesh_fingerprint(first) == mesh_fingerprint(again) != mesh_fingerprint(other)
    assert torch.equal(first.vertices, again.vertices)


def test_files_hold_the_objects_and_a_second_run_adds_what_is_missing(tmp_path: Path) -> None:
    make_objects(3, tmp_path, seed=5)
    files = sorted(tmp_path.glob("*.glb"))
    assert len(files) == 3
    kept = files[0].stat().st_mtime_ns
    files[1].unlink()
    make_objects(4, tmp_path, seed=5, workers=2)
    assert len(list(tmp_path.glob("*.glb"))) == 4 and files[0].stat().st_mtime_ns == kept
    read, made = load_mesh(files[1]), procedural_object(5 * 1_000_003 + 1)
    torch.testing.assert_close(read.vertices, made.vertices)
    assert torch.equal(read.faces, made.faces)


def test_from_nothing_to_training_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects, data = str(tmp_path / "objects"), tmp_path / "data"
    assert cli.main(["make-objects", "4", "-o", objects, "--seed", "3"]) == 0
    assert cli.main(["render", objects, "-o", str(data), "--size", "32"]) == 0
    assert len(OrbitShards(data)) == 4
    assert cli.main(["make-objects", "0", "-o", objects]) == 2
    assert "one object or more" in capsys.readouterr().err
