"""Posed photos of every format: `v3d.capture.readers` and the formats' own modules."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from posed_folders import (
    EXACT,
    EYES,
    LENSES,
    POINTS,
    H,
    W,
    co3d_folder,
    colmap_folder,
    draw,
    offsets,
    poses,
    shown,
    transforms_folder,
)

from v3d.cameras import OPENCV_OPENGL, Cameras, intrinsics, look_at
from v3d.capture import co3d
from v3d.capture.posed import PosedPhoto
from v3d.capture.readers import (
    common_size,
    find_photos,
    load_scene_views,
    load_views,
    read_scene_views,
)
from v3d.compositing import off_white
from v3d.errors import V3DError
from v3d.views import Views, save_views


def check(path: Path, tolerance: float = EXACT, max_size: int | None = None) -> None:
    views = load_scene_views(path, max_size=max_size)
    assert len(views) == 3
    torch.testing.assert_close(views.cameras.centers, torch.tensor(EYES).float(), atol=1e-5, rtol=0)
    assert offsets(views).max() < tolerance
    assert bool((views.alpha == 1).all())
    assert float(views.rgb[:, 0, 0].max()) < 0.2  # the plain background was not cut out


# Every format: known points are seen where the cameras that were read see them.


def test_transforms(tmp_path: Path) -> None:
    check(transforms_folder(tmp_path))
    check(tmp_path / "transforms.json")


def test_transforms_masks_are_ignored(tmp_path: Path) -> None:
    transforms_folder(tmp_path, mask_path="images/0.png")
    check(tmp_path)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("model", LENSES)
def test_colmap_cameras(tmp_path: Path, model: str, binary: bool) -> None:
    check(colmap_folder(tmp_path, model, binary=binary))


@pytest.mark.parametrize("at", [".", "sparse", "sparse/0", "colmap/sparse/0"])
@pytest.mark.parametrize("images", ["images", "."])
def test_colmap_places(tmp_path: Path, at: str, images: str) -> None:
    check(colmap_folder(tmp_path / "scene", at=at, images=images))
    check(tmp_path / "scene" / at)


@pytest.mark.parametrize("kind", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_co3d(tmp_path: Path, kind: str) -> None:
    check(co3d_folder(tmp_path, kind=kind))


def test_co3d_category_of_one_sequence(tmp_path: Path) -> None:
    co3d_folder(tmp_path, others=0)
    check(tmp_path / "hydrant")


def test_co3d_entries_that_end_within_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(co3d, "_BLOCK", 100)
    check(co3d_folder(tmp_path))


def test_reconstruction_written_by_colmap(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction()
    for i, (pose, name) in enumerate(zip(poses(), LENSES, strict=False)):
        camera = pycolmap.Camera(camera_id=i + 1, model=name, width=W, height=H, params=list(LENSES[name][1]))
        rotation = np.stack([pose.right, -pose.up, pose.forward])
        motion = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ pose.eye)
        model.add_camera_with_trivial_rig(camera)
        model.add_image_with_trivial_frame(
            pycolmap.Image(name=f"{i}.png", camera_id=i + 1, image_id=i + 1), motion
        )
        draw(
            tmp_path / f"images/{i}.png",
            np.stack([camera.img_from_cam(motion * p) for p in POINTS]).reshape(-1, 2),
        )
    for kind in ("bin", "txt"):
        place = tmp_path / kind / "sparse"
        place.mkdir(parents=True)
        (model.write_binary if kind == "bin" else model.write_text)(place)
        check(place)


def test_saved_views_come_back(tmp_path: Path) -> None:
    views = load_scene_views(transforms_folder(tmp_path / "a"), max_size=None)
    save_views(views, tmp_path / "b")
    again = load_scene_views(tmp_path / "b", max_size=None)
    assert (again.rgb - views.rgb).abs().max() < 0.5001 / 255
    assert torch.equal(again.alpha, views.alpha)
    assert torch.equal(again.cameras.c2w, views.cameras.c2w) and torch.equal(again.cameras.K, views.cameras.K)


# Sizes, lenses, alpha


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_reading_at_a_smaller_size(tmp_path: Path, model: str) -> None:
    colmap_folder(tmp_path, model)
    views = load_scene_views(tmp_path, max_size=80)
    assert views.rgb.shape == (3, 60, 80, 3)
    assert offsets(views).max() < 0.15


def test_the_camera_follows_photos_that_were_reduced(tmp_path: Path) -> None:
    colmap_folder(tmp_path)
    for file in (tmp_path / "images").iterdir():
        image = Image.open(file)
        image.resize((W // 2, H // 2), Image.Resampling.BOX).save(file)
    views = load_scene_views(tmp_path, max_size=None)
    assert views.rgb.shape == (3, H // 2, W // 2, 3)
    assert offsets(views).max() < EXACT


@pytest.mark.parametrize("load", [load_views, load_scene_views])
def test_sizes_and_lenses_of_their_own(tmp_path: Path, load: Callable[[Path], Views]) -> None:
    """Photos of nearly one shape come to a common size and keep their points."""
    transforms_folder(tmp_path)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    sizes, focals = [(160, 120), (200, 140), (170, 128)], [180.0, 230.0, 200.0]
    for i, (pose, (w, h), focal) in enumerate(zip(poses(), sizes, focals, strict=True)):
        draw(tmp_path / f"images/{i}.png", pose.plane(POINTS) * focal + (w / 2, h / 2), w, h)
        meta["frames"][i] |= {"w": w, "h": h, "fl_x": focal}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    views = load(tmp_path)
    assert views.rgb.shape == (3, 120, 160, 3)
    assert offsets(shown(views)).max() < 0.15
    assert len({round(f, 3) for f in views.cameras.K[:, 0, 0].tolist()}) == 3


def test_common_size() -> None:
    assert common_size([(4032, 3024)] * 3, 512) == (512, 384)
    assert common_size([(640, 480), (320, 240)], None) == (320, 240)
    assert common_size([(100, 100), (110, 100), (215, 220)], None) == (100, 100)
    with pytest.raises(V3DError, match="640 x 480 and 480 x 640"):
        common_size([(640, 480), (480, 640)], None)


def test_what_a_pincushion_lens_did_not_see_is_left_out(tmp_path: Path) -> None:
    """The photo is bright everywhere: so must be the view."""
    colmap_folder(tmp_path, "SIMPLE_RADIAL", binary=False)
    cameras = tmp_path / "sparse/0/cameras.txt"
    cameras.write_text(cameras.read_text().replace("-0.3", "0.6"))
    for file in (tmp_path / "images").iterdir():
        Image.new("RGB", (W, H), (200, 200, 200)).save(file)
    views = load_scene_views(tmp_path, max_size=None)
    assert float(views.rgb.min()) > 0.78
    assert float(views.cameras.K[0, 0, 0]) > 178.5


def test_alpha_of_the_files_is_kept_on_white(tmp_path: Path) -> None:
    transforms_folder(tmp_path)
    for file in (tmp_path / "images").iterdir():
        image = Image.open(file).convert("RGBA")
        image.paste((255, 0, 0, 0), (0, 0, W, 40))
        image.save(file)
    views = load_scene_views(tmp_path, max_size=None)
    assert bool((views.rgb[:, :40] == 1).all()) and bool((views.alpha[:, :40] == 0).all())
    assert bool((views.alpha[:, 40:] == 1).all())


def test_orientation_tags_are_ignored_where_the_stored_pixels_fit(tmp_path: Path) -> None:
    """COLMAP finds cameras for the pixels as stored; photos that fit only turned are turned."""
    colmap_folder(tmp_path / "stored")
    colmap_folder(tmp_path / "turned")
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        stored = tmp_path / f"stored/images/{i}.png"
        image = Image.open(stored)
        image.save(stored, exif=exif)
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"turned/images/{i}.png", exif=exif)
    check(tmp_path / "stored")
    check(tmp_path / "turned")


def test_photos_can_be_chosen_before_they_are_read(tmp_path: Path) -> None:
    photos = find_photos(colmap_folder(tmp_path)).photos
    (tmp_path / "images/1.png").unlink()
    views = read_scene_views([photos[2], photos[0]], max_size=64)
    torch.testing.assert_close(views.cameras.centers, torch.tensor(EYES[[2, 0]]))


# Objects: every format gives the views of the same photos in a transforms.json.


def as_transforms(photos: Sequence[PosedPhoto], folder: Path) -> Path:
    """The photos, as they are, listed in a transforms.json."""
    frames = []
    for photo in photos:
        lens, matrix = photo.lens, photo.c2w @ OPENCV_OPENGL
        frame = {
            "file_path": str(photo.file),
            "transform_matrix": matrix.tolist(),
            "w": lens.width,
            "h": lens.height,
        }
        frame |= {"fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy}
        frame |= dict(zip(("k1", "k2", "p1", "p2"), lens.distortion, strict=False))
        frames.append(frame if photo.mask is None else frame | {"mask_path": str(photo.mask)})
    folder.mkdir()
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return folder


def disc(width: int = W, height: int = H) -> np.ndarray:
    """Coverage of an object in the middle, soft at its edge."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.asarray(np.clip(0.3 * height - np.hypot(columns - width / 2, rows - height / 2), 0, 1))


