"""From photos to assets, with the weights that ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shapes import box_mesh, reused
from v3d.cameras import around, orbit
from v3d.capture.readers import load_views
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.framing import frame_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render
from v3d.metrics import mask_iou
from v3d.objects import build, pipeline, stages
from v3d.settings import GenerateSettings
from v3d.splats.rasterize import splat_renderer

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[:90, :120] + 0.5
    rgba = np.zeros((90, 120, 4), np.uint8)
    rgba[np.hypot(x - 60, y - 45) < 30] = (200, 60, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "cup.png")
    return tmp_path / "cup.png"


def test_a_photo_becomes_an_orbit(photo: Path, tmp_path: Path) -> None:
    settings = GenerateSettings(until="views", seed=3)
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


def box() -> Mesh:
    """A box that is framed as a photo is: the front as tall as the law says, the sides nearer and taller."""
    mesh = box_mesh(0.3, 0.5, 0.6)
    return replace(mesh, vertices=frame_mesh(mesh.vertices, orbit()))


@pytest.fixture
def four_photos(tmp_path: Path) -> dict[float, Path]:
    """The sides of a box in four colours, each photographed on its own: other scales, other places."""
    mesh = box()
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
    settings = GenerateSettings(until="views")
    asset = pipeline.generate(dict(reversed(four_photos.items())), tmp_path / "out", settings)
    assert asset.folder == tmp_path / "out/front"
    expected = sorted([20.0 * i for i in range(18)] + [90.0, 270.0])
    assert torch.allclose(asset.views.cameras.c2w, around(expected).c2w, atol=1e-5)
    for azimuth, name in zip(four_photos, ("photo", "photo_90", "photo_180", "photo_270"), strict=True):
        framed = torch.from_numpy(np.array(Image.open(asset.folder / f"{name}.png"))) / 255
        v = expected.index(azimuth)
        given = OrbitPhotos((framed,)).as_views(asset.views.cameras.width)
        assert float((asset.views.rgb[v] - given.rgb[0]).abs().max()) < 0.01
        true = render(box(), around((azimuth,), size=given.alpha.shape[-1])).alpha
        assert float(mask_iou(given.alpha > 0.5, true > 0.5)) > 0.9, azimuth
    assert not asset.report["warnings"]
    again = pipeline.generate(four_photos, tmp_path / "out", settings)
    assert all(reused(again).values())
    three = pipeline.generate({a: p for a, p in four_photos.items() if a < 200}, tmp_path / "out", settings)
    assert not reused(three)["photo"] and not reused(three)["views"] and len(three.views) == 19


def test_four_photos_shape_and_colour_the_asset(four_photos: dict[float, Path], tmp_path: Path) -> None:
    asset = pipeline.generate(four_photos, tmp_path / "out", GenerateSettings())
    assert asset.mesh is not None
    views = load_views(asset.folder)
    for azimuth in four_photos:
        v = int(torch.cdist(views.cameras.centers, around((azimuth,)).centers).argmin())
        seen = render(asset.mesh, views.cameras[v])
        assert float(mask_iou(seen.alpha > 0.5, views.alpha[[v]] > 0.5)) > 0.8  # a coarse hull
        inside = (views.alpha[v] > 0.99) & (seen.alpha[0] > 0.99)
        error = (seen.rgb[0] - views.rgb[v])[inside].abs().mean()
        assert float(error) < 0.06, azimuth


def test_a_photo_from_above_gives_an_upright_orbit_at_its_height(photo: Path, tmp_path: Path) -> None:
    settings = GenerateSettings(until="views", elevation=20.0)
    asset = pipeline.generate(photo, tmp_path / "out", settings)
    assert torch.allclose(asset.views.cameras.c2w, orbit(18, elevation=20.0).c2w, atol=1e-5)
    with pytest.raises(V3DError, match=r"elevation is a number from -90 to 90, .* not 90"):
        pipeline.generate(photo, tmp_path / "other", replace(settings, elevation=90.0))
    assert not (tmp_path / "other").exists()


def test_views_of_the_mini_model_shape_the_asset_by_their_outlines_alone(photo: Path, tmp_path: Path) -> None:
    asset = pipeline.generate(photo, tmp_path / "out", GenerateSettings())
    assert asset.mesh is not None and asset.splats is not None
    assert "mesh" in asset.report["stages"] and "surface" not in asset.report["stages"]
    assert list(asset.report["stages"])[-4:] == ["mesh", "splats", "export", "preview"]
    truth = build.rendered_views(asset.mesh, orbit(6, size=64, elevation=30.0))
    error = (splat_renderer(asset.splats)(truth.cameras) - truth.rgb).abs().mean()
    assert float(error) < 0.05  # the Gaussians are made of the mesh
    stopped = pipeline.generate(photo, tmp_path / "out", GenerateSettings(until="splats"))
    assert all(reused(stopped).values())


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


def test_a_cut_out_is_kept_and_can_be_given_back(photo: Path, tmp_path: Path) -> None:
    settings = GenerateSettings(until="views")
    asset = pipeline.generate({0: photo, 90: photo}, tmp_path / "out", settings)
    cutout = np.asarray(Image.open(asset.folder / "cutout.png"))
    assert np.array_equal(cutout, np.asarray(Image.open(photo)))  # the whole photo, straight alpha
    assert (asset.folder / "cutout_90.png").is_file()
    corrected = cutout.copy()
    corrected[:45] = 0  # without its upper half
    Image.fromarray(corrected).save(tmp_path / "mask.png")
    again = pipeline.generate({0: photo, 90: photo}, tmp_path / "out", settings, masks=tmp_path / "mask.png")
    assert reused(again) == {"photo": False, "views": False, "preview": False}
    assert again.report["stages"]["photo"]["foreground"] == {
        "photo.png": "mask",
        "photo_90.png": "alpha of the file",
    }
    kept = np.asarray(Image.open(again.folder / "cutout.png"))[..., 3]
    assert np.array_equal(kept, corrected[..., 3])
    with pytest.raises(V3DError, match="for a photo at 45 degrees, but there is none"):
        pipeline.generate(photo, tmp_path / "out", settings, masks={45: tmp_path / "mask.png"})


def test_another_way_to_cut_out_makes_the_photo_anew(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GenerateSettings(until="views")
    pipeline.generate(photo, tmp_path / "out", settings)
    monkeypatch.setattr(stages, "method_key", lambda: "a matting model that was installed since")
    again = pipeline.generate(photo, tmp_path / "out", settings)
    assert reused(again) == {"photo": False, "views": False, "preview": False}
