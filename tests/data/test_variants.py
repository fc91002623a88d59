"""Training orbits obey the framing law of photos; shards come back as they were written."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from v3d.cameras import orbit
from v3d.data.corpus import corpus_ids, load_corpus
from v3d.data.orbit_shards import OrbitShards
from v3d.data.records import on_white
from v3d.data.render_orbits import render_meshes
from v3d.data.settings import RenderSettings
from v3d.data.variants import OrbitVariant, random_variant, render_orbit
from v3d.errors import V3DError
from v3d.framing import BORDER_RATIO, MAX_FILL, frame_mesh, photo_of
from v3d.meshes.mesh import Mesh


def box(x: float, y: float, z: float) -> Mesh:
    """A box of those side lengths, off centre, one texel a corner colour."""
    corners = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=torch.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    texture = torch.linspace(0.1, 0.8, 12).reshape(2, 2, 3)
    return Mesh(corners * torch.tensor([x, y, z]) + 3, faces, uv=corners[:, :2].contiguous(), texture=texture)


def fill(alpha: torch.Tensor) -> tuple[float, float, float]:
    """Longer side of the box around alpha > 0.5 and its centre, in image widths."""
    rows, columns = (alpha > 0.5).any(1).nonzero()[:, 0], (alpha > 0.5).any(0).nonzero()[:, 0]
    n = alpha.shape[0]
    height, width = float(rows[-1] - rows[0] + 1), float(columns[-1] - columns[0] + 1)
    centre = float(columns[-1] + columns[0] + 1) / 2 / n, float(rows[-1] + rows[0] + 1) / 2 / n
    return max(height, width) / n, *centre


@pytest.mark.parametrize("front", [0.0, 30.0, 130.0])
def test_the_front_view_is_framed_as_a_photo(front: float) -> None:
    views = render_orbit(box(1.0, 1.2, 0.9), OrbitVariant(front=front), size=128)
    side, cx, cy = fill(views.alpha[0])
    assert side == pytest.approx(1 - BORDER_RATIO, abs=0.02)
    assert cx == pytest.approx(0.5, abs=0.01) and cy == pytest.approx(0.5, abs=0.01)


def test_a_long_object_seen_end_on_shrinks_until_every_view_fits() -> None:
    views = render_orbit(box(6.0, 1.0, 1.0), OrbitVariant(), size=128)
    sides = [fill(a)[0] for a in views.alpha]
    assert sides[0] < 0.4 and max(sides) <= MAX_FILL + 0.01
    assert not bool((views.alpha[:, :, [0, -1]] > 0.5).any())  # nothing is cut off
    photo = photo_of(views)
    assert fill(photo[..., 3])[0] == pytest.approx(1 - BORDER_RATIO, abs=0.02)  # the photo keeps the law


def test_framing_does_not_depend_on_the_objects_own_scale_or_place() -> None:
    cameras = orbit(size=64)
    vertices = box(1.0, 2.0, 1.5).vertices
    torch.testing.assert_close(
        frame_mesh(vertices, cameras), frame_mesh(vertices * 7 - 30, cameras), atol=1e-4, rtol=1e-3
    )


def test_turning_the_front_by_one_view_rolls_a_centred_orbit() -> None:
    mesh = box(1.0, 1.0, 1.0)  # a cube is framed alike from azimuth 0 and 90
    a = render_orbit(mesh, OrbitVariant(front=0.0), size=48, views=8)
    b = render_orbit(mesh, OrbitVariant(front=90.0), size=48, views=8)
    assert float((a.rgb.roll(-2, 0) - b.rgb).abs().mean()) < 0.01


def test_mirror_flips_the_front_and_reverses_the_orbit() -> None:
    a = render_orbit(box(1.0, 1.3, 0.8), OrbitVariant(), size=48, views=6)
    b = render_orbit(box(1.0, 1.3, 0.8), OrbitVariant(mirror=True), size=48, views=6)
    reverse = [0, 5, 4, 3, 2, 1]
    assert float((a.rgb.flip(2)[reverse] - b.rgb).abs().mean()) < 0.02


def test_photo_of_a_framed_view_is_that_view() -> None:
    views = render_orbit(box(1.0, 1.0, 1.1), OrbitVariant(), size=96)
    photo = on_white(photo_of(views))
    assert float((photo[..., :3] - views.rgb[0]).abs().mean()) < 1e-3


def test_random_variants_are_reproducible_and_in_range() -> None:
    a, b = (random_variant(torch.Generator().manual_seed(5)) for _ in range(2))
    assert a.front == b.front and a.stretch == b.stretch and sorted(a.channels) == [0, 1, 2]
    assert 0 <= a.front < 360 and all(1 / 1.3 <= s <= 1.3 for s in a.stretch)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A packed corpus of three boxes, written as docs/data.md says."""
    parts = [box(1, 1, 1), box(2, 1, 1), box(1, 1, 3)]
    vertices, textures = [], []
    for mesh in parts:
        v = mesh.vertices - mesh.vertices.amin(0)
        v = v / v.norm(dim=-1).max() - 0.45  # inside the unit cube around the origin
        vertices.append(np.round((v[:, [1, 2, 0]].numpy() + 0.5) * 65535).astype(np.uint16))
        assert mesh.texture is not None
        file = io.BytesIO()
        Image.fromarray((mesh.texture.numpy() * 255).astype(np.uint8)).save(file, "PNG")
        textures.append(np.frombuffer(file.getvalue(), np.uint8))
    path = tmp_path / "corpus.npz"
    np.savez(
        path,
        ids=np.array(["cube", "bar", "tower"]),
        n_vertices=np.array([8] * 3),
        n_faces=np.array([12] * 3),
        n_texture_bytes=np.array([len(t) for t in textures]),
        vertices=np.concatenate(vertices),
        uv=np.concatenate([np.round(m.uv.numpy() * 65535).astype(np.uint16) for m in parts]),  # type: ignore[union-attr]
        faces=np.concatenate([m.faces.numpy().astype(np.uint16) for m in parts]),
        textures=np.concatenate(textures),
    )
    return path


def test_corpus_round_trip(corpus: Path) -> None:
    assert corpus_ids(corpus) == ["cube", "bar", "tower"]
    tower, cube = load_corpus(corpus, [2, 0])
    assert (tower.id, cube.id) == ("tower", "cube") and cube.palette
    span = tower.mesh.vertices.amax(0) - tower.mesh.vertices.amin(0)
    assert float(span[2] / span[0]) == pytest.approx(3, rel=1e-3)  # z is up
    assert math.isclose(float(cube.mesh.texture[0, 0, 0]), 25 / 255, abs_tol=1e-6)  # type: ignore[index]


def test_a_wrong_file_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"not a corpus")
    with pytest.raises(V3DError, match="not a packed corpus"):
        list(load_corpus(tmp_path / "x.npz"))
    with pytest.raises(V3DError, match="holds no rendered orbits"):
        OrbitShards(tmp_path)


def test_a_packed_corpus_is_rendered_into_shards(corpus: Path, tmp_path: Path) -> None:
    settings = RenderSettings(rounds=2, size=24, per_shard=2)
    report = render_meshes([corpus], tmp_path / "out", settings)
    data = OrbitShards(tmp_path / "out")
    assert report["orbits"] == len(data) == 6 and len(data.paths) == 3
    assert sorted(data.id(i) for i in range(3)) == ["bar", "cube", "tower"]
    views, photo = data[0]
    assert views.shape == (18, 24, 24, 4) and photo.shape == (24, 24, 4) and views.dtype == torch.uint8
