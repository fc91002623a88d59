from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from v3d.cameras import Cameras, intrinsics, look_at, orbit
from v3d.errors import V3DError
from v3d.scene.normalise import focus
from v3d.scene.path_files import read_path
from v3d.scene.paths import anchors_first, dolly_path, orbit_path, spiral_path, through_path
from v3d.views import Views, save_views

PATHS: list[Callable[[Cameras, int], Cameras]] = [orbit_path, spiral_path, dolly_path, through_path]


def cameras_at(centers: list[list[float]], target: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Cameras:
    count = len(centers)
    K = torch.stack([intrinsics(45.0 + 2 * i, 64, 48) for i in range(count)])
    return Cameras(look_at(torch.tensor(centers).double(), target).float(), K, 64, 48)


AROUND = cameras_at([[1.4, 0.1, 0.5], [0.3, 1.3, 0.3], [-1.2, 0.5, 0.6], [0.2, -1.3, 0.4]])
AHEAD = cameras_at([[1.5, 0.2, 0.1], [1.5, -0.2, 0.1], [1.4, 0.0, 0.3], [1.5, 0.05, -0.2]])
ONE = cameras_at([[1.2, 0.5, 0.4]])


def steps(path: Cameras, *, closed: bool = False) -> Tensor:
    p = path.centers.double()
    p = torch.cat([p, p[:1]]) if closed else p
    lengths: Tensor = (p[1:] - p[:-1]).norm(dim=-1)
    return lengths


def angles(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between rotations."""
    return torch.from_numpy(Rotation.from_matrix((a.mT @ b).double().numpy()).magnitude()).rad2deg()


@pytest.mark.parametrize("cameras", [AROUND, AHEAD, ONE], ids=["around", "ahead", "one"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [1, 2, 25])
def test_every_path_is_made_of_cameras(
    path: Callable[[Cameras, int], Cameras], cameras: Cameras, count: int
) -> None:
    out = path(cameras, count)
    assert len(out) == count and (out.width, out.height) == (64, 48) and out.K.shape == (count, 3, 3)
    R = out.c2w[:, :3, :3]
    torch.testing.assert_close(R.mT @ R, torch.eye(3).expand(count, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(count), atol=1e-5, rtol=0)
    assert out.c2w.dtype == cameras.c2w.dtype
    _, depth = out.project(focus(cameras).float()[None])
    assert bool((depth > 0).all())


@pytest.mark.parametrize("turns", [1.0, -2.0])
def test_orbit(turns: float) -> None:
    path = orbit_path(AROUND, 24, turns=turns)
    centre = focus(AROUND)
    offset = path.centers.double() - centre
    given = AROUND.centers.double() - centre
    torch.testing.assert_close(offset[:, 2], given[:, 2].mean().expand(24), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        offset[:, :2].norm(dim=-1), given[:, :2].norm(dim=-1).mean().expand(24), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(steps(path, closed=True), steps(path)[:1].expand(24), atol=1e-5, rtol=0)
    start = torch.atan2(offset[0, 1], offset[0, 0]) - torch.atan2(given[0, 1], given[0, 0])
    assert abs(float(start)) < 1e-5
    turn = offset[0, 0] * offset[1, 1] - offset[0, 1] * offset[1, 0]
    assert float(turn) * turns > 0
    pixels, _ = path.project(centre.float()[None])
    torch.testing.assert_close(pixels[:, 0], torch.tensor([32.0, 24.0]).expand(24, 2), atol=1e-3, rtol=0)


def test_orbit_of_our_orbit_is_itself() -> None:
    cameras = orbit(9, radius=1.5, elevation=20.0)
    torch.testing.assert_close(orbit_path(cameras, 9).c2w, cameras.c2w, atol=1e-5, rtol=0)


def test_no_orbit_from_straight_above() -> None:
    c2w = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))[None].clone()
    c2w[0, 2, 3] = 2.0
    with pytest.raises(V3DError, match="straight down"):
        orbit_path(Cameras(c2w, intrinsics(50.0, 8, 8)[None], 8, 8), 5)
    spiral_path(Cameras(c2w, intrinsics(50.0, 8, 8)[None], 8, 8), 5)  # but a spiral


def test_spiral() -> None:
    path = spiral_path(AHEAD, 60)
    length = steps(path, closed=True)
    assert float(length.max() / length.min()) < 1.02
    centre = focus(AHEAD)
    pixels, _ = path.project(centre.float()[None])
    torch.testing.assert_close(pixels[:, 0], torch.tensor([32.0, 24.0]).expand(60, 2), atol=1e-3, rtol=0)
    mean = AHEAD.centers.double().mean(0)
    forward = (centre - mean) / (centre - mean).norm()
    offset = path.centers.double() - mean
    across = offset - (offset @ forward)[:, None] * forward
    given = AHEAD.centers.double() - mean
    spread = (given - (given @ forward)[:, None] * forward).norm(dim=-1).max()
    torch.testing.assert_close(across.norm(dim=-1), spread.expand(60), rtol=1e-4, atol=0)
    assert float((offset @ forward).abs().max()) == pytest.approx(float(spread) / 2, rel=0.02)
    assert bool((path.c2w[:, 2, 1] < -0.5).all())  # upright


def test_dolly() -> None:
    path = dolly_path(AROUND, 11, start=1.5, end=0.5)
    torch.testing.assert_close(
        path.c2w[:, :3, :3], AROUND.c2w[:1, :3, :3].expand(11, 3, 3), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(path.c2w[5], AROUND.c2w[0], atol=1e-6, rtol=0)  # share 1: where it stands
    assert torch.equal(path.K, AROUND.K[:1].expand(11, 3, 3))
    _, depth = path.project(focus(AROUND).float()[None])
    torch.testing.assert_close(depth[:, 0] / depth[5, 0], torch.linspace(1.5, 0.5, 11), atol=1e-5, rtol=0)


def nearest(path: Cameras, camera: Cameras) -> tuple[float, float]:
    """How far from `camera` the nearest frame stands, and by how many degrees it is turned."""
    distance = (path.centers - camera.centers).norm(dim=-1)
    i = int(distance.argmin())
    return float(distance[i]), float(angles(path.c2w[i : i + 1, :3, :3], camera.c2w[:, :3, :3])[0])


@pytest.mark.parametrize("closed", [False, True])
def test_through(closed: bool) -> None:
    path = through_path(AROUND, 400, closed=closed)
    for i in range(4):
        distance, angle = nearest(path, AROUND[i])
        assert distance < 0.02 and angle < 1.0
    torch.testing.assert_close(path.c2w[0], AROUND.c2w[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(path.K[0], AROUND.K[0])
    if not closed:
        torch.testing.assert_close(path.c2w[-1], AROUND.c2w[-1], atol=1e-6, rtol=0)
        torch.testing.assert_close(path.K[-1], AROUND.K[-1])
    following = torch.cat([path.c2w, path.c2w[:1]]) if closed else path.c2w
    radian = float((AROUND.centers - focus(AROUND).float()).norm(dim=-1).mean())
    turned = angles(following[:-1, :3, :3], following[1:, :3, :3]).deg2rad()
    speed = torch.hypot(steps(path, closed=closed), radian * turned)
    assert float(speed.max() / speed.min()) < 1.02
    # Smooth: the direction of travel changes little from frame to frame.
    p = torch.cat([path.centers, path.centers[:2]]) if closed else path.centers
    travel = torch.nn.functional.normalize(p[1:] - p[:-1], dim=-1)
    assert float((travel[1:] * travel[:-1]).sum(-1).min()) > 0.99


def test_through_a_circle_is_nearly_the_circle() -> None:
    path = through_path(orbit(8, radius=1.5), 100, closed=True)
    assert float((path.centers.norm(dim=-1) - 1.5).abs().max()) < 0.005
    assert float((steps(path, closed=True) / (2 * math.pi * 1.5 / 100) - 1).abs().max()) < 0.02


def test_through_two_and_through_repeated_cameras() -> None:
    two = AROUND[[0, 1]]
    path = through_path(two, 11)
    line = torch.lerp(two.centers[0], two.centers[1], torch.linspace(0, 1, 11)[:, None])
    torch.testing.assert_close(path.centers, line, atol=1e-4, rtol=0)
    whole = angles(two.c2w[:1, :3, :3], two.c2w[1:, :3, :3])
    part = angles(path.c2w[:-1, :3, :3], path.c2w[1:, :3, :3])
    torch.testing.assert_close(part, (whole / 10).expand(10), atol=0.02, rtol=0)
    torch.testing.assert_close(through_path(AROUND[[0, 0, 1, 1]], 11).c2w, path.c2w, atol=1e-5, rtol=0)
    there_and_back = through_path(two, 10, closed=True)
    torch.testing.assert_close(there_and_back.centers[5], two.centers[1], atol=1e-3, rtol=0)
    torch.testing.assert_close(
        through_path(AROUND[[0, 1, 2, 0]], 30, closed=True).c2w,
        through_path(AROUND[[0, 1, 2]], 30, closed=True).c2w,
        atol=5e-3,  # the repeated one counts twice in what they look at
        rtol=0,
    )


def test_through_cameras_that_only_turn() -> None:
    c2w = orbit(4).c2w.clone()
    c2w[:, :3, 3] = 0
    path = through_path(Cameras(c2w, orbit(4).K, 256, 256), 36, closed=True)
    part = angles(path.c2w[:-1, :3, :3], path.c2w[1:, :3, :3])
    torch.testing.assert_close(part, torch.full((35,), 10.0).double(), atol=0.2, rtol=0)


# Anchors first


@settings(deadline=None, max_examples=200)
@given(count=st.integers(1, 400), clip=st.integers(1, 40), closed=st.booleans())
def test_every_frame_is_made_once_from_frames_that_exist(count: int, clip: int, closed: bool) -> None:
    made: set[int] = set()
    for number, step in enumerate(anchors_first(count, clip, closed=closed)):
        assert 1 <= len(step.targets) <= clip
        assert list(step.targets) == sorted(set(step.targets)) and list(step.sources) == sorted(
            set(step.sources)
        )
        assert set(step.sources) <= made and not set(step.targets) & made
        assert bool(step.sources) == (number > 0)
        assert len(step.sources) <= 2 * len(step.targets)
        # Each target lies in a gap whose ends, the nearest frames that were made before, are given.
        before = sorted(made)
        for target in step.targets if before else ():
            left = max((i for i in before if i < target), default=before[-1] if closed else None)
            right = min((i for i in before if i > target), default=before[0] if closed else None)
            assert {left, right} - {None} <= set(step.sources)
        made |= set(step.targets)
    assert made == set(range(count))


@pytest.mark.parametrize(("count", "clip"), [(18, 18), (5, 18), (1, 1)])
def test_a_short_path_is_one_clip(count: int, clip: int) -> None:
    (step,) = anchors_first(count, clip)
    assert step.sources == () and step.targets == tuple(range(count))


def test_anchors_span_the_path_and_few_clips_are_needed() -> None:
    first, *others = anchors_first(100, 18)
    assert first.targets[0] == 0 and first.targets[-1] == 99
    gaps = np.diff(first.targets)
    assert gaps.max() - gaps.min() <= 1
    assert len(others) <= 6  # 82 frames in clips of 18 at most
    closed = anchors_first(72, 18, closed=True)
    assert closed[0].targets == tuple(range(0, 72, 4))
    assert closed[-1].targets[-1] == 71 and 0 in closed[-1].sources


def test_anchors_of_nothing() -> None:
    for count, clip in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match="at least one"):
            anchors_first(count, clip)


# JSON paths


def viewer_path(
    cameras: Cameras, transform: np.ndarray | None = None, scale: float = 1.0
) -> dict[str, object]:
    """As nerfstudio's viewer exports it: OpenGL axes, row by row, in a world turned, moved and scaled."""
    entries = []
    for c2w, K in zip(cameras.c2w.double().numpy(), cameras.K, strict=True):
        pose = c2w * np.array([1.0, -1.0, -1.0, 1.0])
        if transform is not None:
            pose = transform @ pose
            pose[:3, 3] *= scale
        fov = 2 * math.degrees(math.atan(cameras.height / 2 / K[1, 1].item()))
        entries.append(
            {"camera_to_world": pose.ravel().tolist(), "fov": fov, "aspect": cameras.width / cameras.height}
        )
    return {
        "camera_type": "perspective",
        "render_width": cameras.width,
        "render_height": cameras.height,
        "camera_path": entries,
        "fps": 24,
        "is_cycle": False,
    }


def test_viewer_path(tmp_path: Path) -> None:
    file = tmp_path / "camera_path.json"
    file.write_text(json.dumps(viewer_path(AROUND)))
    path = read_path(file).to_float32()
    torch.testing.assert_close(path.c2w, AROUND.c2w, atol=1e-6, rtol=0)
    torch.testing.assert_close(path.K, AROUND.K, atol=1e-3, rtol=0)
    assert (path.width, path.height) == (64, 48)


def test_viewer_path_of_a_normalised_world(tmp_path: Path) -> None:
    transform = np.eye(4)
    transform[:3, :3] = Rotation.random(random_state=1).as_matrix()
    transform[:3, 3] = [1.0, -2.0, 0.5]
    (tmp_path / "camera_path.json").write_text(json.dumps(viewer_path(AROUND, transform, 0.3)))
    (tmp_path / "dataparser_transforms.json").write_text(
        json.dumps({"transform": transform[:3].tolist(), "scale": 0.3})
    )
    torch.testing.assert_close(
        read_path(tmp_path / "camera_path.json").c2w.float(), AROUND.c2w, atol=1e-5, rtol=0
    )
    applied = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]])  # COLMAP's axes -> transforms.json's
    (tmp_path / "transforms.json").write_text(
        json.dumps({"applied_transform": applied.tolist(), "frames": []})
    )
    path = read_path(tmp_path / "camera_path.json").to_float32()
    torch.testing.assert_close(
        path.centers, AROUND.centers @ torch.tensor(applied[:, :3]).float().T, atol=1e-5, rtol=0
    )


