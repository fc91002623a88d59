"""View 0 of a generated orbit is the photo, so where the model kept its framing the photo itself takes its place."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from v3d.metrics import soft_iou
from v3d.views import Views

KEPT = 0.85
"""Least overlap of the two silhouettes; see `v3d.data.variants` for when a model rightly changes the framing."""


def with_photo(views: Views, photo: Tensor) -> Views:
    """The views with the photo [H, W, 4] (colour on white, alpha; the views' size) as view 0, if its framing was kept."""
    if soft_iou(views.alpha[0], photo[..., 3]) <= KEPT:
        return views
    rgb, alpha = views.rgb.clone(), views.alpha.clone()
    rgb[0], alpha[0] = photo[..., :3], photo[..., 3]
    return replace(views, rgb=rgb, alpha=alpha)
