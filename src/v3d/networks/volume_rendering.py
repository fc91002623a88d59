"""Volume rendering along rays: where to sample, and how samples add up (NeRF, Mildenhall et al. 2020).

Positions on a ray are numbers s in [0, 1] in log steps of camera depth: depth = near (far / near)^s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.autocast import without_autocast
from v3d.cameras import Cameras

EVEN_SHARE = 0.25
"""Share of a ray's fine samples that are spaced evenly, whatever the coarse ones have found."""


@dataclass(frozen=True)
class Rendered:
    """R rays of each of B sets of views.

    Attributes:
        rgb: [B, R, 3] in [0, 1], premultiplied by `alpha`.
        alpha: [B, R] opacity.
        depth: [B, R] expected camera depth times alpha.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor


@without_autocast
def flat_rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Origins and directions [1, V * H * W, 3] of all pixels; directions have unit camera z."""
    origins, directions = cameras.rays()
    return origins.reshape(1, -1, 3), directions.reshape(1, -1, 3)


@without_autocast
def even_edges(origins: Tensor, count: int) -> Tensor:
    """[B, R, count + 1] edges in [0, 1] of `count` equal intervals of every ray of `origins` [B, R, 3]."""
    B, R, _ = origins.shape
    return torch.linspace(0, 1, count + 1, device=origins.device).expand(B, R, -1)


@without_autocast
def importance_edges(weights: Tensor, count: int) -> Tensor:
    """Intervals of equal rendering weight (inverse transform sampling, NeRF sec. 5.2).

    A share `EVEN_SHARE` of the weight is spread evenly along the ray.

    Args:
        weights: [B, R, S] of S samples in equal intervals, see `rendering_weights`.
        count: of the new intervals.

    Returns:
        [B, R, count + 1] edges, 0 at the near end to 1 at the far end; nothing about them is random.
    """
    S = weights.shape[-1]
    # A surface between two samples is near both.
    w = F.max_pool1d(weights.reshape(-1, 1, S), 3, stride=1, padding=1).view_as(weights)
    w = w / w.sum(-1, keepdim=True).clamp_min(1e-6) * (1 - EVEN_SHARE) + EVEN_SHARE / S
    cdf = F.pad((w / w.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    at = torch.linspace(0, 1, count + 1, device=w.device).expand(*w.shape[:-1], -1).contiguous()
    right = torch.searchsorted(cdf, at, right=True).clamp(1, S)
    low, high = cdf.gather(-1, right - 1), cdf.gather(-1, right)
    return ((right - 1 + (at - low) / (high - low)) / S).clamp(0, 1)


@without_autocast
def sample_depths(edges: Tensor, near: float, far: float, jitter: Tensor | float = 0.5) -> Tensor:
    """[B, R, S] camera depths, one in every interval between `edges` [B, R, S + 1].

    Args:
        jitter: [B, R, 1] in [0, 1), where in its interval each sample lies.
    """
    return near * (far / near) ** (edges[..., :-1] + jitter * edges.diff(dim=-1))


@without_autocast
def points_on_rays(origins: Tensor, directions: Tensor, depth: Tensor) -> Tensor:
    """[B, R * S, 3] points at `depth` [B, R, S] along rays [B, R, 3]."""
    return (origins[:, :, None] + directions[:, :, None] * depth[..., None]).flatten(1, 2)


@without_autocast
def rendering_weights(
    density: Tensor,
    depth: Tensor,
    edges: Tensor,
    directions: Tensor,
    near: float,
    far: float,
    *,
    opaque: bool,
) -> Tensor:
    """Share of each sample in its ray's colour, [B, R, S]: T_i (1 - exp(-sigma_i delta_i)), NeRF eq. 3.

    Args:
        density: [B, R, S] sigma, per unit of length, at samples of camera depth `depth` [B, R, S].
        edges: [B, R, S + 1] of the intervals that the samples stand for.
        directions: [B, R, 3] of the rays, with unit camera z.
        opaque: the last sample takes what is left.
    """
    length = depth * math.log(far / near) * edges.diff(dim=-1) * directions.norm(dim=-1, keepdim=True)
    optical = density * length
    if opaque:
        optical = torch.cat([optical[..., :-1], torch.full_like(optical[..., -1:], 20.0)], -1)
    before = optical.cumsum(-1) - optical
    return torch.exp(-before) - torch.exp(-before - optical)


@without_autocast
def composite(weights: Tensor, depth: Tensor, colour: Tensor) -> Rendered:
    """Samples [B, R, S] with their colours [B, R, S, 3], summed along every ray."""
    rgb = (weights[:, :, None] @ colour)[:, :, 0]
    return Rendered(rgb, weights.sum(-1), (weights * depth).sum(-1))
