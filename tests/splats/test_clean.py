"""The Gaussians of an object among floaters, a sky and dust."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.splats.clean import clean
from v3d.splats.gaussians import Splats, cat_splats


def gaussians(means: Tensor, scale: float = 0.03, opacity: float = 0.9) -> Splats:
    n = len(means)
    return Splats(
        means,
        torch.tensor([1.0, 0, 0, 0]).expand(n, 4).contiguous(),
        torch.full((n, 3), scale).log(),
        torch.full((n,), opacity).logit(),
        torch.full((n, 3), 0.5),
    )


def sphere(count: int, radius: float, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 3, generator=g), dim=-1) * radius


def test_an_object_alone_is_kept_whole_wherever_it_is() -> None:
    box = torch.rand(2000, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    far_away = torch.tensor([1000.0, -50, 7])
    ball = gaussians(box * torch.tensor([30.0, 4.0, 4.0]) + far_away, scale=0.5)  # long and thin
    cleaned = clean(ball)
    assert len(cleaned.splats) == 2000
    assert torch.equal(cleaned.splats.means, ball.means)
    assert torch.allclose(cleaned.centre, far_away, atol=0.3)
    assert cleaned.radius == pytest.approx((31**2 + 5**2 + 5**2) ** 0.5 / 2, rel=0.02)
    assert cleaned.notes == ()


def test_sky_floaters_and_dust_are_left_out_and_counted() -> None:
    ball = gaussians(sphere(3000, 1.0))
    sky = gaussians(sphere(800, 60.0, 1), scale=3.0)
    floaters = gaussians(torch.tensor([[2.5, 0.0, 0.0], [0.0, -2.2, 1.0]]) + sphere(2, 0.01))
    dust = gaussians(sphere(1500, 1.5, 2), opacity=0.001)
    cleaned = clean(cat_splats([dust, sky, ball, floaters]))
    assert torch.equal(cleaned.splats.means, ball.means)
    assert cleaned.radius == pytest.approx(3**0.5 * 1.03, rel=0.02)
    assert cleaned.notes == (
        "Of 5,302 Gaussians 800 far from the object and 2 floating apart were left out.",
        "1,500 of the Gaussians are next to invisible and were left out.",
    )


def test_a_second_large_part_stays_and_so_do_few_large_gaussians() -> None:
    pair = torch.cat([sphere(1500, 0.5), sphere(700, 0.3, 1) + torch.tensor([0.0, 1.4, 0.0])])
    assert len(clean(gaussians(pair)).splats) == 2200
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    few = replace(gaussians(corners), log_scales=torch.full((27, 3), 0.4).log())
    assert len(clean(few).splats) == 27  # they touch, though their centres are far apart
