"""Cameras of other tools come to the world of the orbit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from v3d.cameras import Cameras, orbit
from v3d.errors import V3DError
from v3d.placement import place, single_precision, up_sentence
from v3d.scene.normalise import normalise
from v3d.settings import Up


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_placing_undoes_a_shift_and_a_scale_and_leaves_the_given_cameras_as_they_are(
    dtype: torch.dtype,
) -> None:
    cameras = orbit(9, size=32, elevation=20)
    c2w = cameras.c2w.to(dtype, copy=True)
    c2w[:, :3, 3] = c2w[:, :3, 3] * 5 + torch.tensor([3.0, -1.0, 7.0], dtype=dtype)
    given = replace(cameras, c2w=c2w.clone())
    placed, placement = place(given)
    torch.testing.assert_close(placed.c2w.float(), cameras.c2w, atol=1e-4, rtol=0)
    assert placed.c2w.dtype == dtype
    assert placement.scale == pytest.approx(0.2, rel=1e-4)
    assert placement.centre.tolist() == pytest.approx((3, -1, 7), abs=1e-4)
    assert torch.equal(given.c2w, c2w)


Y_UP = Rotation.from_euler("x", -90, degrees=True).as_matrix()  # the world's z becomes y
UTM, ECEF = (512345.67, 4654321.98, 251.3), (4075539.8, 931735.2, 4801629.6)


def elsewhere(
    cameras: Cameras, R: NDArray[np.float64], shift: tuple[float, ...] = (0, 0, 0), scale: float = 1.0
) -> Cameras:
    """The cameras, float64, in a world that is turned, scaled and shifted."""
    c2w, turn = cameras.c2w.double(), torch.from_numpy(R)
    c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
    c2w[:, :3, 3] = scale * (c2w[:, :3, 3] @ turn.T) + torch.tensor(shift, dtype=torch.float64)
    return replace(cameras, c2w=c2w, K=cameras.K.double())


@pytest.mark.parametrize("shift", [UTM, ECEF], ids=["UTM", "ECEF"])
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_geo_referenced_cameras_are_placed_to_1e_4(shift: tuple[float, ...], scale: float) -> None:
    cameras = orbit(18, size=32, elevation=20)
    placed, placement = place(elsewhere(cameras, np.eye(3), shift, scale))
    torch.testing.assert_close(single_precision(placed).c2w, cameras.c2w, atol=1e-4, rtol=0)
    torch.testing.assert_close(placement.centre, torch.tensor(shift, dtype=torch.float64), atol=1e-6, rtol=0)


def test_float32_far_from_the_origin_is_refused() -> None:
    cameras = elsewhere(orbit(18, size=32), np.eye(3), UTM)
    with pytest.raises(V3DError, match="too far for 32-bit numbers"):
        single_precision(cameras)
    c2w = cameras.c2w.clone()
    c2w[0, 0, 3] = 1e39
    for use in (single_precision, place, normalise):
        with pytest.raises(V3DError, match="too large to compute with"):
            use(replace(cameras, c2w=c2w))
        with pytest.raises(V3DError, match="not finite"):
            use(replace(cameras, K=cameras.K * torch.nan))


@pytest.mark.parametrize("elevation", [0.0, 25.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), ECEF])
def test_worlds_that_are_y_up_are_turned_upright(elevation: float, shift: tuple[float, ...]) -> None:
    cameras = orbit(18, size=32, elevation=elevation)
    placed, placement = place(elsewhere(cameras, Y_UP, shift))
    assert placement.turns
    torch.testing.assert_close(placed.c2w.float(), cameras.c2w, atol=1e-4, rtol=0)
    torch.testing.assert_close(placement.up, torch.tensor([0.0, 1, 0]).double(), atol=1e-6, rtol=0)
    assert "its up is y, by the cameras" in up_sentence(placement)
    # The matrix of the report leads there too.
    matrix = torch.tensor(placement.to_json()["matrix"], dtype=torch.float64)
    point = matrix @ torch.tensor([*shift, 1.0], dtype=torch.float64)
    torch.testing.assert_close(point, torch.tensor([0.0, 0, 0, 1]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("up", "axis"), [("x", (1, 0, 0)), ("-y", (0, -1, 0)), ("z", (0, 0, 1)), ("-z", (0, 0, -1))]
)
def test_a_given_up_becomes_z(up: Up, axis: tuple[int, ...]) -> None:
    """Whatever the cameras say."""
    cameras = orbit(18, size=32, elevation=25)
    placed, placement = place(elsewhere(cameras, np.eye(3)), up=up)
    torch.testing.assert_close(placement.up, torch.tensor(axis).double(), atol=1e-9, rtol=0)
    there = placement.matrix[:3, :3] @ torch.tensor(axis).double() / placement.scale
    torch.testing.assert_close(there, torch.tensor([0.0, 0, 1]).double(), atol=1e-9, rtol=0)
    assert placement.turns == (up != "z")
    if up == "z":
        assert torch.equal(placed.to_float32().c2w, cameras.c2w)


def test_tilted_worlds_are_turned_upright() -> None:
    """The axes of a COLMAP model are arbitrary; a turn around z is left, as nothing tells it."""
    cameras = orbit(18, size=32, elevation=25)
    tilt = Rotation.from_euler("xyz", [200, 40, 10], degrees=True).as_matrix()
    placed, placement = place(elsewhere(cameras, tilt, (1, 2, 3), 7.0))
    assert placement.scale == pytest.approx(1 / 7)
    up = torch.from_numpy(tilt)[:, 2]
    torch.testing.assert_close(placement.up, up, atol=1e-6, rtol=0)
    torch.testing.assert_close(placed.centers[:, 2], cameras.centers[:, 2].double(), atol=1e-5, rtol=0)
    turn = placed.c2w[:, :3, :3] @ cameras.c2w[:, :3, :3].double().mT
    torch.testing.assert_close(turn, turn[:1].expand_as(turn), atol=1e-5, rtol=0)
    assert "its up is (" in up_sentence(placement)


@pytest.mark.parametrize("elevation", [0.0, 20.0])
def test_v3ds_own_cameras_stay_to_the_bit(elevation: float) -> None:
    cameras = orbit(18, size=32, elevation=elevation)
    placed, placement = place(elsewhere(cameras, np.eye(3)))
    assert torch.equal(placed.to_float32().c2w, cameras.c2w) and not placement.turns
    assert torch.equal(placement.matrix, torch.eye(4).double())


def test_one_camera_has_the_object_ahead() -> None:
    """At the distance at which it sees as much as an orbit's does."""
    cameras = elsewhere(orbit(18, size=32, elevation=20)[3], np.eye(3), UTM)
    placed, _ = place(cameras)
    expected = orbit(18, size=32, elevation=20)[3]
    torch.testing.assert_close(placed.to_float32().c2w, expected.c2w, atol=1e-4, rtol=0)
