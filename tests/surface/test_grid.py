"""Sampling of distance grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.surface.grid import Grid, gather, trilinear


def random_grid(shape: tuple[int, int, int] = (5, 7, 6)) -> Grid:
    generator = torch.Generator().manual_seed(0)
    return Grid(torch.randn(shape, generator=generator), torch.tensor([-0.3, 0.2, 1.0]), 0.25)


def reference(grid: Grid, points: Tensor) -> Tensor:
    low, high = grid.bounds
    normal = (points - low) / (high - low) * 2 - 1
    return F.grid_sample(
        grid.values[None, None], normal.flip(-1)[None, None, None], padding_mode="border", align_corners=True
    ).flatten()


def test_sample_agrees_with_grid_sample_inside_and_outside() -> None:
    grid = random_grid()
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) * 3 - 0.8
    torch.testing.assert_close(grid.sample(points), reference(grid, points), atol=1e-5, rtol=1e-5)


def test_nodes_are_reproduced() -> None:
    grid = random_grid()
    torch.testing.assert_close(grid.sample(grid.points()), grid.values, atol=1e-5, rtol=1e-5)


def test_linear_fields_are_exact() -> None:
    grid = random_grid()
    slope = torch.tensor([1.0, -2.0, 0.5])
    linear = Grid(grid.points() @ slope, grid.origin, grid.voxel)
    low, high = grid.bounds
    points = low + torch.rand(100, 3) * (high - low)
    torch.testing.assert_close(linear.sample(points), points @ slope)


def test_gradients_by_finite_differences() -> None:
    values = torch.randn(4 * 5 * 3, 2, dtype=torch.float64, requires_grad=True)
    points = torch.rand(6, 3, dtype=torch.float64) * torch.tensor([3.0, 4.0, 2.0], dtype=torch.float64)
    index, weight = trilinear((4, 5, 3), torch.zeros(3, dtype=torch.float64), 1.0, points)
    torch.testing.assert_close(weight.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda v: gather(v, index, weight), values)
