"""View 0 of a generated orbit is the photo, so where the model kept its framing the photo itself takes its place."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from v3d.views import Views

KEPT = 0.85
"""Least overlap of the two silhouettes; see `v3d.training.orbits` for when a model rightly changes the framing."""


def with_photo(views: Views, photo: Tensor) -> Views:
    """The views with the photo [H, W, 4] (colour on white, alpha; the views' size) as view 0, if its framing was kept."""
    if overlap(views.alpha[0], photo[..., 3]) <= KEPT:
        return views
    rgb, alpha = views.rgb.clone(), views.alpha.clone()
    rgb[0], alpha[0] = photo[..., :3], photo[..., 3]
    return replace(views, rgb=rgb, alpha=alpha)


def overlap(a: Tensor, b: Tensor) -> float:
    """Soft intersection over union of two alphas."""
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum().clamp_min(1e-6))