def alpha_of_its_own(file: Path) -> None:
    rgb = np.asarray(Image.open(file).convert("RGB"))
    Image.fromarray(np.dstack([rgb, (disc() * 255).round().astype(np.uint8)])).save(file)


@pytest.mark.parametrize("max_size", [None, 80])
@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_objects_of_colmap(tmp_path: Path, model: str, max_size: int | None) -> None:
    folder = colmap_folder(tmp_path / "colmap", model)
    for file in (folder / "images").iterdir():
        alpha_of_its_own(file)
    views = load_views(folder, max_size=max_size)
    same(views, load_views(as_transforms(find_photos(folder).photos, tmp_path / "t"), max_size=max_size))
    assert views.alpha.amax() == 1 and views.alpha.amin() == 0
    assert abs(float(views.alpha.mean()) - disc().mean()) < 0.01
    assert bool((views.rgb[views.alpha == 0] == 1).all())


def test_objects_of_co3d_have_its_masks(tmp_path: Path) -> None:
    folder = co3d_folder(tmp_path, masks=disc())
    views = load_views(folder)
    same(views, load_views(as_transforms(find_photos(folder).photos, tmp_path / "t")))
    assert np.abs(views.alpha.numpy() - disc()).max() <= 0.5001 / 255
    assert bool((load_scene_views(folder).alpha == 1).all())  # a scene has no outside
    next((folder / "masks").iterdir()).unlink()
    with pytest.raises(V3DError, match=r"The mask .*frame\d+\.png of the photo frame\d+\.jpg does not exist"):
        load_views(folder)


