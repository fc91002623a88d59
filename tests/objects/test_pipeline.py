"""The real pipeline on tiny settings: 48-pixel views of a two-coloured ball."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from shapes import ball_views, box_mesh
from v3d.cameras import Cameras, above_and_below, around, orbit
from v3d.capture.readers import load_views
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.files import write_json
from v3d.meshes.rendering import Light, render
from v3d.metrics import mask_iou
from v3d.objects import pipeline, stages
from v3d.objects.presets import PRESETS, preset_of
from v3d.placement import place
from v3d.settings import GenerateSettings, ReconstructSettings
from v3d.splats.rasterize import splat_renderer
from v3d.views import Views, save_views

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


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    draft, standard = PRESETS["draft"], PRESETS["standard"]
    assert standard.surface is not None
    assert standard.refine is not None
    tiny = replace(
        standard,
        view_size=SIZE,
        hull=32,
        gaussians=400,
        splats=replace(draft.splats, iterations=80),
        perceptual=False,
        surface=replace(
            standard.surface,
            levels=tuple(replace(level, steps=10) for level in standard.surface.levels),
            image_size=SIZE,
            rays=256,
        ),
        faces=300,
        texture_size=64,
        refine=replace(standard.refine, sweeps=1),
        turntable=64,
    )
    monkeypatch.setitem(PRESETS, "standard", tiny)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "ball"
    save_views(two_coloured(orbit(size=SIZE)), folder)
    return folder


def reused(asset: pipeline.Asset) -> dict[str, bool]:
    return {name: record["reused"] for name, record in asset.report["stages"].items()}


def test_views_become_an_asset(folder: Path, tmp_path: Path) -> None:
    settings = ReconstructSettings(formats=("glb", "obj", "ply", "splat"))
    asset = pipeline.reconstruct(folder, tmp_path, settings)
    assert asset.folder == tmp_path / "ball"
    files = {p.name for p in asset.folder.iterdir() if p.is_file()}
    assert {"report.json", "preview.png", "mesh.glb", "mesh.obj", "splats.ply", "splats.splat"} <= files
    assert {"views.mp4", "turntable.mp4", "transforms.json"} <= files
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
    settings = GenerateSettings(until="views", steps=1, recentre=False)
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


# From a photo, with the weights that ship


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[:90, :120] + 0.5
    rgba = np.zeros((90, 120, 4), np.uint8)
    rgba[np.hypot(x - 60, y - 45) < 30] = (200, 60, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "cup.png")
    return tmp_path / "cup.png"


def test_a_photo_becomes_an_orbit(photo: Path, tmp_path: Path) -> None:
    settings = GenerateSettings(until="views", steps=2, seed=3)
    asset = pipeline.generate(photo, tmp_path / "out", settings)
    assert asset.folder == tmp_path / "out/cup"
    assert len(asset.views) == 18
    assert torch.equal(load_views(asset.folder).rgb, asset.views.rgb)
    assert torch.allclose(asset.views.cameras.c2w, orbit().c2w)
    framed = np.asarray(Image.open(asset.folder / "photo.png"))
    rows = np.nonzero(framed[..., 3].max(1) > 127)[0]
    assert (rows[-1] + 1 - rows[0]) / len(framed) == pytest.approx(0.7, abs=0.02)
    assert asset.report["stages"]["photo"]["foreground"] == {"photo.png": "alpha of the file"}
    assert asset.report["stages"]["views"]["model"]["name"] == "mini"
    again = pipeline.generate(photo, tmp_path / "out", settings)
    assert all(reused(again).values())
    other = pipeline.generate(photo, tmp_path / "out", replace(settings, seed=4))
    assert reused(other) == {"photo": True, "views": False, "preview": False}


@pytest.fixture
def four_photos(tmp_path: Path) -> dict[float, Path]:
    """The sides of a box in four colours, each photographed on its own: other scales, other places."""
    mesh = box_mesh(0.3, 0.5, 0.6)
    sides = around((0, 90, 180, 270), size=160)
    views = render(mesh, sides, light=Light(torch.tensor([1.0, 0.6, 1.2]), 0.7))
    paths = {}
    for i, name in enumerate(("front", "left", "back", "right")):
        colour = 0.5 + 0.5 * torch.rand(3, generator=torch.Generator().manual_seed(i))
        rgba = torch.cat([views.rgb[i] * colour, views.alpha[i, ..., None]], -1)
        side = 100 + 20 * i
        image = Image.fromarray((rgba * 255).round().to(torch.uint8).numpy()).resize((side, side))
        canvas = Image.new("RGBA", (240, 220))
        canvas.paste(image, (10 * i, 5 * i))
        paths[90.0 * i] = tmp_path / f"{name}.png"
        canvas.save(paths[90.0 * i])
    return paths


def test_four_photos_are_what_their_views_show(four_photos: dict[float, Path], tmp_path: Path) -> None:
    settings = GenerateSettings(until="views", steps=0, elevation=0.0)
    asset = pipeline.generate(dict(reversed(four_photos.items())), tmp_path / "out", settings)
    assert asset.folder == tmp_path / "out/front"
    expected = sorted([20.0 * i for i in range(18)] + [90.0, 270.0])
    assert torch.allclose(asset.views.cameras.c2w, around(expected).c2w, atol=1e-5)
    for azimuth, name in zip(four_photos, ("photo", "photo_90", "photo_180", "photo_270"), strict=True):
        framed = torch.from_numpy(np.array(Image.open(asset.folder / f"{name}.png"))) / 255
        v = expected.index(azimuth)
        given = OrbitPhotos((framed,)).as_views(asset.views.cameras.width)
        assert float((asset.views.rgb[v] - given.rgb[0]).abs().max()) < 0.01
        tall = (given.alpha[0] > 0.5).any(1).sum() / given.alpha.shape[-1]
        assert float(tall) == pytest.approx(0.7, abs=0.03)  # the box is as high from every side
    assert not asset.report["warnings"]
    again = pipeline.generate(four_photos, tmp_path / "out", settings)
    assert all(reused(again).values())
    three = pipeline.generate({a: p for a, p in four_photos.items() if a < 200}, tmp_path / "out", settings)
    assert not reused(three)["photo"] and not reused(three)["views"] and len(three.views) == 19


def test_four_photos_shape_and_colour_the_asset(four_photos: dict[float, Path], tmp_path: Path) -> None:
    asset = pipeline.generate(four_photos, tmp_path / "out", GenerateSettings(steps=0))
    assert asset.mesh is not None
    views = load_views(asset.folder)
    for azimuth in four_photos:
        v = int(torch.cdist(views.cameras.centers, around((azimuth,)).centers).argmin())
        seen = render(asset.mesh, views.cameras[v])
        assert float(mask_iou(seen.alpha > 0.5, views.alpha[[v]] > 0.5)) > 0.85
        inside = (views.alpha[v] > 0.99) & (seen.alpha[0] > 0.99)
        error = (seen.rgb[0] - views.rgb[v])[inside].abs().mean()
        assert float(error) < 0.06, azimuth


def test_a_photo_from_above_gives_an_upright_orbit_at_its_height(photo: Path, tmp_path: Path) -> None:
    settings = GenerateSettings(until="views", steps=0, elevation=20.0)
    asset = pipeline.generate(photo, tmp_path / "out", settings)
    assert torch.allclose(asset.views.cameras.c2w, orbit(18, elevation=20.0).c2w, atol=1e-5)
    with pytest.raises(V3DError, match="elevation is 90"):
        pipeline.generate(photo, tmp_path / "other", replace(settings, elevation=90.0))
    assert not (tmp_path / "other").exists()


def test_views_of_the_mini_model_shape_the_asset_by_their_outlines_alone(photo: Path, tmp_path: Path) -> None:
    asset = pipeline.generate(photo, tmp_path / "out", GenerateSettings(steps=0))
    assert asset.mesh is not None and asset.splats is not None
    assert "mesh" in asset.report["stages"] and "surface" not in asset.report["stages"]
    above = load_views(asset.folder / "above")
    assert (
        torch.equal(above.cameras.c2w, above_and_below(128).c2w)
        and float(above.alpha.amax((1, 2)).min()) > 0.5
    )
    (asset.folder / "above/views/003.png").unlink()
    again = pipeline.generate(photo, tmp_path / "out", GenerateSettings(steps=0))
    assert reused(again) == {name: name != "above" for name in asset.report["stages"]}


def test_unusable_photos_and_models(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="no photo"):
        pipeline.generate(tmp_path / "none.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(V3DError, match="nowhere"):
        pipeline.generate(photo, tmp_path / "out", GenerateSettings(model=str(tmp_path / "nowhere")))
    assert not (tmp_path / "out").exists()  # the weights are looked at before anything is written
    if not torch.cuda.is_available():
        with pytest.raises(V3DError, match="no CUDA device"):
            pipeline.generate(photo, tmp_path / "out", GenerateSettings(device="cuda"))


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


def test_another_way_to_cut_out_makes_the_photo_anew(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GenerateSettings(until="views", steps=0)
    pipeline.generate(photo, tmp_path / "out", settings)
    monkeypatch.setattr(stages, "method_key", lambda: "a matting model that was installed since")
    again = pipeline.generate(photo, tmp_path / "out", settings)
    assert reused(again) == {"photo": False, "views": False, "preview": False}


def test_other_steps_keep_what_does_not_depend_on_them(photo: Path, tmp_path: Path) -> None:
    """Views from above are PixelNeRF's alone, so another number of sampler steps leaves them as they are."""
    settings = GenerateSettings(until="splats", steps=0, formats=("ply",))
    pipeline.generate(photo, tmp_path / "out", settings)
    again = pipeline.generate(photo, tmp_path / "out", replace(settings, steps=1))
    assert reused(again)["above"] and not reused(again)["views"]


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
