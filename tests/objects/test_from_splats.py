"""Gaussians of other programs become meshes that lie on them: upright, of their colours, closed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from v3d import cli
from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.meshes.files import load_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.objects.from_splats import mesh_of_splats, without_pinholes
from v3d.objects.presets import PRESETS
from v3d.settings import ReconstructSettings
from v3d.surface.extract import is_closed
from v3d.views import Views

pytestmark = pytest.mark.usefixtures("tiny")

SH_DC = 0.28209479177387814
SIDES = np.array([1.2, 0.8, 1.6])  # along x (the front), y (left) and z (up) of the world
COLOURS = {"front": (204, 30, 30), "back": (30, 60, 204), "top": (40, 180, 60), "else": (128, 128, 120)}
CENTRE, SCALE = np.array([40.0, -3.0, 11.0]), 5.0
SIGMA = 0.02
DRAFT = ReconstructSettings(quality="draft", texture_size=128, faces=2000)


@pytest.fixture(autouse=True)
def small_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "draft", replace(PRESETS["draft"], hull=48, view_size=48, turntable=32))


def brick() -> tuple[np.ndarray, np.ndarray]:
    """Points on a box in the world, and their colours in 8 bits."""
    grid = (np.arange(40) + 0.5) / 40 - 0.5
    a, b = (g.reshape(-1) for g in np.meshgrid(grid, grid))
    points, colours = [], []
    names = {(0, 1): "front", (0, -1): "back", (2, 1): "top"}
    for axis in range(3):
        for sign in (1, -1):
            side = np.zeros((len(a), 3))
            side[:, axis] = sign / 2
            side[:, (axis + 1) % 3], side[:, (axis + 2) % 3] = a, b
            points.append(side * SIDES)
            colours.append(np.tile(COLOURS[names.get((axis, sign), "else")], (len(a), 1)))
    return np.concatenate(points) * SCALE + CENTRE, np.concatenate(colours)


def write_3dgs(path: Path, axes: np.ndarray) -> None:
    """As the reference trainer writes it: SH of degree 3; `axes` takes the world to the file's."""
    points, colours = brick()
    n = len(points)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(45)] + ["opacity", *(f"scale_{i}" for i in range(3))]
    names += [f"rot_{i}" for i in range(4)]
    rows = np.zeros((n, len(names)), "<f4")
    rows[:, :3] = points @ axes.T
    rows[:, 6:9] = (colours / 255 - 0.5) / SH_DC
    rows[:, 9:54] = 0.05
    rows[:, 54], rows[:, 55:58], rows[:, 58] = 6.0, np.log(SIGMA * SCALE), 1.0
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {n}"]
    head += [f"property float {name}" for name in names] + ["end_header", ""]
    path.write_bytes("\n".join(head).encode() + rows.tobytes())


def write_splat(path: Path, axes: np.ndarray) -> None:
    """As antimatter15's converter writes: 32 bytes each."""
    points, colours = brick()
    rows = np.zeros(len(points), [("p", "<f4", 3), ("s", "<f4", 3), ("c", "u1", 4), ("q", "u1", 4)])
    rows["p"], rows["s"] = points @ axes.T, SIGMA * SCALE
    rows["c"][:, :3], rows["c"][:, 3], rows["q"] = colours, 254, (255, 128, 128, 128)
    path.write_bytes(rows.tobytes())


RDF = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])  # right, down, front, of front, left, up
RUB = np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]])


def seen(mesh: Mesh, azimuth: float, elevation: float = 0.0) -> Tensor:
    """The colour, in 8 bits, of the middle of the mesh as a camera sees it."""
    home = Mesh((mesh.vertices - torch.tensor(CENTRE).float()) / SCALE / 2, mesh.faces, mesh.uv, mesh.texture)
    image = render(home, orbit(1, size=32, azimuth=azimuth, elevation=elevation)).rgb[0]
    return image[14:18, 14:18].mean((0, 1)) * 255


@pytest.mark.parametrize(
    ("write", "name", "matrix", "axes"),
    [
        (write_3dgs, "trained.ply", RDF, None),
        (write_3dgs, "y_up.ply", RUB, "RUB"),
        (write_splat, "web.splat", RDF, None),
    ],
)
def test_files_of_other_programs_stand_upright(
    write: object, name: str, matrix: np.ndarray, axes: str | None, tmp_path: Path
) -> None:
    write(tmp_path / name, matrix)  # type: ignore[operator]
    asset = mesh_of_splats(tmp_path / name, tmp_path / "out", DRAFT, axes=axes)
    mesh = asset.mesh
    assert mesh is not None
    assert asset.folder == tmp_path / "out" / name.partition(".")[0]
    low, high = mesh.vertices.amin(0).numpy(), mesh.vertices.amax(0).numpy()
    assert np.allclose((low + high) / 2, CENTRE, atol=0.15)
    # Along a side many Gaussians lie behind each other: it is seen to three deviations and a pixel.
    assert np.allclose(high - low, SIDES * SCALE + 0.8, atol=0.2)
    for side, stand in {"front": (0,), "back": (180,), "top": (0, 89)}.items():
        assert torch.allclose(seen(mesh, *stand), torch.tensor(COLOURS[side]).float(), atol=2), side
    welded = torch.unique(mesh.vertices, dim=0, return_inverse=True)[1]
    assert is_closed(welded[mesh.faces].numpy())
    assert any("harmonics" in note for note in asset.report["warnings"]) == (write is write_3dgs)


def test_the_command_resumes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_splat(tmp_path / "brick.splat", RDF)
    arguments = ["mesh", str(tmp_path / "brick.splat"), "-o", str(tmp_path / "out"), "--quality", "draft"]
    arguments += ["--faces", "500", "--texture-size", "64"]
    assert cli.main(arguments) == 0
    mesh = load_mesh(tmp_path / "out" / "brick" / "mesh.glb")
    assert len(mesh.faces) <= 500
    assert mesh.texture is not None and mesh.texture.shape == (64, 64, 3)
    (tmp_path / "empty.splat").write_bytes(b"")
    with pytest.raises(V3DError, match="empty"):
        mesh_of_splats(tmp_path / "empty.splat", tmp_path / "out", DRAFT)


def test_pinholes_close_and_holes_stay() -> None:
    alpha = torch.zeros(1, 80, 80)
    alpha[0, 10:70, 10:70] = 1
    alpha[0, 20:22, 20:21] = 0.2  # a gap between Gaussians
    alpha[0, 40:50, 40:50] = 0.0  # a handle
    closed = without_pinholes(Views(torch.ones(1, 80, 80, 3), alpha, orbit(1, size=80))).alpha[0]
    assert (closed[20:22, 20:21] == 1).all()
    assert (closed[40:50, 40:50] == 0).all()
    assert torch.equal(closed[:10], alpha[0, :10])
