"""Interpolation on a CPU against `grid_sample`, which it replaces there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.networks.interpolation import interpolate


def plain(volumes: Tensor, grid: Tensor) -> Tensor:
    at = grid[:, None] if volumes.ndim == 4 else grid[:, None, None]
    values = F.grid_sample(volumes, at, mode="bilinear", padding_mode="border", align_corners=False)
    return values.flatten(2).mT


@pytest.mark.parametrize("sides", [(7, 5), (6, 7, 5), (2, 2, 2), (1, 4, 4)])
@pytest.mark.parametrize("last", [False, True])
def test_values_are_those_of_grid_sample(sides: tuple[int, ...], last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(3, 4, *sides, generator=generator)
    volumes = volumes.movedim(1, -1).contiguous().movedim(-1, 1) if last else volumes
    grid = 3 * torch.rand(3, 500, len(sides), generator=generator) - 1.5  # a third of them outside
    grid[:, :4] = torch.tensor([-1.0, 1.0, 0.0, 1e6])[None, :, None]
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x, at = volumes.to(dtype), grid.to(dtype)
        got = interpolate(x, at)
        assert got.shape == (3, 500, 4) and got.dtype == dtype
        torch.testing.assert_close(got, plain(x, at), atol=bound, rtol=bound)


def test_gradients_reach_volumes() -> None:
    volumes = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    grid = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    value = interpolate(volumes, grid)
    (gradient,) = torch.autograd.grad(value.square().sum(), volumes)
    (expected,) = torch.autograd.grad(plain(volumes, grid).square().sum(), volumes)
    torch.testing.assert_close(gradient, expected)
    with torch.no_grad():
        torch.testing.assert_close(interpolate(volumes, grid), value.detach(), atol=1e-5, rtol=1e-5)
