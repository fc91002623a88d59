"""Fitting Gaussians to views: the paper's 3D Gaussian stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.errors import V3DError
from v3d.networks.perceptual import Perceptual
from v3d.splats import cpu
from v3d.splats.densify import Densifier, DensifySettings
from v3d.splats.gaussians import Splats, morton_order
from v3d.splats.loss import l1_ssim
from v3d.splats.rasterize import SplatImages, rasterize
from v3d.views import Views

OnSplats = Callable[[Splats], None]
"""Called with Gaussians as they are fitted; it must not change them."""


@dataclass(frozen=True)
class FitSettings:
    """How Gaussians are fitted; the defaults suit 18 views of 256 pixels and about 20,000 Gaussians.

    Attributes:
        iterations: gradient steps, of one view each.
        lr_means, lr_quats, lr_log_scales, lr_logit_opacity, lr_rgb: learning rates of Adam at the start, one
            for each tensor of `Splats`.
        lr_final: all decay exponentially to this share of themselves.
        ssim: share of 1 - SSIM in the photometric loss; the rest is L1.
        opacity: weight of the mean opacity, which makes Gaussians that nothing needs fade.
        perceptual: weight of the perceptual loss, applied every `perceptual_every`-th iteration.
        densify: None keeps the number of Gaussians.
    """

    iterations: int = 1000
    lr_means: float = 8e-4
    lr_quats: float = 5e-3
    lr_log_scales: float = 1e-2
    lr_logit_opacity: float = 5e-2
    lr_rgb: float = 1e-2
    lr_final: float = 0.05
    ssim: float = 0.2
    opacity: float = 0.001
    perceptual: float = 0.1
    perceptual_every: int = 4
    densify: DensifySettings | None = field(default_factory=DensifySettings)


def fit(
    views: Views | Sequence[Views],
    initial: Splats,
    settings: FitSettings | None = None,
    *,
    shares: Sequence[float] | None = None,
    perceptual: Perceptual | None = None,
    on_step: OnStep | None = None,
    on_splats: OnSplats | None = None,
    seed: int = 0,
) -> Splats:
    """Fit Gaussians to posed views by gradient descent; runs on the device of `initial`.

    Render and target are composited on the same random colour, so that transparency is learned as such.

    Args:
        views: one batch of views, or several, each with its own image size.
        initial: where to start, for example on the visual hull (see `v3d.splats.initial`).
        settings: by default `FitSettings()`.
        shares: how often each view is used beside the others, non-negative; by default all alike.
        perceptual: an optional perceptual loss, on white background.
        on_step: called with (iterations done, iterations in all) after every iteration.
        on_splats: called with the Gaussians after every iteration.
        seed: of everything random; same seed, machine and number of threads: same result.

    Returns:
        Gaussians, all finite, colours in [0, 1], in Morton order.

    Raises:
        V3DError: there is no (finite) Gaussian to start from.
    """
    settings = settings or FitSettings()
    device = initial.means.device
    groups = [group.to(device) for group in ([views] if isinstance(views, Views) else views)]
    targets = [group[i] for group in groups for i in range(len(group))]
    weights = torch.ones(len(targets)) if shares is None else torch.tensor(shares)
    generator = torch.Generator().manual_seed(seed)
    densifier = Densifier(settings.densify, settings.iterations) if settings.densify else None
    features = [f for group in groups for f in perceptual.prepare(group.rgb)] if perceptual else None
    splats = _leaves(_checked(initial))
    adam = _adam(splats, settings)

    for iteration, v in zip(range(settings.iterations), _shuffled(weights, generator), strict=False):
        target = targets[v]
        images = rasterize(splats, target.cameras)
        loss = photometric_loss(images, target, torch.rand(3, generator=generator).to(device), settings.ssim)
        if perceptual and features and iteration % settings.perceptual_every == 0:
            loss = loss + settings.perceptual * perceptual(images.over(1.0), [features[v]])
        loss = loss + settings.opacity * splats.opacity.mean()
        _descend(adam, loss, settings.lr_final ** (iteration / settings.iterations))

        if densifier:
            assert images.screen is not None and images.screen.grad is not None
            densifier.watch(images.screen.grad, target.cameras.width, target.cameras.height)
            if densifier.is_due(iteration):
                splats, source = densifier.update(_detached(splats), generator)
                splats = _leaves(splats)
                adam = _adam(splats, settings, adam, source)
        _tell(on_step, on_splats, iteration + 1, settings.iterations, splats)
    return _finished(_detached(splats))


def _tell(
    on_step: OnStep | None, on_splats: OnSplats | None, done: int, iterations: int, splats: Splats
) -> None:
    """Call those who want to know."""
    if on_step:
        on_step(done, iterations)
    if on_splats:
        on_splats(_detached(splats))


def _finished(splats: Splats) -> Splats:
    """The finite Gaussians, their colours clamped to [0, 1]."""
    splats = splats[splats.is_finite]
    return replace(splats, rgb=splats.rgb.clamp(0, 1))


def warmup() -> None:
    """Compile the CPU kernels that fitting needs, or load them from Numba's cache.

    About ten seconds the first time.
    """
    cpu.warmup()
    image = torch.zeros(1, 8, 8)
    l1_ssim(image, image)


def photometric_loss(images: SplatImages, views: Views, background: Tensor, ssim: float) -> Tensor:
    """L1 + SSIM of colour over a shared background, and of alpha; a scalar.

    Args:
        images: rendered, of V views.
        views: what they should show.
        background: [3] colour that both are composited on.
        ssim: share of 1 - SSIM in the loss, in [0, 1].
    """
    target = views.rgb + (1 - views.alpha)[..., None] * (background - 1)
    rendered = torch.cat([images.over(background), images.alpha[..., None]], -1)
    target = torch.cat([target, views.alpha[..., None]], -1)
    planes = [x.permute(0, 3, 1, 2).flatten(0, 1) for x in (rendered, target)]
    return l1_ssim(*planes, weight=ssim)


def _checked(initial: Splats) -> Splats:
    """The finite Gaussians, in Morton order.

    Raises:
        V3DError: there are none.
    """
    splats = initial[initial.is_finite]
    if len(splats) == 0:
        raise V3DError(
            "There are no Gaussians to fit: the hull is empty; check the views' masks and cameras."
        )
    return splats[morton_order(splats.means)]


def _shuffled(shares: Tensor, generator: torch.Generator) -> Iterator[int]:
    """View numbers without end, view v in proportion to `shares[v]`.

    If the shares are equal, every view comes once, then every view again.
    """
    count = len(shares)
    edges = shares.double().cumsum(0) * (count / shares.double().sum())
    while True:
        at = torch.arange(count) + torch.rand((), generator=generator, dtype=torch.float64) * (1 - 1e-6)
        views = torch.searchsorted(edges, at, right=True).clamp_max(count - 1)
        yield from views[torch.randperm(count, generator=generator)].tolist()


def _detached(splats: Splats) -> Splats:
    return Splats(*(getattr(splats, f.name).detach() for f in fields(splats)))


def _leaves(splats: Splats) -> Splats:
    return Splats(*(getattr(splats, f.name).detach().clone().requires_grad_() for f in fields(splats)))


def _descend(adam: torch.optim.Adam, loss: Tensor, decay: float) -> None:
    """One step down the loss, with learning rates `decay` times the first ones."""
    for group in adam.param_groups:
        group["lr"] = group["initial_lr"] * decay
    torch.autograd.backward(loss)
    adam.step()
    adam.zero_grad()


def _adam(
    splats: Splats,
    settings: FitSettings,
    previous: torch.optim.Adam | None = None,
    source: Tensor | None = None,
) -> torch.optim.Adam:
    """Adam over the fields of `splats`.

    Gaussians that continue one of `previous` keep its moments; `source` [N] says which
    (see `Densifier.update`).
    """
    groups = [
        {
            "params": [getattr(splats, f.name)],
            "lr": (lr := getattr(settings, f"lr_{f.name}")),
            "initial_lr": lr,
        }
        for f in fields(splats)
    ]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)
    if previous is not None and source is not None:
        for new, old in zip(adam.param_groups, previous.param_groups, strict=True):
            state = dict(previous.state[old["params"][0]])
            for moment in ("exp_avg", "exp_avg_sq"):
                kept = (source >= 0).view(-1, *[1] * (state[moment].dim() - 1))
                state[moment] = state[moment][source.clamp_min(0)] * kept
            adam.state[new["params"][0]] = state
    return adam