def same(a: Views, b: Views) -> None:
    for left, right in ((a.rgb, b.rgb), (a.alpha, b.alpha), (a.cameras.K, b.cameras.K)):
        assert torch.equal(left, right)
    torch.testing.assert_close(a.cameras.c2w, b.cameras.c2w, atol=1e-6, rtol=0)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_masks_of_another_size(tmp_path: Path, factor: float) -> None:
    """A mask may be smaller or larger than its photo, if it has the photo's shape."""
    folder = transforms_folder(tmp_path, mask_path="mask.png")
    mask = Image.fromarray((disc() * 255).round().astype(np.uint8))
    mask.resize((round(W * factor), round(H * factor)), Image.Resampling.BILINEAR).save(folder / "mask.png")
    for max_size, truth in ((None, disc()), (80, disc(80, 60))):
        alpha = load_views(folder, max_size=max_size).alpha.numpy()
        assert np.abs(alpha - truth).max() < 0.4 and np.abs(alpha - truth).mean() < 0.01
    mask.resize((W, H + 9)).save(folder / "mask.png")
    with pytest.raises(V3DError, match=r"mask\.png and .* differ in shape"):
        load_views(folder)


def test_a_plain_background_is_cut_out_before_distortion_is_removed(tmp_path: Path) -> None:
    """Rims that a lens did not see are empty, and do not make the photo one with alpha of its own."""
    folder = colmap_folder(tmp_path, "SIMPLE_RADIAL", binary=False)
    cameras = folder / "sparse/0/cameras.txt"
    cameras.write_text(cameras.read_text().replace("-0.3", "0.6"))
    inside = disc()[..., None]
    for file in (folder / "images").iterdir():
        Image.fromarray((255 - inside * (55, 200, 200)).astype(np.uint8)).save(file)
    views = load_views(folder)
    assert bool((views.alpha[:, :4] == 0).all()) and bool((views.rgb[:, :4] == 1).all())
    assert bool((views.alpha[:, H // 2, W // 2] == 1).all())
    assert float(views.cameras.K[0, 0, 0]) == 178.0


def test_hidden_colours_do_not_bleed_where_distortion_is_removed(tmp_path: Path) -> None:
    """An even red object on hidden green stays red up to its edge."""
    folder = colmap_folder(tmp_path, "SIMPLE_RADIAL")
    inside = disc()[..., None] > 0.5
    rgba = np.where(inside, (255, 0, 0, 255), (0, 255, 0, 0)).astype(np.uint8)
    for file in (folder / "images").iterdir():
        Image.fromarray(rgba).save(file)
    views = load_views(folder)
    edge = (views.alpha > 0.2) & (views.alpha < 0.8)
    straight = off_white(views.rgb, views.alpha)[edge]
    assert len(straight) > 50
    torch.testing.assert_close(straight, torch.tensor([1.0, 0, 0]).expand_as(straight), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_cameras_of_raw_photos_are_found(tmp_path: Path) -> None:
    """Photos of two walls in a corner: the cameras come out as they stood, up to a similarity."""
    pytest.importorskip("pycolmap")
    count, width, height = 5, 320, 240
    phi = torch.deg2rad(torch.arange(count) * 7.0 - 17.0)
    eyes = torch.stack([2.5 * phi.sin(), -2.5 * phi.cos(), 0.3 + 0.1 * (torch.arange(count) % 3)], -1)
    K = intrinsics(50.0, width, height).repeat(count, 1, 1)
    truth = Cameras(look_at(eyes, (0.0, 0.3, 0.0)), K, width, height)
    origins, directions = truth.rays()
    noise = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    texture = (noise + torch.nn.functional.avg_pool2d(noise, 7, 1, 3)).clamp(0.6, 1.4) - 0.4
    layers, depths = [], []
    for wall, normal in zip(texture, ([-0.6, 0.8, 0.0], [0.6, 0.8, 0.0]), strict=True):
        n = torch.tensor(normal)
        along = torch.linalg.cross(n, torch.tensor([0.0, 0.0, 1.0]))
        depth = (0.8 - (origins @ n)) / (directions @ n)
        point = origins + depth[..., None] * directions
        grid = torch.stack([point @ along, point[..., 2]], -1) / 2
        layers.append(
            torch.nn.functional.grid_sample(wall.expand(count, -1, -1, -1), grid, align_corners=False)
        )
        depths.append(torch.where(depth > 0, depth, torch.inf))
    nearer = torch.where((depths[0] < depths[1])[:, None], layers[0], layers[1])
    photos = nearer.permute(0, 2, 3, 1)
    for i, photo in enumerate(photos):
        Image.fromarray((photo * 255).byte().numpy()).save(tmp_path / f"{i}.png")
    noise = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(1))
    Image.fromarray((noise * 255).byte().numpy()).save(tmp_path / "other.png")
    capture = find_photos(tmp_path)
    assert capture.notes == (
        "1 of the 6 photos do not fit to the others and are left out, other.png among them.",
    )
    assert capture.points is not None and len(capture.points) > 50
    again = find_photos(tmp_path)  # the same to the bit, so that a run goes on where it stopped
    for one, other in zip(capture.photos, again.photos, strict=True):
        assert torch.equal(one.c2w, other.c2w) and one.lens == other.lens
    found = capture.photos
    assert [photo.file.name for photo in found] == [f"{i}.png" for i in range(count)]
    a = torch.stack([photo.c2w for photo in found])
    turn = truth.c2w[:, :3, :3].double() @ a[:, :3, :3].mT  # one turn for all
    away = (turn @ turn[0].T - torch.eye(3)).flatten(1).norm(dim=-1)
    assert float(away.max()) < 0.02
    spans = [torch.cdist(c.double(), c.double()) for c in (a[:, :3, 3], eyes)]
    ratio = spans[0] / spans[0].sum() - spans[1] / spans[1].sum()
    assert float(ratio.abs().max() * count) < 0.005
    assert found[0].lens.fx == pytest.approx(K[0, 0, 0].item(), rel=0.1)
