"""NeuS volume rendering of a signed distance grid, in a short window of samples around the surface.

The window makes every ray cost the same few samples: the mesh of the current field says where the surface
lies, so nothing has to be searched for along the ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.meshes.rendering import rasterize_mesh
from v3d.surface.extract import marching_cubes
from v3d.surface.grid import Grid


@dataclass(frozen=True)
class Rays:
    """N rays, a subset of the pixels of V views.

    Attributes:
        pixel: [N] index into the flattened [V, H, W] images.
        origin, direction: [N, 3] in the world; directions have unit length.
        depth_scale: [N] distance along the ray per unit of camera z.
    """

    pixel: Tensor
    origin: Tensor
    direction: Tensor
    depth_scale: Tensor

    def __len__(self) -> int:
        """N, the number of rays."""
        return len(self.pixel)

    def __getitem__(self, index: Tensor) -> Rays:
        """The rays of an index or a mask."""
        return Rays(self.pixel[index], self.origin[index], self.direction[index], self.depth_scale[index])

    def at(self, distance: Tensor) -> Tensor:
        """Points [N, S, 3] at distances [N, S]."""
        return self.origin[:, None] + self.direction[:, None] * distance[..., None]


def camera_rays(cameras: Cameras, chosen: Tensor) -> Rays:
    """Rays through the pixel centres where `chosen` [V, H, W] is true."""
    origin, direction = cameras.rays()
    length = direction[chosen].norm(dim=-1)
    pixel = chosen.flatten().nonzero()[:, 0]
    return Rays(pixel, origin[chosen], direction[chosen] / length[:, None], length)


def neus_weights(sdf: Tensor, softness: float) -> Tensor:
    """Rendering weights [N, S] of samples in front-to-back order along N rays (NeuS, eq. 10-13).

        alpha_i = max(1 - Phi(sdf_i) / Phi(sdf_{i-1}), 0),   w_i = alpha_i * prod_{j<i} (1 - alpha_j)

    with the logistic Phi(x) = sigmoid(x / softness) and Phi = 1 before the first sample, so that a window
    which begins inside the soft shell keeps the opacity in front of it. The weights add up to the ray's
    opacity, at most 1, and are largest where the field crosses zero.

    Args:
        sdf: [N, S] signed distances, world units.
        softness: width of the soft shell, world units (NeuS's 1/s).
    """
    log_phi = F.logsigmoid(sdf / softness)
    log_kept = torch.cat([log_phi[:, :1], log_phi.diff(dim=1)], dim=1).clamp_max(0)
    transmittance = log_kept.cumsum(1).exp()
    return F.pad(transmittance[:, :-1], (1, 0), value=1.0) - transmittance


def neus_opacity(closest: Tensor, softness: float) -> Tensor:
    """Opacity [N] of whole rays from the smallest distance [N] along each: 1 - Phi(min sdf).

    The products in `neus_weights` telescope along a ray that enters the object once, so one sample at the
    right place is worth the whole ray; a window around the first hit would miss what a grazing ray gathers
    later, and the surface would grow to make up for it.

    Args:
        closest: [N] the smallest signed distance along each ray.
        softness: width of the soft shell, world units (NeuS's 1/s).
    """
    return torch.sigmoid(-closest / softness)


@torch.no_grad()
def first_hit(sdf: Grid, cameras: Cameras, rays: Rays) -> Tensor:
    """Distance [N] along rays, which are pixels of `cameras`, to the surface; 0 for rays that miss it.

    Raises:
        V3DError: the field has no surface.
    """
    depth = rasterize_mesh(marching_cubes(sdf), cameras).depth.flatten()[rays.pixel]
    return depth * rays.depth_scale


@torch.no_grad()
def closest_pass(sdf: Grid, rays: Rays) -> Tensor:
    """Distance [N] along N >= 1 rays to where they pass deepest inside the surface, or closest to it.

    Nodes near the ray give the place to a voxel or two, samples half a voxel apart the rest. To miss that
    place would be to read too large a distance, and the surface would grow.
    """
    low, high = sdf.bounds
    limit = torch.tensor(sdf.shape, device=low.device) - 1
    steps = int(float((high - low).norm()) / sdf.voxel) + 2
    fine = 0.5 * sdf.voxel * torch.arange(-5, 6, device=low.device)
    flat = sdf.values.flatten()
    out = []
    for first in range(0, len(rays), 8192):
        part = rays[torch.arange(first, min(first + 8192, len(rays)), device=low.device)]
        inverse = 1 / torch.where(part.direction.abs() < 1e-6, 1e-6, part.direction)
        a, b = (low - part.origin) * inverse, (high - part.origin) * inverse
        enter = torch.minimum(a, b).amax(1).clamp_min(0)
        leave = torch.maximum(a, b).amin(1)
        distance = enter[:, None] + sdf.voxel * torch.arange(steps, device=low.device)
        node = ((part.at(distance) - low) / sdf.voxel).round().long()
        node = torch.minimum(node.clamp_min(0), limit)
        index = (node[..., 0] * sdf.shape[1] + node[..., 1]) * sdf.shape[2] + node[..., 2]
        value = torch.where(distance <= leave[:, None], flat[index], torch.inf)
        distance = distance.gather(1, value.argmin(1, keepdim=True)) + fine
        best = sdf.sample(part.at(distance)).argmin(1, keepdim=True)
        out.append(distance.gather(1, best)[:, 0])
    return torch.cat(out)
