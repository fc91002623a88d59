"""Posed views from other worlds become the asset of the orbit's world: its cameras, its silhouettes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from shapes import textured
from v3d import cli
from v3d.cameras import OPENCV_OPENGL, Cameras, orbit
from v3d.meshes.rendering import render
from v3d.metrics import soft_iou
from v3d.objects import build, pipeline
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS
from v3d.settings import ReconstructSettings, Up
from v3d.views import Views, save_views

SIZE = 48
VIEWS = ReconstructSettings(until="views")
Array = NDArray[np.float64]
Change = Callable[[Array], Array]
Y_UP: Array = Rotation.from_euler("x", -90, degrees=True).as_matrix()


@pytest.fixture(scope="module")
def views() -> Views:
    """A pillar with a nose from a little above: it has no symmetry that would hide a turn."""
    pillar = trimesh.creation.box((0.4, 0.4, 1.0))
    nose = trimesh.creation.box((0.3, 0.15, 0.15)).apply_translation([0.3, 0, 0.3])
    cameras = orbit(12, size=SIZE, elevation=15)
    image = render(textured(trimesh.util.concatenate([pillar, nose]), 0), cameras)
    return Views(image.rgb, image.alpha, cameras)


def colmap(views: Views, folder: Path, change: Change) -> Path:
    """The views as a COLMAP model with photos and masks, in the world that `change` makes of poses."""
    (folder / "sparse/0").mkdir(parents=True)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    K = views.cameras.K[0]
    text = f"1 PINHOLE {SIZE} {SIZE} {K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]}\n"
    (folder / "sparse/0/cameras.txt").write_text(text)
    lines = []
    for i, pose in enumerate(views.cameras.c2w.double().numpy()):
        w2c = np.linalg.inv(change(pose))
        q = Rotation.from_matrix(w2c[:3, :3]).as_quat()[[3, 0, 1, 2]]
        numbers = " ".join(repr(float(value)) for value in (*q, *w2c[:3, 3]))
        lines.append(f"{i + 1} {numbers} 1 {i:02d}.jpg\n\n")
        rgb, alpha = ((x[i] * 255).round().byte().numpy() for x in (views.rgb, views.alpha))
        Image.fromarray(rgb).save(folder / f"images/{i:02d}.jpg", quality=95)
        Image.fromarray((alpha > 127).astype(np.uint8)).save(folder / f"masks/{i:02d}.jpg.png")
    (folder / "sparse/0/images.txt").write_text("".join(lines))
    return folder


def transforms(views: Views, folder: Path, change: Change) -> Path:
    """The views as V3D saves them, in the world that `change` makes of poses."""
    save_views(views, folder)
    file = folder / "transforms.json"
    meta = json.loads(file.read_text())
    flip = OPENCV_OPENGL.numpy()
    for frame in meta["frames"]:
        pose = np.array(frame["transform_matrix"]) @ flip
        frame["transform_matrix"] = (change(pose) @ flip).tolist()
    file.write_text(json.dumps(meta))
    return folder


def moved(shift: tuple[float, ...] = (0, 0, 0), R: Array | None = None) -> Change:
    def change(pose: Array) -> Array:
        turn = np.eye(3) if R is None else R
        exact = Rotation.from_matrix(pose[:3, :3]).as_matrix()  # float32 is no rotation to 6 million units
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = turn @ exact, turn @ pose[:3, 3] + np.array(shift)
        return out

    return change


WORLDS = {
    "UTM": moved((512345.67, 4654321.98, 251.3)),
    "ECEF": moved((4075539.8, 931735.2, 4801629.6)),
    "y up": moved(R=Y_UP),
    "y up in UTM": moved((512345.67, 4654321.98, 251.3), Y_UP),
}


def hull_iou(views: Views, cameras: Cameras) -> float:
    """The overlap of the views' silhouettes with those of their visual hull, seen by other cameras."""
    preset = PRESETS["draft"]
    inputs = BuildInputs(views)
    mesh = build.shape(inputs, build.hull(inputs, preset), preset)
    return soft_iou(render(mesh, cameras).alpha, views.alpha)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("make", [transforms, colmap])
def test_any_world_is_placed(
    views: Views, tmp_path: Path, make: Callable[[Views, Path, Change], Path], world: str
) -> None:
    folder = make(views, tmp_path / "given", WORLDS[world])
    asset = pipeline.reconstruct(folder, tmp_path / "out", VIEWS)
    torch.testing.assert_close(asset.views.cameras.c2w, views.cameras.c2w, atol=2e-4, rtol=0)
    assert asset.views.cameras.c2w.dtype == torch.float32
    assert soft_iou(asset.views.alpha, views.alpha) > 0.9  # masks of 0 and 1 have hard edges
    assert hull_iou(asset.views, views.cameras) > 0.9
    turned = [note for note in asset.report["warnings"] if "its up is y" in note]
    assert len(turned) == world.startswith("y up")
    # The placement of the report leads there as well.
    placement = asset.report["stages"]["views"]["placement"]
    eye = WORLDS[world](views.cameras.c2w[0].double().numpy())[:, 3]
    there = np.array(placement["matrix"]) @ eye
    np.testing.assert_allclose(there[:3], views.cameras.centers[0].numpy(), atol=2e-4)
    assert placement["scale"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("up", "z"), [("y", [0, 1, 0]), ("-x", [-1, 0, 0])])
def test_up_can_be_said(views: Views, tmp_path: Path, up: Up, z: list[float]) -> None:
    """In Python and on the command line."""
    folder = transforms(views, tmp_path / "given", moved())
    asset = pipeline.reconstruct(folder, tmp_path / "a", VIEWS, up=up)
    rotation = np.array(asset.report["stages"]["views"]["placement"]["matrix"])[:3, :3]
    np.testing.assert_allclose(rotation @ z, [0, 0, 1], atol=1e-9)
    assert asset.report["warnings"] == []
    arguments = ["reconstruct", str(folder), "-o", str(tmp_path / "b"), "--until", "views", f"--up={up}"]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "b/given/report.json").read_text())
    assert np.array(report["stages"]["views"]["placement"]["matrix"])[:3, :3] == pytest.approx(rotation)


def test_our_own_runs_come_back_to_the_bit(views: Views, tmp_path: Path) -> None:
    save_views(views, tmp_path / "given")
    asset = pipeline.reconstruct(tmp_path / "given", tmp_path / "out", VIEWS)
    assert torch.equal(asset.views.cameras.c2w, views.cameras.c2w)
    for name in ("transforms.json", "views/000.png", "views/011.png"):
        assert (asset.folder / name).read_bytes() == (tmp_path / "given" / name).read_bytes()


def test_one_view_is_told_to_be_a_flat_cone(views: Views, tmp_path: Path) -> None:
    asset = pipeline.reconstruct(views[[0]], tmp_path, VIEWS)
    (note,) = asset.report["warnings"]
    assert "One view alone shows no depth" in note
