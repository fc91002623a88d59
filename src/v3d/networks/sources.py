"""Posed photos that PixelNeRF reads: their rays, where points project to, and their weights for a view."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.autocast import without_autocast
from v3d.cameras import Cameras, poses

FALLOFF = 1.5
"""Exponent by which a photo's weight falls with the distance of its camera, see `camera_similarity`."""


@dataclass(frozen=True)
class Sources:
    """Posed photos: B sets of N.

    Attributes:
        images: [B, N, 4, S, S] in [-1, 1], colour on white, then alpha.
        w2c: [B, N, 4, 4] world-to-camera.
        K: [B, N, 3, 3] intrinsics in units of the image's side.
        weights: [B, N, G] weight of each photo in the pooling, for each of G equal parts of the rays or views
            that are rendered (see `camera_similarity`).
    """

    images: Tensor
    w2c: Tensor
    K: Tensor
    weights: Tensor

    @staticmethod
    @without_autocast
    def of(images: Tensor, cameras: Cameras, weights: Tensor | None = None) -> Sources:
        """One set (B = 1): images [N, 4, S, S] with weights [N, G], by default all 1."""
        unit = cameras.resized(1, 1)
        weights = torch.ones_like(unit.K[:, 0, :1]) if weights is None else weights
        return Sources(images[None], unit.w2c[None], unit.K[None], weights[None])

    @staticmethod
    def stack(sets: list[Sources]) -> Sources:
        """A batch of sets with equally many photos."""
        return Sources(*(torch.cat([getattr(s, f.name) for s in sets]) for f in fields(Sources)))

    def to(self, device: torch.device | str) -> Sources:
        """The photos on another device."""
        return Sources(*(getattr(self, f.name).to(device) for f in fields(self)))


@without_autocast
def project(sources: Sources, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where points lie in every photo.

    Args:
        points: [B, P, 3] in the world.

    Returns:
        Image coordinates [B, N, P, 2], 0 to 1 from edge to edge, and camera depth [B, N, P]. Coordinates of
        points that are not in front of a camera (depth at most 0) mean nothing.
    """
    x = torch.einsum("bnij,bpj->bnpi", sources.w2c[..., :3, :3], points) + sources.w2c[..., None, :3, 3]
    z = x[..., 2].clamp_min(1e-3)
    K = sources.K
    uv = torch.einsum("bnij,bnpj->bnpi", K[..., :2, :2], x[..., :2] / z[..., None]) + K[..., None, :2, 2]
    return uv, x[..., 2]


@without_autocast
def patch_rays(sources: Sources, tokens: int) -> Tensor:
    """Plücker rays [B, N, tokens^2, 6] (moment, unit direction) of patch centres, rows first."""
    at = (torch.arange(tokens, dtype=sources.K.dtype, device=sources.K.device) + 0.5) / tokens
    pixels = torch.stack(
        [at.repeat(tokens), at.repeat_interleave(tokens), torch.ones_like(at).repeat(tokens)]
    )
    R, t = sources.w2c[..., :3, :3], sources.w2c[..., :3, 3:]
    directions = F.normalize((R.mT @ torch.linalg.inv(sources.K) @ pixels).mT, dim=-1)
    origin = -(R.mT @ t).mT.expand_as(directions)
    return torch.cat([torch.linalg.cross(origin, directions), directions], -1)


@without_autocast
def camera_similarity(photos: Cameras, views: Cameras) -> Tensor:
    """Weight of each of N photos for each of V views, [N, V]: (distance / least distance)^-FALLOFF.

    The distance is that of `v3d.cameras.poses`, of places and of viewing directions; the nearest photo
    has weight 1.
    """
    distance = (poses(photos, photos)[:, None] - poses(views, photos)).norm(dim=-1).clamp_min(1e-3)
    weights: Tensor = (distance / distance.amin(0)) ** -FALLOFF
    return weights
