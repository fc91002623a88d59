"""The real pipeline on tiny settings: 48-pixel views of a two-coloured ball."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from shapes import ball_views, reused
from v3d.cameras import Cameras, orbit
from v3d.capture.readers import load_views
from v3d.errors import V3DError
from v3d.files import write_json
from v3d.meshes.rendering import render
from v3d.objects import pipeline
from v3d.objects.presets import PRESETS, preset_of
from v3d.placement import place
from v3d.settings import GenerateSettings, ReconstructSettings
from v3d.splats.files.read import read_splats
from v3d.splats.rasterize import splat_renderer
from v3d.views import Views, save_views

pytestmark = pytest.mark.usefixtures("tiny")

SIZE = 48
RADIUS = 0.6


def red_and_blue(normal: Tensor) -> Tensor:
    """Red in front, blue behind."""
    front = (normal[..., :1] > 0).float()
    return front * torch.tensor([0.8, 0.2, 0.1]) + (1 - front) * torch.tensor([0.1, 0.3, 0.8])


def two_coloured(
    cameras: Cameras, scale: float = 1.0, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Views:
    return ball_views(cameras, RADIUS * scale, centre, red_and_blue)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "ball"
    save_views(two_coloured(orbit(size=SIZE)), folder)
    return folder


def test_views_become_an_asset(folder: Path, tmp_path: Path) -> None:
    formats = ("glb", "obj", "ply", "splat", "spz", "compressed", "splats-glb", "sog", "html")
    settings = ReconstructSettings(formats=formats)
    asset = pipeline.reconstruct(folder, tmp_path, settings)
    assert asset.folder == tmp_path / "ball"
    files = {p.name for p in asset.folder.iterdir() if p.is_file()}
    assert {"report.json", "preview.png", "mesh.glb", "mesh.obj", "splats.ply", "splats.splat"} <= files
    assert {"views.mp4", "turntable.mp4", "transforms.json", "viewer.html"} <= files
    for name in ("splats.splat", "splats.spz", "splats.compressed.ply", "splats.glb", "splats.sog"):
        assert len(read_splats(asset.folder / name).splats) == len(asset.splats or ())
    assert not [p for p in asset.folder.rglob(".*.*") if p.is_file()]  # no temporary file is left

    assert asset.splats is not None
    assert asset.mesh is not None
    truth = asset.views
    with torch.no_grad():
        splats = splat_renderer(asset.splats)(truth.cameras)
    assert (splats - truth.rgb).square().mean() < 0.01
    radius = asset.mesh.vertices.norm(dim=-1)
    assert (radius - RADIUS).abs().mean() < 0.05
    assert len(asset.mesh.faces) <= 300
    rendered = render(asset.mesh, truth.cameras).rgb
    assert (rendered - truth.rgb).square().mean() < 0.02
    front = render(asset.mesh, orbit(1, size=SIZE)).rgb[0, SIZE // 2, SIZE // 2]
    assert front[0] > front[2]  # the red side is in front

    report = json.loads((asset.folder / "report.json").read_text())
    assert set(report["stages"]) == {"views", "hull", "splats", "surface", "mesh", "export", "preview"}
    assert report["stages"]["mesh"]["silhouette_iou"] > 0.9
    assert report["warnings"] == []

    (asset.folder / "mesh.png").unlink()  # the texture of mesh.obj
    again = pipeline.reconstruct(folder, tmp_path, settings)
    assert reused(again) == {name: name != "export" for name in report["stages"]}
    assert (asset.folder / "mesh.png").is_file()


def test_a_second_run_loads_and_gives_the_same(folder: Path, tmp_path: Path) -> None:
    first = pipeline.reconstruct(folder, tmp_path)
    assert not any(reused(first).values())
    second = pipeline.reconstruct(folder, tmp_path)
    assert all(reused(second).values())
    assert first.splats is not None and second.splats is not None
    assert torch.equal(first.splats.means, second.splats.means)
    assert first.mesh is not None and second.mesh is not None
    assert torch.equal(first.mesh.vertices, second.mesh.vertices)

    other = pipeline.reconstruct(folder, tmp_path, ReconstructSettings(faces=200, formats=("glb",)))
    assert reused(other) == {
        "views": True,
        "hull": True,
        "splats": True,
        "surface": True,
        "mesh": False,
        "preview": False,
    }
    assert other.mesh is not None
    assert len(other.mesh.faces) <= 200


def test_a_view_that_was_painted_over_is_painted_onto_the_mesh(folder: Path, tmp_path: Path) -> None:
    settings = ReconstructSettings(formats=("glb",))
    before = pipeline.reconstruct(folder, tmp_path, settings)
    file = before.folder / "views/000.png"
    pixels = np.array(Image.open(file))
    middle = slice(SIZE // 2 - 4, SIZE // 2 + 4)
    pixels[middle, middle, :3] = 0, 255, 0
    Image.fromarray(pixels).save(file)
    after = pipeline.reconstruct(folder, tmp_path, settings)
    assert reused(after) == {name: name not in ("mesh", "preview") for name in reused(before)}
    assert after.report["warnings"] == [
        "Changed by hand, and painted onto the mesh: views/000.png; "
        "the shape and the Gaussians stay as before."
    ]
    assert before.mesh is not None and after.mesh is not None
    assert before.mesh.uv is not None and after.mesh.uv is not None
    assert torch.equal(before.mesh.vertices, after.mesh.vertices)
    assert torch.equal(before.mesh.uv, after.mesh.uv)
    shown = render(after.mesh, orbit(1, size=SIZE)).rgb[0, SIZE // 2, SIZE // 2]
    assert (shown - torch.tensor([0.0, 1.0, 0.0])).abs().max() < 0.15
    assert all(reused(pipeline.reconstruct(folder, tmp_path, settings)).values())


def test_a_stopped_run_gives_what_an_undisturbed_one_gives(folder: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("splats", 20):
            raise KeyboardInterrupt

    settings = ReconstructSettings(until="splats")
    with pytest.raises(KeyboardInterrupt):
        pipeline.reconstruct(folder, tmp_path / "a", settings, on_progress=stop)
    assert not (tmp_path / "a/ball/splats.ply").exists()
    resumed = pipeline.reconstruct(folder, tmp_path / "a", settings)
    assert reused(resumed)["hull"]
    pipeline.reconstruct(folder, tmp_path / "b", settings)
    a, b = (tmp_path / name / "ball/splats.ply" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("until", ["views", "splats"])
def test_until(folder: Path, tmp_path: Path, until: str) -> None:
    asset = pipeline.reconstruct(folder, tmp_path, ReconstructSettings(until=until))  # type: ignore[arg-type]
    assert asset.mesh is None
    assert (asset.splats is None) == (until == "views")
    assert (asset.folder / "preview.png").is_file()
    assert not (asset.folder / "mesh.glb").exists()


def test_views_of_another_world_are_placed(tmp_path: Path) -> None:
    cameras = orbit(12, size=SIZE)
    centre = torch.tensor([3.0, -1.0, 7.0])
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] = c2w[:, :3, 3] * 4 + centre
    moved = Cameras(c2w, cameras.K, SIZE, SIZE)
    asset = pipeline.reconstruct(
        two_coloured(moved, 4.0, (3.0, -1.0, 7.0)), tmp_path / "run", ReconstructSettings(until="views")
    )
    placement = asset.report["stages"]["views"]["placement"]
    assert placement["scale"] == pytest.approx(0.25)
    assert placement["centre"] == pytest.approx([3.0, -1.0, 7.0], abs=1e-4)
    assert torch.allclose(asset.views.cameras.c2w, cameras.c2w, atol=1e-4)


def test_placement_leaves_the_orbit_alone_and_asks_for_a_focus() -> None:
    cameras = orbit(size=SIZE)
    assert place(cameras)[0] is cameras
    parallel = Cameras(cameras.c2w[:1].repeat(3, 1, 1), cameras.K[:3], SIZE, SIZE)
    assert place(parallel)[0] is parallel
    outward = cameras.c2w.clone()
    outward[:, :3, [0, 2]] *= -1
    assert place(Cameras(outward, cameras.K, SIZE, SIZE))[1].scale == 1


def test_views_need_not_be_square(tmp_path: Path) -> None:
    square = orbit(12, size=SIZE)
    K = square.K.clone()
    K[:, 0, 2] = 20.0
    cameras = Cameras(square.c2w, K, 40, SIZE)
    asset = pipeline.reconstruct(two_coloured(cameras), tmp_path, ReconstructSettings(seed=1))
    assert asset.mesh is not None
    assert asset.views.rgb.shape == (12, SIZE, 40, 3)
    radius = asset.mesh.vertices.norm(dim=-1) / asset.report["stages"]["views"]["placement"]["scale"]
    assert (radius - RADIUS).abs().mean() < 0.05


def test_a_photo_that_fills_its_frame_comes_back_as_it_was(tmp_path: Path) -> None:
    rgba = np.full((64, 64, 4), 255, np.uint8)
    rgba[..., :3] = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    rgba[:2, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "full.png")
    settings = GenerateSettings(until="views", recentre=False)
    asset = pipeline.generate(tmp_path / "full.png", tmp_path, settings)
    assert np.array_equal(np.asarray(Image.open(asset.folder / "photo.png")), rgba)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks(tmp_path: Path, value: float) -> None:
    alpha = torch.full((6, SIZE, SIZE), value)
    rgb = torch.full((6, SIZE, SIZE, 3), 0.5) * value + 1 - value
    with pytest.raises(V3DError) as caught:
        pipeline.reconstruct(Views(rgb, alpha, orbit(6, size=SIZE)), tmp_path)
    assert "\n" not in str(caught.value)


def test_results_never_replace_their_input(folder: Path) -> None:
    before = (folder / "transforms.json").read_bytes()
    for given in (folder, folder / "transforms.json"):
        with pytest.raises(V3DError, match="would replace"):
            pipeline.reconstruct(given, folder.parent)
    assert (folder / "transforms.json").read_bytes() == before


def test_the_photo_sharpens_the_texture(folder: Path, tmp_path: Path) -> None:
    """A photo with a fine pattern that the small views do not show."""
    large = two_coloured(orbit(1, size=192))
    columns = (torch.arange(192) // 4 % 2).float()[None, :, None]
    rgb = torch.where(large.rgb[0] < 0.99, large.rgb[0] * (0.5 + 0.5 * columns), large.rgb[0])
    rgba = torch.cat([rgb, large.alpha[0][..., None]], -1)
    Image.fromarray((rgba * 255).round().byte().numpy()).save(tmp_path / "photo.png")
    settings = ReconstructSettings(texture_size=256)
    plain = pipeline.reconstruct(folder, tmp_path / "a", settings)
    sharp = pipeline.reconstruct(folder, tmp_path / "b", settings, photo=tmp_path / "photo.png")
    assert sharp.report["warnings"] == []
    assert plain.mesh is not None and sharp.mesh is not None

    def contrast(asset: pipeline.Asset) -> float:
        assert asset.mesh is not None
        middle = render(asset.mesh, orbit(1, size=192)).rgb[0, 80:112, 70:122, 0]
        return float(middle.std())

    assert contrast(sharp) > 2 * contrast(plain)


def test_user_numbers_beat_the_preset() -> None:
    assert preset_of(ReconstructSettings(quality="high")).faces == PRESETS["high"].faces
    chosen = preset_of(ReconstructSettings(quality="draft", faces=123, texture_size=77))
    assert (chosen.faces, chosen.texture_size) == (123, 77)


def test_a_missing_photo_of_posed_views_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(V3DError, match=r"no photo .*none\.png"):
        pipeline.reconstruct(folder, tmp_path / "out", photo=tmp_path / "none.png")
    assert not (tmp_path / "out").exists()


def test_a_damaged_stage_is_made_again(folder: Path, tmp_path: Path) -> None:
    settings = ReconstructSettings(until="splats")
    asset = pipeline.reconstruct(folder, tmp_path, settings)
    ply = asset.folder / "splats.ply"
    whole = ply.read_bytes()
    ply.write_bytes(whole[:1000])
    write_json(asset.folder / "transforms.json", {"frames": []})
    hull = asset.folder / ".stages/hull.safetensors"
    hull.write_bytes(hull.read_bytes()[:1000])
    again = pipeline.reconstruct(folder, tmp_path, settings)
    assert reused(again) == {"views": False, "hull": False, "splats": False, "export": True, "preview": True}
    assert ply.read_bytes() == whole


def test_photos_that_do_not_exist_are_left_out_with_a_warning(folder: Path, tmp_path: Path) -> None:
    capture = tmp_path / "given/ball"
    shutil.copytree(folder, capture)
    (capture / "views/003.png").unlink()
    asset = pipeline.reconstruct(capture, tmp_path / "out", ReconstructSettings(until="views"))
    assert len(asset.views) == len(load_views(folder)) - 1
    (warning,) = asset.report["warnings"]
    assert "003.png" in warning
    kept = json.loads((capture / "transforms.json").read_text())
    kept["frames"] = [frame for frame in kept["frames"] if frame["file_path"] != "views/003.png"]
    write_json(capture / "transforms.json", kept)
    again = pipeline.reconstruct(capture, tmp_path / "out", ReconstructSettings(until="views"))
    assert all(reused(again).values()) and again.report["warnings"] == []  # the views are what they were
