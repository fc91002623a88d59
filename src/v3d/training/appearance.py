"""Another look for a batch of renders: colours for all images of a set, and what photos of the world have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.compositing import off_white

Uniform = Callable[..., Tensor]
"""`uniform(*shape)`: numbers [B, *shape] in [0, 1), those of a step's samples."""

_RECOLOURED, _SOFT, _NOISY = 0.5, 0.15, 0.2  # shares of the samples
_DARKEST_TINT, _GAMMA_STD, _NOISE = 0.8, 0.3, 0.02
_LEAST_ALPHA, _LEAST_COLOUR = 1e-3, 1e-4  # neither division by nothing nor a gradient of 0^gamma


@dataclass(frozen=True)
class Appearance:
    """How the colours of B sets of images change: each set's alike.

    Attributes:
        channels: [B, 3] permutation of the colour channels.
        tint: [B, 3] factors.
        gamma: [B] exponents.
    """

    channels: Tensor
    tint: Tensor
    gamma: Tensor

    @staticmethod
    def draw(uniform: Uniform) -> Appearance:
        """Channels of half of the sets change places; all are tinted, and their contrast changes."""
        kept = (uniform() >= _RECOLOURED)[:, None]
        shuffled = uniform(3).argsort(1)
        channels = torch.where(kept, torch.arange(3, device=shuffled.device), shuffled)
        normal = (-2 * (1 - uniform()).log()).sqrt() * (2 * torch.pi * uniform()).cos()  # Box-Muller
        gamma = (_GAMMA_STD * normal).exp().clamp(0.5, 2.0)
        return Appearance(channels, _DARKEST_TINT + (1 - _DARKEST_TINT) * uniform(3), gamma)

    def first(self, count: int) -> Appearance:
        """That of the first sets."""
        return Appearance(self.channels[:count], self.tint[:count], self.gamma[:count])

    def __call__(self, images: Tensor) -> Tensor:
        """Renders in their new colours.

        Args:
            images: uint8 or float [B, ..., 4] in [0, 255], colour on white, then alpha.

        Returns:
            [B, ..., 4] in [0, 1]: colour premultiplied by alpha, then alpha.
        """
        x = images.float() / 255
        of_set = (len(x), *[1] * (x.ndim - 2))
        alpha = x[..., 3:]
        straight = off_white(x[..., :3], x[..., 3], _LEAST_ALPHA).clamp(0, 1)
        straight = straight.gather(-1, self.channels.view(*of_set, 3).expand_as(straight))
        straight = (straight * self.tint.view(*of_set, 3)).clamp_min(_LEAST_COLOUR)
        return torch.cat([straight ** self.gamma.view(*of_set, 1) * alpha, alpha], -1)


def softened(photos: Tensor, uniform: Uniform) -> Tensor:
    """Photos [B, N, S, S, 4], some sets of them as blurred as if they were half as large."""
    soft = (uniform() < _SOFT)[:, None, None, None, None]
    x = photos.flatten(0, 1).permute(0, 3, 1, 2)
    x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
    return torch.where(soft, x.permute(0, 2, 3, 1).unflatten(0, photos.shape[:2]), photos)


def noise_levels(uniform: Uniform) -> Tensor:
    """[B] standard deviations of the noise of photos; most have none."""
    return torch.where(uniform() < _NOISY, _NOISE * uniform(), 0.0)
