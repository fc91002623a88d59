"""View 0 is the photo where, and only where, the framing was kept."""

from __future__ import annotations

import torch

from v3d.cameras import orbit
from v3d.diffusion.front import photo_as_front
from v3d.metrics import soft_iou
from v3d.views import Views


def disc(radius: float, size: int = 32) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return ((x**2 + y**2) < radius**2).float()


def test_the_photo_takes_the_place_of_view_0_where_the_framing_was_kept() -> None:
    alpha = disc(0.6).repeat(3, 1, 1)
    views = Views(torch.full((3, 32, 32, 3), 0.5), alpha, orbit(3, size=32))
    close, far = (torch.cat([torch.rand(32, 32, 3), disc(r)[..., None]], -1) for r in (0.62, 0.9))
    kept = photo_as_front(views, close)
    assert torch.equal(kept.rgb[0], close[..., :3]) and torch.equal(kept.alpha[0], close[..., 3])
    assert torch.equal(kept.rgb[1:], views.rgb[1:]) and float(views.rgb[0].mean()) == 0.5  # a copy
    assert photo_as_front(views, far) is views


def test_overlap_is_the_intersection_over_the_union() -> None:
    a, b = torch.zeros(2, 4, 4)
    a[:2], b[1:3] = 1, 1
    assert abs(soft_iou(a, b) - 1 / 3) < 1e-6 and soft_iou(a, a) == 1 and soft_iou(a * 0, b * 0) == 0
