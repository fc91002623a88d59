"""Cameras of other tools come to the world of the orbit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from v3d.cameras import orbit
from v3d.placement import place


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
    assert placement.centre == pytest.approx((3, -1, 7), abs=1e-4)
    assert torch.equal(given.c2w, c2w)
