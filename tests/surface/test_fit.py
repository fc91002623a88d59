"""NeuS weights, regularizers with their hand-written adjoints, and the whole fit on small objects."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shapes import ball_views
from v3d.cameras import Cameras, orbit
from v3d.surface import regularize
from v3d.surface.carving import carve
from v3d.surface.fit import fit_surface
from v3d.surface.grid import Grid, empty_grid
from v3d.surface.render import Rays, camera_rays, closest_pass, first_hit, neus_opacity, neus_weights
from v3d.surface.settings import Level, SurfaceSettings
from v3d.views import Views

QUICK = SurfaceSettings(levels=(Level(1.0, 50, (0.8, 0.35)),), image_size=48, rays=512)


def ball_grid(radius: float = 0.5, voxel: float = 0.05) -> Grid:
    grid = empty_grid([33, 33, 33], torch.full((3,), -0.8), voxel)
    return replace(grid, values=grid.points().norm(dim=-1) - radius)


def wavy_ball(cameras: Cameras, radius: float = 0.5) -> Views:
    """A ball whose colours are waves of the place in the world."""
    return ball_views(cameras, radius, colour=lambda normal: 0.5 + 0.4 * torch.sin(8 * radius * normal))


def test_weights_are_a_distribution_of_at_most_one() -> None:
    sdf = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    weight = neus_weights(sdf, 0.3)
    assert (weight >= 0).all()
    assert (weight.sum(1) <= 1 + 1e-6).all()


def test_weights_follow_the_definition() -> None:
    sdf, scale = torch.randn(50, 9, generator=torch.Generator().manual_seed(1)), 0.4
    phi = torch.sigmoid(sdf / scale)
    previous = torch.cat([torch.ones(50, 1), phi[:, :-1]], 1)
    alpha = (1 - phi / previous).clamp_min(0)
    kept = torch.cat([torch.ones(50, 1), torch.cumprod(1 - alpha, 1)[:, :-1]], 1)
    torch.testing.assert_close(neus_weights(sdf, scale), alpha * kept, atol=1e-5, rtol=1e-4)


def test_expected_depth_is_at_the_surface_whatever_the_scale_and_slant() -> None:
    distance = torch.linspace(-1, 1, 2001)
    for cosine in (1.0, 0.4):
        for scale in (0.01, 0.03):
            weight = neus_weights((-distance * cosine)[None], scale)[0]
            assert float((weight * distance).sum() / weight.sum()) == pytest.approx(0, abs=2e-3)
            assert float(distance[weight.argmax()]) == pytest.approx(0, abs=2e-3)


def test_opacity_of_a_ray_is_that_of_its_closest_point() -> None:
    along = torch.linspace(-1, 1, 4001)
    for miss in (-0.05, 0.0, 0.03, 0.2):
        sdf = (along**2 + 0.5**2).sqrt() - 0.5 + miss
        whole = neus_weights(sdf[None], 0.05).sum()
        torch.testing.assert_close(whole, neus_opacity(torch.tensor(miss), 0.05), atol=1e-4, rtol=1e-4)


def test_rays_find_the_surface_and_their_closest_pass() -> None:
    grid, cameras = ball_grid(), orbit(2, size=32)
    rays = camera_rays(cameras, torch.ones(2, 32, 32, dtype=torch.bool))
    hit, deepest = first_hit(grid, cameras, rays), closest_pass(grid, rays)
    along = -(rays.origin * rays.direction).sum(-1)
    miss = (rays.origin + along[:, None] * rays.direction).norm(dim=-1)
    near = miss < 0.75
    assert float((deepest - along)[near].abs().max()) < grid.voxel
    solid = miss < 0.45
    exact = along - (0.5**2 - miss**2).clamp_min(0).sqrt()
    assert float((hit - exact)[solid].abs().max()) < 0.02
    assert (hit[miss > 0.53] == 0).all()


def noisy_field() -> Tensor:
    values = ball_grid(0.5, 0.05).values.double()
    return values + 0.01 * torch.randn(values.shape, generator=torch.Generator().manual_seed(2)).double()


def test_adjoints_agree_with_autograd() -> None:
    values = noisy_field().requires_grad_()
    weight = regularize.band(values.detach(), 0.2)
    eikonal, laplacian = regularize.reference_losses(values, 0.05, weight)
    (0.7 * eikonal + 0.3 * laplacian).backward()
    mine = torch.zeros_like(values)
    regularize.add_gradients(mine, values.detach(), 0.05, weight, eikonal=0.7, laplacian=0.3)
    assert values.grad is not None
    torch.testing.assert_close(mine, values.grad, atol=1e-10, rtol=1e-6)


def test_adjoints_agree_with_finite_differences() -> None:
    values = noisy_field()
    weight = regularize.band(values, 0.2)
    gradient = torch.zeros_like(values)
    regularize.add_gradients(gradient, values, 0.05, weight, eikonal=1.0, laplacian=1.0)
    direction = torch.randn(values.shape, generator=torch.Generator().manual_seed(3)).double()
    ahead, behind = (
        sum(regularize.reference_losses(values + e * direction, 0.05, weight)) for e in (1e-6, -1e-6)
    )
    assert float((gradient * direction).sum()) == pytest.approx(float((ahead - behind) / 2e-6), rel=1e-5)


def test_a_distance_field_has_almost_no_eikonal_loss() -> None:
    values = ball_grid().values
    eikonal, _ = regularize.reference_losses(values, 0.05, regularize.band(values, 0.2))
    twice, _ = regularize.reference_losses(2 * values, 0.05, regularize.band(values, 0.2))
    assert float(eikonal) < 1e-3
    assert float(twice) == pytest.approx(1.0, abs=0.05)


def test_sobolev_is_repeated_box_filtering() -> None:
    gradient = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(4))
    expected = gradient[None, None]
    for _ in range(3):
        padded = torch.nn.functional.pad(expected, (1,) * 6, mode="replicate")
        expected = torch.nn.functional.avg_pool3d(padded, 3, stride=1)
    filters = regularize.box_filters((6, 5, 7), 3)
    torch.testing.assert_close(regularize.sobolev(gradient, filters), expected[0, 0])


def test_fit_is_deterministic_by_seed_and_reports_its_steps() -> None:
    views = wavy_ball(orbit(6, size=48))
    hull = carve(views, resolution=32)
    steps: list[tuple[int, int]] = []
    first = fit_surface(views, hull, QUICK, on_step=lambda *s: steps.append(s), seed=5)
    second = fit_surface(views, hull, QUICK, seed=5)
    other = fit_surface(views, hull, QUICK, seed=6)
    assert torch.equal(first.values, second.values)
    assert not torch.equal(first.values, other.values)
    assert steps == [(i + 1, 50) for i in range(50)]


def test_fit_stays_on_a_surface_that_already_explains_the_views() -> None:
    views = wavy_ball(orbit(12, size=48))
    fitted = fit_surface(views, ball_grid(), replace(QUICK, levels=(Level(1.0, 100, (0.8, 0.35)),)))
    angle = torch.linspace(0, 6.28, 40)
    equator = 0.5 * torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    assert float(fitted.sample(equator).abs().mean()) < 0.4 * fitted.voxel


def test_wide_views_are_not_squashed_and_fit_as_well_as_square_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    square = orbit(8, size=64)
    K = square.K.clone()
    K[:, 0, 2] = 48
    wide = Cameras(square.c2w, K, 96, 64)
    used: list[Cameras] = []

    def recorded(cameras: Cameras, chosen: Tensor) -> Rays:
        used.append(cameras)
        return camera_rays(cameras, chosen)

    monkeypatch.setattr("v3d.surface.losses.camera_rays", recorded)
    angle = torch.linspace(0, 6.28, 40)
    equator = 0.5 * torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    errors = []
    for cameras, size in ((square, 48), (wide, 72)):  # the same pixels on the ball
        views = wavy_ball(cameras)
        settings = replace(QUICK, levels=(Level(1.0, 100, (0.8, 0.35)),), image_size=size)
        fitted = fit_surface(views, carve(views, resolution=32), settings)
        errors.append(float(fitted.sample(equator).abs().mean()) / fitted.voxel)
    assert [(c.width, c.height) for c in used] == [(48, 48), (72, 48)]
    assert torch.equal(used[1].K[:, 0, 0], used[1].K[:, 1, 1])
    assert errors[1] < 1.2 * errors[0] + 0.05


def test_small_objects_are_fitted_at_a_finer_scale_within_the_same_lattice() -> None:
    voxels = []
    for radius in (0.3, 0.6):
        views = wavy_ball(orbit(6, size=96), radius)
        settings = replace(QUICK, levels=(Level(1.0, 1, (0.8, 0.35)),), image_size=96, nodes=20_000)
        sdf = fit_surface(views, carve(views, resolution=48), settings)
        assert 10_000 < sdf.values.numel() <= 20_000
        voxels.append(sdf.voxel)
    assert voxels[0] < 0.7 * voxels[1]


def test_a_coarse_level_does_not_lose_what_is_thinner_than_its_voxels() -> None:
    cameras = orbit(6, size=96)
    views = wavy_ball(cameras, 0.4)
    grid = empty_grid([97, 97, 97], torch.full((3,), -0.8), 1.6 / 96)
    x = grid.points()
    mast = torch.maximum(x[..., :2].norm(dim=-1) - 0.022, (x[..., 2] - 0.5).abs() - 0.2)
    hull = replace(grid, values=torch.minimum(x.norm(dim=-1) - 0.4, mast))
    settings = replace(QUICK, levels=(Level(5.0, 1, (0.8, 0.5)), Level(1.0, 1, (0.8, 0.35))), image_size=96)
    sdf = fit_surface(views, hull, settings)
    assert float(sdf.sample(torch.tensor([[0.0, 0.0, 0.6]]))) < 0


def test_normals_turn_the_surface() -> None:
    # Textureless views of a ball; the normals say that it is one, the faceted hull of 4 views is not.
    views = wavy_ball(orbit(4, size=48))
    views = replace(views, rgb=(1 - 0.5 * views.alpha)[..., None].expand(-1, -1, -1, 3))
    origin, direction = views.cameras.rays()
    direction = torch.nn.functional.normalize(direction, dim=-1)
    along = -(origin * direction).sum(-1, keepdim=True)
    miss = (origin + along * direction).norm(dim=-1, keepdim=True)
    point = origin + direction * (along - (0.25 - miss**2).clamp_min(0).sqrt())
    normals = torch.where(miss < 0.5, point / 0.5, 0.0)
    hull = carve(views, resolution=32)
    settings = replace(QUICK, levels=(Level(1.0, 100, (0.8, 0.35)),), normal=2.0)
    angle = torch.linspace(0, 6.28, 40)
    equator = 0.5 * torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    errors = [
        float(fit_surface(views, hull, settings, normals=n).sample(equator).abs().mean())
        for n in (None, normals)
    ]
    assert errors[1] < errors[0]
