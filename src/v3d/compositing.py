"""Compositing."""

from __future__ import annotations

import cv2
import torch
from torch import Tensor


def resize_rgba(rgba: Tensor, height: int, width: int) -> Tensor:
    """Resize straight-alpha [H, W, 4] with premultiplied colours, antialiased -> [height, width, 4]."""
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
