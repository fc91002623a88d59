"""The rays of a fit, and the losses of a field against the views that it should show."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from v3d.cameras import orbit
from v3d.surface.grid import Grid, empty_grid
from v3d.surface.losses import Targets, silhouette_loss, surface_loss, targets_of
from v3d.surface.render import closest_pass, first_hit
from v3d.surface.settings import SurfaceSettings
from v3d.views import Views

RADIUS, SOFTNESS = 0.5, 0.02
SETTINGS = SurfaceSettings(rays=100)


def ball(radius: float = RADIUS) -> Grid:
    grid = empty_grid([41, 41, 41], torch.full((3,), -0.8), 0.04)
    return replace(grid, values=grid.points().norm(dim=-1) - radius)


def ball_views(width: int = 32, height: int = 32) -> tuple[Views, Tensor]:
    """Three views of a ball of one colour with soft edges, and its normals [V, H, W, 3], 0 outside."""
    cameras = orbit(3, size=32).resized(width, height)
    origin, direction = cameras.rays()
    direction = torch.nn.functional.normalize(direction, dim=-1)
    along = -(origin * direction).sum(-1, keepdim=True)
    miss = (origin + along * direction).norm(dim=-1)
    alpha = torch.sigmoid((RADIUS - miss) / SOFTNESS)
    point = origin + direction * (along - (RADIUS**2 - miss**2).clamp_min(0).sqrt()[..., None])
    rgb = torch.tensor([0.8, 0.3, 0.1]) * alpha[..., None] + 1 - alpha[..., None]
    normals = torch.where(miss[..., None] < RADIUS, point / RADIUS, 0.0)
    return Views(rgb, alpha, cameras), normals


def colour_and_normal(grid: Grid, targets: Targets, color: Tensor, settings: SurfaceSettings) -> Tensor:
    hit = first_hit(ball(), targets.cameras, targets.rays)
    chosen = ((targets.alpha > 0.99) & (hit > 0)).nonzero()[:, 0]
    along = hit[chosen, None] + 0.75 * grid.voxel * (torch.arange(10) - 4.5)
    values = grid.values.reshape(-1, 1)
    return surface_loss(grid, values, color, targets, chosen, along, SOFTNESS, settings)


def silhouette(grid: Grid, targets: Targets) -> Tensor:
    chosen = targets.edge.nonzero()[:, 0]
    closest = closest_pass(ball(), targets.rays[chosen])
    return silhouette_loss(grid, grid.values.reshape(-1, 1), targets, chosen, closest, SOFTNESS, SETTINGS)


def test_rays_are_those_of_the_object_and_its_border() -> None:
    views, normals = ball_views(48, 32)
    targets = targets_of(views, normals)
    pixels = targets.rays.pixel
    assert torch.equal(targets.alpha, views.alpha.flatten()[pixels])
    assert torch.equal(targets.rgb, views.rgb.flatten(0, 2)[pixels])
    left_out = torch.ones(views.alpha.numel(), dtype=torch.bool).index_fill(0, pixels, False)
    assert float(views.alpha.flatten()[left_out].max()) < 0.02
    assert 0 < int(targets.edge.sum()) < len(pixels)
    assert bool((targets.alpha[~targets.edge] > 0.98).all())
    assert targets_of(views, None).normal is None


def test_normals_of_any_size_come_to_that_of_the_views_with_unit_length() -> None:
    views, _ = ball_views()
    _, large = ball_views(64, 64)
    targets = targets_of(views, large)
    assert targets.normal is not None
    length = targets.normal.norm(dim=-1)
    assert bool(((length - 1).abs() < 1e-5).logical_or(length == 0).all())
    solid = ~targets.edge
    hit = first_hit(ball(), targets.cameras, targets.rays)
    outward = targets.rays.at(hit[:, None])[:, 0] / RADIUS
    assert float((targets.normal * outward).sum(-1)[solid].min()) > 0.99


def test_losses_are_least_for_the_ball_that_made_the_views() -> None:
    views, normals = ball_views()
    targets = targets_of(views, normals)
    color = torch.tensor([0.8, 0.3, 0.1]).logit().expand(41**3, 3)
    right = float(colour_and_normal(ball(), targets, color, SETTINGS))
    wrong = float(colour_and_normal(ball(), targets, color + 1, SETTINGS))
    assert right < 0.05 * wrong
    # A tilted field has other normals, and the same colours.
    tilted = replace(ball(), values=ball().values + 0.2 * ball().points()[..., 2])
    turned = float(colour_and_normal(tilted, targets, color, SETTINGS))
    blind = replace(SETTINGS, normal=0.0)
    assert turned > right + 0.01
    assert float(colour_and_normal(tilted, targets, color, blind)) < 0.05 * wrong
    exact, small, large = (float(silhouette(ball(RADIUS + d), targets)) for d in (0.0, -0.02, 0.02))
    assert exact < min(small, large)


def test_pixels_without_a_normal_have_no_normal_loss() -> None:
    views, normals = ball_views()
    color = torch.zeros(41**3, 3)
    without = colour_and_normal(ball(0.45), targets_of(views, None), color, SETTINGS)
    unknown = colour_and_normal(ball(0.45), targets_of(views, torch.zeros_like(normals)), color, SETTINGS)
    torch.testing.assert_close(unknown, without, rtol=0, atol=0)


def test_gradients_are_finite_differences() -> None:
    views, _ = ball_views()
    targets = targets_of(views, None)
    field, color = ball(0.48), 4 * ball().points().reshape(-1, 3)  # colours that change with depth too

    def of_shift(shift: Tensor) -> Tensor:
        return silhouette(replace(field, values=field.values + shift), targets)

    def of_color(shift: Tensor) -> Tensor:
        return colour_and_normal(field, targets, color + shift, SETTINGS)

    def of_depth(shift: Tensor) -> Tensor:
        shifted = replace(field, values=field.values + shift)
        return colour_and_normal(shifted, targets, color, SETTINGS)

    # Samples of little weight emit no colour; the derivative by the field does not know where that ends.
    for loss, tolerance in ((of_shift, 0.01), (of_color, 0.01), (of_depth, 0.2)):
        zero = torch.zeros((), requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(zero), zero)
        ahead, behind = (float(loss(torch.tensor(step))) for step in (1e-3, -1e-3))
        assert float(gradient) == pytest.approx((ahead - behind) / 2e-3, rel=tolerance)
