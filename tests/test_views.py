from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from shapes import ball_views
from v3d.cameras import Cameras, cat_cameras, intrinsics, look_at, orbit
from v3d.capture.readers import load_views
from v3d.errors import V3DError
from v3d.views import Views, save_views


def ball(count: int = 5, size: int = 48) -> Views:
    return ball_views(orbit(count, size=size))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "transforms.json"
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))


def edit_frame(folder: Path, index: int, **changes: object) -> None:
    meta = json.loads((folder / "transforms.json").read_text())
    meta["frames"][index] |= changes
    edit(folder, frames=meta["frames"])


def test_round_trip_is_exact_to_eight_bits(tmp_path: Path) -> None:
    views = ball()
    save_views(views, tmp_path)
    loaded = load_views(tmp_path)
    assert (loaded.alpha - views.alpha).abs().max() <= 0.5001 / 255
    assert (loaded.rgb - views.rgb).abs().max() <= 1.01 / 255
    assert torch.equal(loaded.cameras.c2w, views.cameras.c2w)
    assert torch.equal(loaded.cameras.K, views.cameras.K)


def test_reduced_views_keep_their_aspect_and_square_pixels() -> None:
    square = ball(2, size=48)
    cameras = square.cameras
    K = cameras.K.clone()
    K[:, 0, 2] = 36
    rgb = torch.nn.functional.pad(square.rgb, (0, 0, 12, 12), value=1.0)
    wide = Views(rgb, torch.nn.functional.pad(square.alpha, (12, 12)), Cameras(cameras.c2w, K, 72, 48))
    small = wide.reduced(36)
    assert small.rgb.shape == (2, 24, 36, 3) and (small.cameras.width, small.cameras.height) == (36, 24)
    assert torch.equal(small.cameras.K[:, 0, 0], small.cameras.K[:, 1, 1])
    rows, columns = (small.alpha[0] > 0.5).any(1).sum(), (small.alpha[0] > 0.5).any(0).sum()
    assert rows == columns  # the ball is still round
    assert wide.reduced(72) is wide and wide.reduced(100) is wide  # never enlarged
    assert torch.equal(square.reduced(20).rgb, square.resized(20, 20).rgb)


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    alpha = torch.rand(2, 40, 40)
    rgb = torch.rand(2, 40, 40, 3) * alpha[..., None] + 1 - alpha[..., None]
    save_views(Views(rgb, alpha, orbit(2, size=40)), tmp_path / "a")
    save_views(load_views(tmp_path / "a"), tmp_path / "b")
    for name in ("views/000.png", "views/001.png", "transforms.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_fewer_views_leave_no_old_images(tmp_path: Path) -> None:
    save_views(ball(5), tmp_path)
    save_views(ball(3), tmp_path)
    assert len(list((tmp_path / "views").iterdir())) == 3
    assert len(load_views(tmp_path)) == 3


def test_cameras_of_their_own(tmp_path: Path) -> None:
    a, b = orbit(1, size=48), orbit(1, size=48, fov=30.0, azimuth=90.0)
    views = ball(2)
    views = Views(views.rgb, views.alpha, cat_cameras([a, b]))
    save_views(views, tmp_path)
    assert torch.equal(load_views(tmp_path).cameras.K, views.cameras.K)


def test_transforms_say_what_nerfstudio_expects(tmp_path: Path) -> None:
    """OpenGL camera-to-world: the camera looks along -z and its y axis points up."""
    save_views(ball(4), tmp_path)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    assert (meta["w"], meta["h"], meta["cx"], meta["cy"]) == (48, 48, 24.0, 24.0)
    assert meta["fl_x"] == pytest.approx(24 / math.tan(math.radians(30)))
    for frame in meta["frames"]:
        pose = np.array(frame["transform_matrix"])
        np.testing.assert_allclose(-pose[:3, 2], -pose[:3, 3] / 2, atol=1e-6)  # it looks at the origin
        np.testing.assert_allclose(pose[:3, 1], [0, 0, 1], atol=1e-6)
        assert (tmp_path / frame["file_path"]).is_file()
    assert np.asarray(Image.open(tmp_path / "views/000.png")).shape == (48, 48, 4)


def test_instant_ngp_folder(tmp_path: Path) -> None:
    """camera_angle_x, file names without a suffix, and the blender file name."""
    views = ball(3)
    save_views(views, tmp_path)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    frames = [f | {"file_path": "./" + f["file_path"].removesuffix(".png")} for f in meta["frames"]]
    (tmp_path / "transforms.json").unlink()
    (tmp_path / "transforms_train.json").write_text(
        json.dumps({"camera_angle_x": math.radians(60), "frames": frames})
    )
    loaded = load_views(tmp_path)
    assert torch.allclose(loaded.cameras.K, views.cameras.K)
    assert torch.equal(load_views(tmp_path / "transforms_train.json").rgb, loaded.rgb)


def test_opaque_images_on_a_plain_background_get_alpha(tmp_path: Path) -> None:
    views = ball()
    save_views(views, tmp_path)
    for i, rgb in enumerate(views.rgb):
        Image.fromarray((rgb * 255).round().byte().numpy()).save(tmp_path / f"views/{i:03d}.png")
    loaded = load_views(tmp_path)
    assert (loaded.alpha - views.alpha).abs().mean() < 0.02
    assert (loaded.rgb - views.rgb).abs().mean() < 0.01


def test_opaque_images_of_a_scene_stay_opaque(tmp_path: Path) -> None:
    save_views(ball(2), tmp_path)
    rng = np.random.default_rng(0)
    for i in range(2):
        noise = rng.integers(0, 255, (48, 48, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"views/{i:03d}.png")
    loaded = load_views(tmp_path)
    assert bool((loaded.alpha == 1).all())
    assert torch.equal((loaded.rgb[1] * 255).round().byte(), torch.from_numpy(noise))


def test_mask_files(tmp_path: Path) -> None:
    views = ball(2)
    save_views(views, tmp_path)
    for i in range(2):
        Image.fromarray((views.rgb[i] * 255).round().byte().numpy()).save(tmp_path / f"views/{i:03d}.png")
        Image.fromarray((views.alpha[i] * 255).round().byte().numpy()).save(tmp_path / f"mask{i}.png")
        edit_frame(tmp_path, i, mask_path=f"mask{i}.png")
    assert (load_views(tmp_path).alpha - views.alpha).abs().max() <= 0.5001 / 255


def test_reading_at_a_smaller_size(tmp_path: Path) -> None:
    views = ball(2, size=64)
    save_views(views, tmp_path)
    small = load_views(tmp_path, max_size=32)
    assert small.rgb.shape == (2, 32, 32, 3)
    reference = views.resized(32, 32)
    assert torch.allclose(small.cameras.K, reference.cameras.K)
    assert (small.alpha - reference.alpha).abs().mean() < 0.01


def test_lens_distortion_is_removed(tmp_path: Path) -> None:
    """A grid of dots seen through a lens lands where the pinhole camera puts it."""
    size = 480
    K = intrinsics(60.0, size, size)
    distortion = np.array([-0.25, 0.06, 0.002, -0.001, 0.0])
    x, y = np.meshgrid(np.linspace(-0.4, 0.4, 5), np.linspace(-0.4, 0.4, 5))
    points = np.stack([x.ravel(), y.ravel(), np.ones(25)], -1)
    seen, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K.double().numpy(), distortion)
    image = np.zeros((size, size, 4), np.uint8)
    rows, columns = np.mgrid[:size, :size]
    for u, v in seen[:, 0]:
        dot = np.clip(9.5 - np.hypot(columns + 0.5 - u, rows + 0.5 - v), 0, 1)
        image = np.maximum(image, (dot[..., None] * 255).round().astype(np.uint8))
    (tmp_path / "views").mkdir()
    Image.fromarray(image).save(tmp_path / "views/000.png")
    keys = dict(zip(("k1", "k2", "p1", "p2", "k3"), distortion.tolist(), strict=True))
    pose = np.eye(4).tolist()
    frame = {"file_path": "views/000.png", "transform_matrix": pose}
    meta = {"fl_x": K[0, 0].item(), "cx": K[0, 2].item(), "cy": K[1, 2].item(), "frames": [frame]} | keys
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    alpha = load_views(tmp_path).alpha[0].numpy()
    count, _, _, centres = cv2.connectedComponentsWithStats((alpha > 0.5).astype(np.uint8))
    assert count == 26
    straight = points @ K.double().numpy().T
    distance = np.linalg.norm(centres[1:, None] + 0.5 - straight[None, :, :2], axis=-1).min(0)
    assert distance.max() < 0.25


# Broken folders


def test_missing_folder_and_missing_transforms(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match=r"no posed photos: give a folder with transforms\.json"):
        load_views(tmp_path)
    with pytest.raises(V3DError, match="nowhere does not exist"):
        load_views(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"frames": 3}', '{"frames": []}', "{}"])
def test_unreadable_transforms(tmp_path: Path, text: str) -> None:
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(V3DError, match=r"transforms\.json (is not a usable JSON file|.*frames)"):
        load_views(tmp_path)


def test_missing_image(tmp_path: Path) -> None:
    save_views(ball(3), tmp_path)
    (tmp_path / "views/001.png").unlink()
    with pytest.raises(V3DError, match=r"views/001\.png.*does not exist"):
        load_views(tmp_path)


def test_broken_image(tmp_path: Path) -> None:
    save_views(ball(3), tmp_path)
    path = tmp_path / "views/001.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(V3DError, match=r"001\.png is damaged"):
        load_views(tmp_path)


def test_stated_size_is_wrong(tmp_path: Path) -> None:
    save_views(ball(2), tmp_path)
    edit(tmp_path, w=100)
    with pytest.raises(V3DError, match="48 x 48 pixels"):
        load_views(tmp_path)


def test_images_differ_in_size(tmp_path: Path) -> None:
    """Other sizes come to the smallest one with their cameras; other shapes cannot."""
    views = ball(2)
    save_views(views, tmp_path)
    edit(tmp_path, w=None, h=None, cx=None, cy=None, fl_x=None, fl_y=None, camera_angle_x=math.radians(60))
    Image.open(tmp_path / "views/001.png").resize((40, 40)).save(tmp_path / "views/001.png")
    loaded, reference = load_views(tmp_path), views.resized(40, 40)
    assert (loaded.alpha - reference.alpha).abs().mean() < 0.01
    torch.testing.assert_close(loaded.cameras.K, reference.cameras.K)
    Image.open(tmp_path / "views/001.png").resize((40, 30)).save(tmp_path / "views/001.png")
    with pytest.raises(V3DError, match="differ in shape"):
        load_views(tmp_path)


@pytest.mark.parametrize(
    "pose",
    [
        None,
        "here",
        [[1, 0], [0, 1]],
        [[0] * 4] * 4,
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]],  # a mirror
        [[1, 0, 0, float("nan")], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    ],
)
def test_poses_that_are_none(tmp_path: Path, pose: object) -> None:
    save_views(ball(2), tmp_path)
    edit_frame(tmp_path, 1, transform_matrix=pose)
    with pytest.raises(V3DError, match="transform_matrix"):
        load_views(tmp_path)


@pytest.mark.parametrize("change", [{"fl_x": None}, {"fl_x": 0}, {"fl_x": "wide"}, {"cx": float("nan")}])
def test_unusable_intrinsics(tmp_path: Path, change: dict[str, object]) -> None:
    save_views(ball(2), tmp_path)
    edit(tmp_path, **change)
    with pytest.raises(V3DError, match="no usable camera"):
        load_views(tmp_path)


def test_any_pose_survives_the_change_of_axes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    centers = torch.randn(4, 3) * 3
    cameras = Cameras(look_at(centers, (0.1, 0.2, 0.3)), intrinsics(45.0, 48, 48).repeat(4, 1, 1), 48, 48)
    views = ball(4)
    save_views(Views(views.rgb, views.alpha, cameras), tmp_path)
    assert torch.equal(load_views(tmp_path).cameras.c2w, cameras.c2w)
