"""Alpha: straight, premultiplied, and composited on white; the one home of these formulas.

V3D keeps views composited on white beside their alpha, and photos as straight RGBA.
"""

from __future__ import annotations

import cv2
import torch
from torch import Tensor


def over_white(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Composite straight colours [..., 3] with alpha [...] on white -> [..., 3]."""
    a = alpha[..., None]
    return rgb * a + 1 - a


def off_white(rgb: Tensor, alpha: Tensor, least: float = 1e-6) -> Tensor:
    """Take colours [..., 3] with alpha [...] off the white they were composited on -> straight, [..., 3].

    The inverse of `over_white` where alpha is at least `least`. Not clamped: colours that did not come from
    compositing may leave [0, 1].

    Args:
        least: what smaller alphas count as, so that faint pixels do not divide by almost nothing.
    """
    a = alpha[..., None]
    return (rgb - (1 - a)) / a.clamp_min(least)


def resize_rgba(rgba: Tensor, height: int, width: int) -> Tensor:
    """Resize an image [H, W, 4] of straight alpha in [0, 1] on the CPU, antialiased -> [height, width, 4].

    Filters premultiplied colours; pixels without alpha come back white. An image of that size already is
    returned as it is.
    """
    if rgba.shape[:2] == (height, width):
        return rgba
    alpha = rgba[..., 3:]
    premultiplied = torch.cat([rgba[..., :3] * alpha, alpha], -1).numpy()
    larger = height > rgba.shape[0] or width > rgba.shape[1]
    filtered = cv2.resize(
        premultiplied, (width, height), interpolation=cv2.INTER_LINEAR if larger else cv2.INTER_AREA
    )
    x = torch.from_numpy(filtered).clamp(0, 1)
    rgb = torch.where(x[..., 3:] > 1e-6, x[..., :3] / x[..., 3:].clamp_min(1e-6), torch.ones_like(x[..., :3]))
    return torch.cat([rgb.clamp(0, 1), x[..., 3:]], -1)
