"""Where Gaussians are added and removed while fitting (adaptive density control)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from v3d.splats.gaussians import Splats, cat_splats, morton_order, rotations


@dataclass(frozen=True)
class DensifySettings:
    """When Gaussians are split, copied and removed (Kerbl et al. 2023, section 5.2).

    A Gaussian with a large gradient by its projected centre stands for detail that it cannot show.

    Attributes:
        start, stop: the part of the iterations, in [0, 1], between which Gaussians are added.
        every: iterations between two changes.
        screen_gradient: Gaussians with a larger mean gradient norm by the projected centre become two; the
            unit of length is half the image.
        split: those of a larger standard deviation (world units) are split, the others copied.
        min_opacity: fainter Gaussians are removed.
        max_count: never more Gaussians than this.
    """

    start: float = 0.1
    stop: float = 0.6
    every: int = 100
    screen_gradient: float = 2e-4
    split: float = 0.01
    min_opacity: float = 0.02
    max_count: int = 40_000


class Densifier:
    """Watches the gradients between changes; `update` makes the next cloud.

    Attributes:
        settings: when and how much the cloud changes, over `iterations` of the fit.
    """

    def __init__(self, settings: DensifySettings, iterations: int) -> None:
        self.settings = settings
        self._first, self._last = int(settings.start * iterations), int(settings.stop * iterations)
        self._sum: Tensor | None = None  # [N] of gradient norms
        self._count: Tensor | None = None  # [N] of views that had a gradient

    def watch(self, screen_gradient: Tensor, width: int, height: int) -> None:
        """Take in the gradients [V, N, 2] by the projected centres (pixels) of one iteration."""
        half_size = screen_gradient.new_tensor([width / 2, height / 2])
        norm = (screen_gradient * half_size).norm(dim=-1)
        total, count = norm.sum(0), (norm > 0).sum(0)
        self._sum = total if self._sum is None else self._sum + total
        self._count = count if self._count is None else self._count + count

    def is_due(self, iteration: int) -> bool:
        """Whether the cloud changes after this iteration (from 0)."""
        return self._first <= iteration <= self._last and (iteration + 1) % self.settings.every == 0

    def update(self, splats: Splats, generator: torch.Generator) -> tuple[Splats, Tensor]:
        """The next cloud, in Morton order.

        Faint Gaussians go; of those with a large gradient small ones are copied, large ones halved.

        Returns:
            The cloud, and for each of its Gaussians the index [N'] of the one it continues, -1 if it is new.
        """
        settings = self.settings
        assert self._sum is not None and self._count is not None, "nothing was watched"
        gradient = self._sum / self._count.clamp_min(1)
        self._sum = self._count = None

        keep = (splats.opacity > settings.min_opacity) & splats.is_finite
        grown = keep & (gradient > settings.screen_gradient)
        room = max(settings.max_count - int(keep.sum()), 0)
        if int(grown.sum()) > room:
            strongest = torch.where(grown, gradient, 0.0).argsort(descending=True, stable=True)[:room]
            grown = torch.zeros_like(grown).index_fill_(0, strongest, True)
        large = splats.scales.amax(-1) > settings.split

        split, copy = splats[grown & large], splats[grown & ~large]
        kept = (keep & ~(grown & large)).nonzero()[:, 0]
        halves = [_sample_half(split, generator), _sample_half(split, generator)]
        new = cat_splats([*halves, copy])
        source = torch.cat([kept, torch.full((len(new),), -1, device=kept.device)])
        joined = cat_splats([splats[kept], new])
        order = morton_order(joined.means)
        return joined[order], source[order]


def _sample_half(splats: Splats, generator: torch.Generator) -> Splats:
    """One smaller Gaussian at a random place in each, drawn from its own distribution."""
    noise = torch.randn(splats.means.shape, generator=generator, dtype=splats.means.dtype)
    offset = rotations(splats.quats) @ (splats.scales * noise.to(splats.means.device))[..., None]
    return Splats(
        splats.means + offset[..., 0],
        splats.quats,
        splats.log_scales - 0.47,  # 1.6 times smaller, as in Kerbl et al.
        splats.logit_opacity,
        splats.rgb,
    )
