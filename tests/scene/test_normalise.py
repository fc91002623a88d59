from __future__ import annotations

import json
import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from v3d.cameras import Cameras, intrinsics, look_at, orbit
from v3d.placement import Similarity, up_direction
from v3d.scene.normalise import focus, normalise


def cameras_at(centers: Tensor, target: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Cameras:
    return of_poses(look_at(centers.double(), target))


def of_poses(c2w: Tensor) -> Cameras:
    return Cameras(c2w, intrinsics(50.0, 64, 48).double().repeat(len(c2w), 1, 1), 64, 48)


def moved(cameras: Cameras, seed: int = 0, scale: float = 3.7) -> Cameras:
    """The cameras in a world of other axes, origin and unit."""
    R = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    c2w = cameras.c2w.clone()
    c2w[:, :3, :3] = R @ c2w[:, :3, :3]
    c2w[:, :3, 3] = scale * (c2w[:, :3, 3] @ R.T) + torch.tensor([3.0, -5.0, 2.0])
    return of_poses(c2w)


def rolled(cameras: Cameras, degrees: float, seed: int = 0) -> Cameras:
    """Each camera turned around its own axis by normally distributed angles."""
    angles = torch.randn(len(cameras), generator=torch.Generator().manual_seed(seed)).double() * degrees
    c2w = cameras.c2w.clone()
    roll = Rotation.from_euler("z", angles.numpy()[:, None], degrees=True).as_matrix()
    c2w[:, :3, :3] = c2w[:, :3, :3] @ torch.from_numpy(roll)
    return of_poses(c2w)


def ring(count: int = 8, *, height: float = 1.0, radius: float = 2.0, arc: float = 360.0) -> Cameras:
    phi = torch.deg2rad(torch.arange(count).double() * arc / count)
    return cameras_at(torch.stack([radius * phi.cos(), radius * phi.sin(), torch.full_like(phi, height)], -1))


def distances(cameras: Cameras) -> Tensor:
    lengths: Tensor = cameras.centers.norm(dim=-1)
    return lengths


@pytest.mark.parametrize("arc", [60.0, 150.0, 360.0])
def test_any_world_comes_out_the_same(arc: float) -> None:
    """Up is found from a part of a ring that looks down, where the mean of the cameras' ups is tilted."""
    truth = ring(height=1.5, arc=arc)
    normalised, _ = normalise(moved(truth))
    torch.testing.assert_close(normalised.centers[:, 2], truth.centers[:, 2] * 1.5 / 2.5, atol=1e-9, rtol=0)
    torch.testing.assert_close(distances(normalised), torch.full((8,), 1.5).double(), atol=1e-9, rtol=0)
    turned = normalised.c2w[:, :3, :3] @ truth.c2w[:, :3, :3].mT  # one turn around z for all
    torch.testing.assert_close(turned, turned[:1].expand_as(turned), atol=1e-9, rtol=0)
    torch.testing.assert_close(turned[0, 2], torch.tensor([0.0, 0.0, 1.0]).double(), atol=1e-9, rtol=0)


def test_the_order_of_the_cameras_does_not_matter() -> None:
    torch.manual_seed(0)
    for cameras in (
        rolled(moved(ring(9)), 5.0),
        moved(cameras_at(torch.randn(9, 3) + torch.tensor([4.0, 0, 0]))),
    ):
        order = torch.randperm(9)
        a, n = normalise(cameras)
        b, m = normalise(cameras[order])
        torch.testing.assert_close(b.c2w, a.c2w[order], atol=1e-9, rtol=0)
        torch.testing.assert_close(m.matrix, n.matrix, atol=1e-9, rtol=0)


def test_a_world_that_is_z_up_is_not_turned() -> None:
    for cameras in (ring(height=1.0), ring(1), ring(2, arc=40.0), rolled(ring(12), 1.0)):
        _, n = normalise(cameras)
        torch.testing.assert_close(n.matrix[:3, :3], n.scale * torch.eye(3).double(), atol=1e-9, rtol=0)


def test_a_world_that_is_y_down_is_turned() -> None:
    """A forward-facing capture in the axes of its first camera: all x axes are horizontal there too."""
    shifts = torch.tensor([[0.0, 0, 0], [0.3, 0.1, 0], [-0.3, 0.1, 0], [0.1, -0.2, 0]])
    c2w = torch.eye(4).double().repeat(4, 1, 1)
    c2w[:, :3, 3] = shifts
    up = up_direction(of_poses(c2w))
    torch.testing.assert_close(up, torch.tensor([0.0, -1.0, 0.0]).double(), atol=1e-6, rtol=0)
    normalised, _ = normalise(of_poses(c2w))
    torch.testing.assert_close(
        -normalised.c2w[:, :3, 1], torch.tensor([0.0, 0, 1]).double().expand(4, 3), atol=1e-6, rtol=0
    )


def test_upside_down_cameras_are_outvoted() -> None:
    cameras = moved(ring(9, height=0.2), seed=3)
    flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])).double()
    c2w = cameras.c2w.clone()
    c2w[:2] = c2w[:2] @ flip
    torch.testing.assert_close(up_direction(of_poses(c2w)), up_direction(cameras), atol=1e-6, rtol=0)


