"""Small clouds and cameras that the splat tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from v3d.cameras import Cameras, look_at
from v3d.splats.gaussians import Splats


def cloud(count: int, *, radius: float = 0.7, scale: float = 0.06, seed: int = 0) -> Splats:
    """Random Gaussians on a sphere."""
    g = torch.Generator().manual_seed(seed)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1) * radius
    return Splats(
        means=means,
        quats=torch.randn(count, 4, generator=g),
        log_scales=torch.log(torch.tensor(scale)) + 0.6 * torch.randn(count, 3, generator=g),
        logit_opacity=torch.randn(count, generator=g),
        rgb=torch.rand(count, 3, generator=g),
    )


def odd_camera(width: int, height: int) -> Cameras:
    """Off-centre, fx != fy, tilted."""
    K = torch.tensor([[0.9 * width, 0.0, 0.52 * width], [0.0, 1.1 * width, 0.47 * height], [0.0, 0.0, 1.0]])
    return Cameras(look_at(torch.tensor([[1.2, -1.3, 0.8]])), K[None], width, height)


def raw(splats: Splats) -> list[Tensor]:
    """The backends' first six arguments."""
    screen = torch.zeros(len(splats), 2)
    return [splats.means, splats.quats, splats.scales, splats.opacity, splats.rgb, screen]
