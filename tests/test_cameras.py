"""The conventions, checked with numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from v3d.cameras import above_and_below, cat_cameras, intrinsics, look_at, orbit


def test_orbit_stands_where_the_paper_puts_it() -> None:
    cameras = orbit(18, size=64)
    angles = torch.arange(18) * math.radians(20)
    expected = 2 * torch.stack([angles.cos(), angles.sin(), torch.zeros(18)], -1)
    torch.testing.assert_close(cameras.centers, expected, atol=1e-6, rtol=0)


def test_camera_zero_sees_the_world_upright() -> None:
    camera = orbit(1, size=100)
    points = torch.tensor([[0.0, 0, 0], [0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0]])
    pixels, depth = camera.project(points)
    focal = 50 / math.tan(math.radians(30))
    # Seen from +x, up (+z) is up and +y is to the right.
    expected = torch.tensor([[50, 50], [50, 50 - focal / 4], [50 + focal / 4, 50], [50, 50]])
    torch.testing.assert_close(pixels[0], expected)
    torch.testing.assert_close(depth[0], torch.tensor([2.0, 2.0, 2.0, 1.5]))


def test_field_of_view_is_the_full_horizontal_angle() -> None:
    K = intrinsics(60.0, 80, 40)
    edge = torch.linalg.inv(K) @ torch.tensor([80.0, 20.0, 1.0])
    assert math.degrees(math.atan2(float(edge[0]), float(edge[2]))) == pytest.approx(30.0, abs=1e-4)
    assert edge[1] == pytest.approx(0.0, abs=1e-6)


def test_rays_and_projection_are_inverse() -> None:
    cameras = orbit(3, size=8, elevation=20.0, azimuth=7.0)
    origins, directions = cameras.rays()
    points = (origins + 1.7 * directions).reshape(-1, 3)
    pixels, depth = cameras.project(points)
    row, column = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    own = pixels.view(3, 3, 8, 8, 2)[torch.arange(3), torch.arange(3)]
    torch.testing.assert_close(own, torch.stack([column, row], -1).expand(3, -1, -1, -1), atol=1e-3, rtol=0)
    own_depth = depth.view(3, 3, 8, 8)[torch.arange(3), torch.arange(3)]
    torch.testing.assert_close(own_depth, torch.full((3, 8, 8), 1.7))


def test_c2w_is_a_rigid_right_handed_motion() -> None:
    cameras = orbit(5, elevation=-35.0)
    R = cameras.c2w[:, :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(5, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(5))
    torch.testing.assert_close(cameras.w2c @ cameras.c2w, torch.eye(4).expand(5, 4, 4), atol=1e-6, rtol=0)


def test_resizing_moves_pixels_with_the_image() -> None:
    camera = orbit(1, size=64)
    points = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    small, _ = camera.project(points)
    large, _ = camera.resized(128, 192).project(points)
    torch.testing.assert_close(large, small * torch.tensor([2.0, 3.0]))


def test_indexing_and_joining() -> None:
    cameras = orbit(6, size=16)
    joined = cat_cameras([cameras[1], cameras[[4, 5]]])
    torch.testing.assert_close(joined.c2w, cameras.c2w[[1, 4, 5]])
    with pytest.raises(ValueError, match="sizes"):
        cat_cameras([cameras, orbit(1, size=17)])


def test_looking_straight_down_has_no_up() -> None:
    with pytest.raises(ValueError, match="straight"):
        look_at(torch.tensor([[0.0, 0.0, 2.0]]))


def test_turning_carries_cameras_around_the_axis() -> None:
    torch.testing.assert_close(orbit(18).turned(60).c2w, orbit(18, azimuth=60).c2w, atol=1e-5, rtol=0)
    high = orbit(3, elevation=35, azimuth=10)
    torch.testing.assert_close(
        high.turned(-25).c2w, orbit(3, elevation=35, azimuth=-15).c2w, atol=1e-5, rtol=0
    )


def test_mirrored_cameras_see_the_mirrored_world_mirrored() -> None:
    cameras = orbit(5, size=100, elevation=40, azimuth=13)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    pixels, depth = cameras.project(points)
    seen, there = cameras.mirrored().project(points * torch.tensor([1.0, -1.0, 1.0]))
    torch.testing.assert_close(seen[..., 0], 100 - pixels[..., 0], atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[..., 1], pixels[..., 1], atol=1e-3, rtol=0)
    torch.testing.assert_close(there, depth)
    torch.testing.assert_close(
        orbit(18).mirrored().c2w, orbit(18).c2w[[0, *range(17, 0, -1)]], atol=1e-5, rtol=0
    )


def test_cameras_above_and_below_see_tops_and_undersides_whole() -> None:
    cameras = above_and_below(64)
    up = torch.asin(cameras.centers[:, 2] / 2).rad2deg()
    assert sorted(set(up.round().tolist())) == [-30, 40, 75] and len(cameras) == 12
    torch.testing.assert_close(cameras.centers.norm(dim=-1), torch.full((12,), 2.0))
    sphere = torch.nn.functional.normalize(
        torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    pixels, _ = cameras.project(1.2 * sphere)  # farther from the middle than an orbit's image shows
    assert float(pixels.min()) > 0 and float(pixels.max()) < 64