def test_own_transforms_without_images(tmp_path: Path) -> None:
    views = Views(torch.zeros(4, 48, 64, 3), torch.ones(4, 48, 64), AROUND)
    save_views(views, tmp_path)
    for file in (tmp_path / "views").iterdir():
        file.unlink()
    path = read_path(tmp_path / "transforms.json").to_float32()
    assert torch.equal(path.c2w, AROUND.c2w)
    torch.testing.assert_close(path.K, AROUND.K)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"camera_path": []}, "no cameras"),
        ({"camera_path": [{"fov": 50}]}, "not a usable camera path"),
        ({"camera_path": [{"fov": 50, "camera_to_world": [1, 2, 3]}]}, "not a usable camera path"),
        ({"camera_path": [{"fov": 50, "camera_to_world": [0] * 16}]}, "not a rotation"),
        (
            {"camera_path": [{"fov": 0, "camera_to_world": np.eye(4).ravel().tolist()}]},
            "not a usable camera path",
        ),
        ({"camera_path": [{"fov": float("nan"), "camera_to_world": [0] * 16}]}, "not a usable camera path"),
        ({"camera_type": "equirectangular"}, "equirectangular"),
        ({"render_width": None}, "not a usable camera path"),
        ({"camera_path": None, "frames": [{}]}, "not a usable camera path"),
    ],
)
def test_broken_viewer_paths(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    file = tmp_path / "path.json"
    file.write_text(json.dumps(viewer_path(ONE) | change))
    with pytest.raises(V3DError, match=sentence):
        read_path(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"frames": []}', '{"frames": [{}]}'])
def test_files_that_are_no_paths(tmp_path: Path, text: str) -> None:
    file = tmp_path / "path.json"
    with pytest.raises(V3DError, match="cannot be read"):
        read_path(file)
    file.write_text(text)
    with pytest.raises(V3DError, match=r"path\.json"):
        read_path(file)


def test_paths_whose_cameras_differ(tmp_path: Path) -> None:
    frame = {"fl_x": 50, "w": 64, "h": 48, "transform_matrix": np.eye(4).tolist()}
    for other, sentence in ((frame | {"w": 32}, "image size"), (frame | {"k1": 0.1}, "pinhole")):
        (tmp_path / "path.json").write_text(json.dumps({"frames": [frame, other]}))
        with pytest.raises(V3DError, match=sentence):
            read_path(tmp_path / "path.json")
