"""View 0 of a generated orbit shows what the photo shows; where the framing was kept, it is the photo."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from v3d.metrics import soft_iou
from v3d.views import Views

SAME_FRAMING = 0.85
"""Least soft IoU of the silhouettes; `v3d.data.variants` says when a model rightly changes the framing."""


def photo_as_front(views: Views, photo: Tensor) -> Views:
    """The views with the photo as view 0, if the model kept its framing; else `views` themselves.

    Args:
        photo: [H, W, 4] in [0, 1], colour on white, then alpha, of the views' size.
    """
    if soft_iou(views.alpha[0], photo[..., 3]) <= SAME_FRAMING:
        return views
    rgb, alpha = views.rgb.clone(), views.alpha.clone()
    rgb[0], alpha[0] = photo[..., :3], photo[..., 3]
    return replace(views, rgb=rgb, alpha=alpha)
