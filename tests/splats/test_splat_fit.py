"""The photometric loss, densification and fitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from splat_scenes import cloud

from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.splats.cpu.compositing import composite, composite_backward
from v3d.splats.cpu.projection import project, project_backward
from v3d.splats.densify import Densifier, DensifySettings
from v3d.splats.fit import FitSettings, fit, warmup
from v3d.splats.gaussians import Splats, morton_order
from v3d.splats.loss import l1_ssim, l1_ssim_reference
from v3d.splats.rasterize import rasterize
from v3d.views import Views

FIELDS = ("means", "quats", "log_scales", "logit_opacity", "rgb")


@pytest.mark.parametrize("shape", [(3, 64, 64), (4, 31, 45), (1, 5, 3), (2, 9, 1), (1, 1, 1)])
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_fused_loss_agrees_with_the_reference(shape: tuple[int, ...], weight: float) -> None:
    g = torch.Generator().manual_seed(0)
    target = torch.rand(shape, generator=g)
    image = (target + 0.2 * torch.randn(shape, generator=g)).requires_grad_()
    exact = image.detach().double().requires_grad_()
    fused, reference = (
        l1_ssim(image, target, weight=weight),
        l1_ssim_reference(exact, target.double(), weight=weight),
    )
    fused.backward()
    reference.backward()
    assert fused.item() == pytest.approx(reference.item(), abs=1e-6)
    assert (image.grad - exact.grad).norm() < 1e-5 * exact.grad.norm() + 1e-9


def test_reference_loss_is_differentiated_rightly_and_zero_at_the_target() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 6, 7, generator=g, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: l1_ssim_reference(x, b), a.requires_grad_())
    assert l1_ssim(b.float(), b.float()).item() == pytest.approx(0, abs=1e-6)


def tiny_scene() -> tuple[Views, Splats]:
    """Views of 60 coloured blobs, and a start that knows only where they are, roughly."""
    truth = cloud(60, radius=0.5, scale=0.1)
    truth = replace(truth, logit_opacity=truth.logit_opacity + 3)
    cameras = orbit(6, size=32)
    with torch.no_grad():
        images = rasterize(truth, cameras)
    start = cloud(60, radius=0.5, scale=0.1, seed=1)
    start = replace(start, means=truth.means + 0.03 * start.means, rgb=torch.full((60, 3), 0.5))
    return Views(images.over(1.0), images.alpha, cameras), start


def psnr(splats: Splats, views: Views) -> float:
    with torch.no_grad():
        error = rasterize(splats, views.cameras).over(1.0) - views.rgb
    return -10 * error.square().mean().log10().item()


def test_fit_improves_the_images_and_is_deterministic() -> None:
    views, start = tiny_scene()
    settings = FitSettings(
        iterations=80, lr_means=5e-3, lr_rgb=0.05, densify=DensifySettings(every=20, max_count=100)
    )
    steps: list[tuple[int, int]] = []
    first = fit(views, start, settings, on_step=lambda done, total: steps.append((done, total)), seed=7)
    assert psnr(first, views) > psnr(start, views) + 2.5
    assert steps == [(i + 1, 80) for i in range(80)]
    assert first.is_finite.all() and first.rgb.min() >= 0 and first.rgb.max() <= 1
    assert len(first) <= 100

    second, other = (fit(views, start, settings, seed=seed) for seed in (7, 8))
    assert all(torch.equal(getattr(first, f), getattr(second, f)) for f in FIELDS)
    assert len(first) != len(other) or not torch.equal(first.means, other.means)


def test_fit_survives_broken_gaussians_and_empty_views() -> None:
    views, start = tiny_scene()
    start.means[3] = float("nan")
    start.quats[5] = 0
    settings = FitSettings(iterations=12, densify=DensifySettings(every=5))
    assert fit(views, start, settings).is_finite.all()
    empty = Views(torch.ones_like(views.rgb), torch.zeros_like(views.alpha), views.cameras)
    assert fit(empty, start, settings).is_finite.all()
    nothing = start[torch.zeros(60, dtype=torch.bool)]
    with pytest.raises(V3DError):
        fit(views, nothing, settings)


def test_perceptual_loss_sees_white_backgrounds_and_its_own_views_features() -> None:
    class Blur:
        calls = 0

        def prepare(self, images: torch.Tensor) -> Sequence[torch.Tensor]:
            return list(torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2), 8))

        def __call__(self, images: torch.Tensor, features: Sequence[torch.Tensor]) -> torch.Tensor:
            self.calls += 1
            assert images.shape == (1, 32, 32, 3) and len(features) == 1
            return (self.prepare(images)[0] - features[0]).square().mean()

    views, start = tiny_scene()
    blur = Blur()
    settings = FitSettings(iterations=30, perceptual=100.0, perceptual_every=3, densify=None)
    with_it, without = fit(views, start, settings, perceptual=blur), fit(views, start, settings)
    assert blur.calls == 10
    assert not torch.equal(with_it.rgb, without.rgb)


def test_densifier_splits_copies_and_removes() -> None:
    splats = cloud(4, scale=0.005)
    splats = replace(
        splats,
        log_scales=torch.tensor([[0.1] * 3, [0.001] * 3, [0.001] * 3, [0.001] * 3]).log(),
        logit_opacity=torch.tensor([0.0, 0.0, 0.0, -9.0]),
    )
    densifier = Densifier(DensifySettings(start=0, stop=1, every=1, screen_gradient=1.0), 10)
    gradient = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 0.0], [9.0, 0.0]])
    densifier.watch(gradient[None], 2, 2)
    result, source = densifier.update(splats, torch.Generator().manual_seed(0))
    # 0 is split (two new), 1 copied (one new), 2 kept, 3 too faint.
    assert sorted(source.tolist()) == [-1, -1, -1, 1, 2]
    assert torch.equal(result.means[source == 2], splats.means[2:3])
    assert (result.scales.amax(-1) > 0.02).sum() == 2

    densifier = Densifier(DensifySettings(start=0, stop=1, every=1, screen_gradient=1.0, max_count=4), 10)
    densifier.watch(gradient[None], 2, 2)
    assert len(densifier.update(splats, torch.Generator().manual_seed(0))[0]) == 4


def test_morton_order_keeps_neighbours_together() -> None:
    points = cloud(500).means
    order = morton_order(points)
    assert sorted(order.tolist()) == list(range(500))
    path = points[order].diff(dim=0).norm(dim=-1).mean()
    assert path < 0.4 * points.diff(dim=0).norm(dim=-1).mean()


def test_warmup_compiles_what_fitting_needs() -> None:
    warmup()
    compiled = [len(k.signatures) for k in (project, composite, composite_backward, project_backward)]
    views, start = tiny_scene()
    fit(views, start, FitSettings(iterations=1))
    assert compiled == [len(k.signatures) for k in (project, composite, composite_backward, project_backward)]
