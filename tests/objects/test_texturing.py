"""Given meshes with new textures: from posed views, a run's own views, and photos; all else stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from shapes import ball_views, box_mesh, mesh_of
from v3d import cli
from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.meshes.reading.gltf_document import GltfDocument
from v3d.meshes.rendering import render
from v3d.objects import pipeline
from v3d.objects.texturing import texture_mesh
from v3d.settings import GenerateSettings, ReconstructSettings
from v3d.texture.unwrap import unwrap
from v3d.views import Views, save_views, straight_rgba

pytestmark = pytest.mark.usefixtures("tiny")

SIZE = 48
RED, GREEN, BLUE = ((0.8, 0.1, 0.1), (0.1, 0.7, 0.2), (0.1, 0.2, 0.8))
TINY = GenerateSettings(formats=("glb",))


def sided(normal: Tensor) -> Tensor:
    """Red in front (+x), blue behind."""
    front = (normal[..., :1] > 0).float()
    return front * torch.tensor(RED) + (1 - front) * torch.tensor(BLUE)


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return mesh_of(trimesh.creation.icosphere(subdivisions=3, radius=0.6))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views") / "ball"
    save_views(ball_views(orbit(9, size=SIZE), 0.6, colour=sided), folder)
    return folder


def colour_from(mesh: Mesh, azimuth: float) -> Tensor:
    """The mean colour [3] of the middle of the mesh as a camera at this azimuth sees it."""
    image = render(mesh, orbit(1, size=32, azimuth=azimuth)).rgb[0]
    return image[13:19, 13:19].mean((0, 1))


def same_geometry(one: Path, other: Path) -> None:
    a, b = GltfDocument(one), GltfDocument(other)
    assert a.json["nodes"] == b.json["nodes"]
    first, second = (d.json["meshes"][0]["primitives"][0] for d in (a, b))
    assert first["attributes"].keys() == second["attributes"].keys()
    for name in first["attributes"]:
        numbers = first["attributes"][name], second["attributes"][name]
        assert np.array_equal(a.stored(numbers[0]), b.stored(numbers[1]))
    assert np.array_equal(a.stored(first["indices"]), b.stored(second["indices"]))


def test_views_texture_a_mesh_and_leave_the_rest(ball: Mesh, seen: Path, tmp_path: Path) -> None:
    uv = unwrap(ball, size=64)
    grey = Mesh(uv.vertices, uv.faces, uv.uv, torch.full((8, 8, 3), 0.5))
    save_glb(grey, tmp_path / "given.glb")
    asset = texture_mesh(tmp_path / "given.glb", seen, tmp_path / "out", TINY)
    assert asset.folder == tmp_path / "out" / "given"
    assert asset.splats is None and asset.mesh is not None
    same_geometry(tmp_path / "given.glb", asset.folder / "mesh.glb")
    assert torch.allclose(colour_from(asset.mesh, 0), torch.tensor(RED), atol=0.03)
    assert torch.allclose(colour_from(asset.mesh, 180), torch.tensor(BLUE), atol=0.03)
    assert not asset.report["warnings"]
    again = texture_mesh(tmp_path / "given.glb", seen, tmp_path / "out", TINY)
    assert all(stage["reused"] for stage in again.report["stages"].values())


def test_a_mesh_without_uv_in_the_world_of_a_capture_is_found(ball: Mesh, tmp_path: Path) -> None:
    cameras = orbit(9, size=SIZE)
    far = torch.tensor([5.0, -3.0, 2.0])
    moved = cameras.c2w.clone()
    moved[:, :3, 3] = 10 * moved[:, :3, 3] + far
    views = ball_views(cameras, 0.6, colour=sided)
    save_views(Views(views.rgb, views.alpha, type(cameras)(moved, cameras.K, SIZE, SIZE)), tmp_path / "far")
    large = trimesh.Trimesh((ball.vertices * 10 + far).numpy(), ball.faces.numpy(), process=False)
    large.export(tmp_path / "large.ply")
    asset = texture_mesh(tmp_path / "large.ply", tmp_path / "far", tmp_path / "out", TINY)
    assert asset.mesh is not None
    extents = asset.mesh.vertices.amax(0) - asset.mesh.vertices.amin(0)
    assert torch.allclose(extents, torch.full((3,), 12.0), atol=1e-3)  # it stays where it was
    assert torch.allclose(asset.mesh.vertices.mean(0), far, atol=0.2)
    (note,) = [w for w in asset.report["warnings"] if "unwrapped" in w]
    assert "repeated" in note
    home = Mesh((asset.mesh.vertices - far) / 10, asset.mesh.faces, asset.mesh.uv, asset.mesh.texture)
    assert torch.allclose(colour_from(home, 0), torch.tensor(RED), atol=0.03)
    assert torch.allclose(colour_from(home, 180), torch.tensor(BLUE), atol=0.03)


def test_a_patch_painted_into_a_view_of_a_run_shows_on_its_mesh(seen: Path, tmp_path: Path) -> None:
    made = pipeline.reconstruct(seen, tmp_path / "made", ReconstructSettings(formats=("glb",)))
    run = made.folder
    first = texture_mesh(run, None, tmp_path / "out", TINY)
    before = (first.folder / "mesh.glb").read_bytes()
    with Image.open(run / "views/000.png") as picture:
        painted = np.array(picture)
    painted[14:34, 14:34, :3] = (30, 200, 60)
    Image.fromarray(painted).save(run / "views/000.png")
    assert made.mesh is not None
    asset = texture_mesh(run, None, tmp_path / "out", TINY)
    assert (asset.folder / "mesh.glb").read_bytes() != before
    same_geometry(run / "mesh.glb", asset.folder / "mesh.glb")
    assert any(note.startswith("View 0 was changed") for note in asset.report["warnings"])
    assert asset.mesh is not None
    green = torch.tensor([30, 200, 60]) / 255
    assert torch.allclose(colour_from(asset.mesh, 0), green, atol=0.08)
    assert torch.allclose(colour_from(asset.mesh, 180), torch.tensor(BLUE), atol=0.05)
    assert asset.report["stages"]["uv"]["reused"]


def test_photos_are_laid_on_a_mesh_of_any_size_and_place(tmp_path: Path) -> None:
    box = box_mesh(0.4, 0.8, 1.0)
    moved = Mesh(box.vertices * 30 + torch.tensor([100.0, 0, -7]), box.faces)
    save_glb(moved, tmp_path / "box.glb")
    for name, azimuth, colour in (("front", 0, RED), ("left", 90, GREEN), ("back", 180, BLUE)):
        view = render(box, orbit(1, size=64, azimuth=azimuth))
        rgba = straight_rgba(torch.tensor(colour).expand(64, 64, 3), view.alpha[0])
        rgba[..., :3] = (torch.tensor(colour) * 255).byte()
        shifted = np.zeros((90, 80, 4), np.uint8)
        shifted[20:84, 3:67] = rgba.numpy()
        Image.fromarray(shifted).save(tmp_path / f"{name}.png")
    photos = {0: tmp_path / "front.png", 90: tmp_path / "left.png", 180: tmp_path / "back.png"}
    asset = texture_mesh(tmp_path / "box.glb", photos, tmp_path / "out", TINY)
    assert asset.mesh is not None
    home = Mesh(
        (asset.mesh.vertices - torch.tensor([100.0, 0, -7])) / 30,
        asset.mesh.faces,
        asset.mesh.uv,
        asset.mesh.texture,
    )
    for azimuth, colour in ((0, RED), (90, GREEN), (180, BLUE)):
        assert torch.allclose(colour_from(home, azimuth), torch.tensor(colour), atol=0.04), azimuth
    (note,) = [w for w in asset.report["warnings"] if "seen by no photo" in w]
    assert 0.2 < float(note.split("%")[0]) / 100 < 0.6  # the right, the top and the bottom
    assert "drawn by the model mini" in note


def test_what_does_not_belong_together_is_refused(ball: Mesh, seen: Path, tmp_path: Path) -> None:
    save_glb(Mesh(ball.vertices + 3, ball.faces), tmp_path / "elsewhere.glb")
    with pytest.raises(V3DError, match="does not stand where the views show"):
        texture_mesh(tmp_path / "elsewhere.glb", seen, tmp_path / "out", TINY)
    with pytest.raises(V3DError, match=r"has no mesh\.glb"):
        texture_mesh(seen, None, tmp_path / "out", TINY)
    with pytest.raises(V3DError, match="Give photos or posed views"):
        texture_mesh(tmp_path / "elsewhere.glb", None, tmp_path / "out", TINY)
    with pytest.raises(V3DError, match="There is no mesh file"):
        texture_mesh(tmp_path / "nothing.glb", seen, tmp_path / "out", TINY)


def test_an_obj_keeps_its_quads(seen: Path, tmp_path: Path) -> None:
    points = [(x, y, z) for x in (-0.42, 0.42) for y in (-0.42, 0.42) for z in (-0.42, 0.42)]
    sides = [(1, 3, 4, 2), (5, 6, 8, 7), (1, 2, 6, 5), (3, 7, 8, 4), (1, 5, 7, 3), (2, 4, 8, 6)]
    lines = [f"v {y} {z} {x}" for x, y, z in points]  # y up, the front towards +z
    for k in range(6):
        u, v = k % 3 / 3, k // 3 / 2
        lines += [f"vt {u + a * 0.3:.4f} {v + b * 0.45:.4f}" for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    lines += [
        "f " + " ".join(f"{p}/{4 * k + i + 1}" for i, p in enumerate(side)) for k, side in enumerate(sides)
    ]
    (tmp_path / "cube.obj").write_text("\n".join(lines))
    arguments = [str(tmp_path / "cube.obj"), str(seen), "-o", str(tmp_path / "out")]
    assert cli.main(["texture", *arguments]) == 0
    folder = tmp_path / "out" / "cube"
    written = (folder / "mesh.obj").read_text().splitlines()
    assert [line for line in written if line[:2] in ("v ", "vt", "f ")] == lines
    for file in ("mesh.obj", "mesh.glb"):
        mesh = load_mesh(folder / file)
        assert torch.allclose(colour_from(mesh, 0), torch.tensor(RED), atol=0.05)
        assert torch.allclose(colour_from(mesh, 180), torch.tensor(BLUE), atol=0.05)
    shutil.rmtree(folder)