def test_up_survives_rolling_hands() -> None:
    cameras = ring(20, height=1.0)
    R = torch.from_numpy(Rotation.from_euler("x", 40, degrees=True).as_matrix())
    c2w = rolled(cameras, 4.0).c2w
    c2w[:, :3] = R @ c2w[:, :3]
    error = math.degrees(math.acos(min(1.0, float(up_direction(of_poses(c2w)) @ R[:, 2]))))
    assert error < 3


def test_ups_that_cancel_leave_the_world_as_it_is() -> None:
    """Cameras on their side all around."""
    c2w = rolled(ring(8, height=0.0), 0.0).c2w
    side = torch.from_numpy(Rotation.from_euler("z", 90, degrees=True).as_matrix())
    c2w[:, :3, :3] = c2w[:, :3, :3] @ side
    torch.testing.assert_close(up_direction(of_poses(c2w)), torch.tensor([0.0, 0, 1]).double())


def test_upside_down_worlds_are_turned_over() -> None:
    c2w = ring(6).c2w.clone()
    c2w[:, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0])).double() @ c2w[:, :3]
    normalised, _ = normalise(of_poses(c2w))
    assert bool((-normalised.c2w[:, 2, 1] > 0.5).all())
    assert torch.linalg.det(normalised.c2w[:, :3, :3]).min() > 0.999


@pytest.mark.parametrize("seed", range(3))
def test_there_and_back(seed: int) -> None:
    own = moved(ring(7, arc=200.0), seed)
    normalised, n = normalise(own)
    back = Similarity(torch.linalg.inv(n.matrix))
    torch.testing.assert_close(back.apply(normalised).c2w, own.c2w, atol=1e-9, rtol=0)
    assert back.scale == pytest.approx(1 / n.scale)
    saved = json.loads(json.dumps(n.to_json()))
    torch.testing.assert_close(
        Similarity(torch.tensor(saved["matrix"]).double()).matrix, n.matrix, rtol=1e-6, atol=1e-6
    )
    assert saved["scale"] == pytest.approx(n.scale)


def test_pictures_do_not_change() -> None:
    """A point is seen at the same pixel in both worlds, and its depth scales."""
    own = moved(ring(5))
    normalised, n = normalise(own)
    points = (
        torch.tensor([3.0, -5.0, 2.0])
        + torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).double()
    )
    a, depth_a = own.project(points)
    b, depth_b = normalised.project(points @ n.matrix[:3, :3].mT + n.matrix[:3, 3])
    torch.testing.assert_close(b, a, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(depth_b, depth_a * n.scale, atol=1e-9, rtol=1e-9)


def test_our_own_world_stays() -> None:
    cameras = orbit(6, radius=1.5)
    normalised, _ = normalise(cameras)
    torch.testing.assert_close(normalised.c2w, cameras.c2w, atol=1e-6, rtol=0)
    assert normalised.c2w.dtype == torch.float32
    again, _ = normalise(normalise(moved(ring(6)))[0])
    torch.testing.assert_close(again.c2w, normalise(moved(ring(6)))[0].c2w, atol=1e-9, rtol=0)


# Few cameras, parallel ones, all in one place


def test_one_camera() -> None:
    """Its origin lies 1.5 ahead of it; the unit stays."""
    own = cameras_at(torch.tensor([[5.0, 1.0, 3.0]]), (2.0, 2.0, 2.0))
    normalised, n = normalise(own)
    assert n.scale == pytest.approx(1.0)
    assert float(distances(normalised)) == pytest.approx(1.5)
    torch.testing.assert_close(normalised.c2w[0, :3, 2], -normalised.centers[0] / 1.5, atol=1e-9, rtol=0)


def test_two_cameras() -> None:
    normalised, _ = normalise(moved(cameras_at(torch.tensor([[2.0, 0, 0.5], [0, 1.0, 0.5]]))))
    assert float(distances(normalised).max()) == pytest.approx(1.5)
    torch.testing.assert_close(focus(normalised), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(normalised.c2w[:, 2, 0], torch.zeros(2).double(), atol=1e-9, rtol=0)  # level


def test_parallel_cameras() -> None:
    c2w = ring(1).c2w.repeat(4, 1, 1)
    c2w[:, :3, 3] += torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]])
    normalised, _ = normalise(of_poses(c2w))
    torch.testing.assert_close(normalised.centers.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    assert float(distances(normalised).max()) == pytest.approx(1.5)
    assert float(focus(normalised) @ normalised.c2w[0, :3, 2]) == pytest.approx(1.5)  # ahead, by their spread


def test_cameras_that_look_outward_are_centred_among_themselves() -> None:
    c2w = ring(6, height=0.0, radius=0.5).c2w @ torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])).double()
    normalised, _ = normalise(moved(of_poses(c2w)))
    torch.testing.assert_close(distances(normalised), torch.full((6,), 1.5).double(), atol=1e-9, rtol=0)


def test_cameras_in_one_place() -> None:
    """A panorama: no length to scale by."""
    c2w = ring(6, height=0.0).c2w.clone()
    c2w[:, :3, 3] = torch.tensor([4.0, 5.0, 6.0])
    for poses in (c2w, c2w[:1].repeat(3, 1, 1)):
        normalised, n = normalise(of_poses(poses))
        assert n.scale == pytest.approx(1.0)
        assert float(distances(normalised).max()) < 1e-9
        assert bool(torch.isfinite(focus(normalised)).all())
