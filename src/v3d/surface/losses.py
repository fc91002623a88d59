"""What the rays of the views should show, and the losses of a distance field that is fitted to it.

The field and its colours are parameters on the N nodes of one lattice: `values` [N, 1] signed distance,
`color` [N, 3] logits. A loss is a sum over the rays that are given, divided by `SurfaceSettings.rays`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.surface.grid import Grid, gather
from v3d.surface.render import Rays, camera_rays, neus_opacity, neus_weights
from v3d.surface.settings import SurfaceSettings
from v3d.views import Views


@dataclass(frozen=True)
class Targets:
    """The rays of a fit and what each should show.

    Attributes:
        cameras: the rays are pixels of their images.
        rays: N of them.
        rgb: [N, 3] colour in [0, 1], composited on white.
        alpha: [N] coverage in [0, 1].
        edge: [N] bool, whether the pixel lies at a silhouette's border.
        normal: [N, 3] unit normals in the world, 0 where unknown; or None.
    """

    cameras: Cameras
    rays: Rays
    rgb: Tensor
    alpha: Tensor
    edge: Tensor
    normal: Tensor | None


def surface_loss(
    lattice: Grid,
    values: Tensor,
    color: Tensor,
    targets: Targets,
    chosen: Tensor,
    along: Tensor,
    softness: float,
    settings: SurfaceSettings,
) -> Tensor:
    """L1 of colour and, where normals are known, 1 - cos to the field's gradient; a scalar.

    For rays that hit the object. Their weights are made to add up to 1: these pixels are covered entirely,
    whatever the window of samples shows.

    Args:
        lattice: the nodes; its values are not read.
        values: [N, 1] signed distance.
        color: [N, 3] logits.
        targets: all rays.
        chosen: [R] numbers of the rays that count.
        along: [R, S] distances of their samples, front to back.
        softness: width of the soft shell, world units.
        settings: weights of the losses, and how many rays a step has.
    """
    rays = targets.rays[chosen]
    count, samples = along.shape
    index, corner = lattice.around(rays.at(along).view(-1, 3))
    weight = neus_weights(gather(values, index, corner).view(count, samples), softness)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-3)

    used = (weight.detach().view(-1) > 2e-3).nonzero()[:, 0]  # colour only where it is visible
    emitted = gather(color, index[used], corner[used]).sigmoid() * weight.view(-1)[used, None]
    rgb = torch.zeros(count, 3, device=color.device).index_add(0, used // samples, emitted)
    loss = settings.rgb * (rgb - targets.rgb[chosen]).abs().sum() / (3 * settings.rays)
    if targets.normal is not None:
        target = targets.normal[chosen]
        expected = (weight.detach() * along).sum(1, keepdim=True)
        slope = _slope(lattice, values, rays.at(expected)[:, 0])
        cosine = F.cosine_similarity(slope, target, dim=1)
        loss = loss + settings.normal * ((1 - cosine) * (target.abs().sum(1) > 0)).sum() / settings.rays
    return loss


def silhouette_loss(
    lattice: Grid,
    values: Tensor,
    targets: Targets,
    chosen: Tensor,
    closest: Tensor,
    softness: float,
    settings: SurfaceSettings,
) -> Tensor:
    """Cross-entropy between the alpha and the opacity of rays; a scalar.

    Args:
        lattice: the nodes; its values are not read.
        values: [N, 1] signed distance.
        targets: all rays.
        chosen: [R] numbers of the rays that count.
        closest: [R] distance along each to where it passes deepest inside the surface, or closest to it.
        softness: width of the soft shell, world units.
        settings: weight of the loss, and how many rays a step has.
    """
    points = targets.rays[chosen].at(closest[:, None])[:, 0]
    nearest = gather(values, *lattice.around(points))[:, 0]
    opacity = neus_opacity(nearest, softness).clamp(1e-3, 1 - 1e-3)
    entropy = F.binary_cross_entropy(opacity, targets.alpha[chosen], reduction="sum")
    return settings.mask * (entropy / settings.rays)


def _slope(lattice: Grid, values: Tensor, points: Tensor) -> Tensor:
    """Central differences [P, 3] of the field at points [P, 3], a voxel to either side, times two voxels."""
    step = lattice.voxel * torch.eye(3, device=points.device)
    around = torch.cat([points[:, None] + step, points[:, None] - step], dim=1)
    index, corner = lattice.around(around.view(-1, 3))
    ahead, behind = gather(values, index, corner).view(-1, 2, 3).unbind(1)
    return ahead - behind


def targets_of(views: Views, normals: Tensor | None) -> Targets:
    """The rays of the pixels that show the object or lie within two pixels of its silhouette's border.

    Args:
        views: at the size of the fit.
        normals: [V, H', W', 3] unit normals in the world at any size, 0 where unknown; resized to the views.
    """
    alpha = views.alpha.clamp(0, 1)
    grown = F.max_pool2d(alpha[:, None], 5, stride=1, padding=2)[:, 0]
    shrunk = -F.max_pool2d(-alpha[:, None], 5, stride=1, padding=2)[:, 0]
    edge = (grown > 0.02) & (shrunk < 0.98)
    used = (views.alpha > 0.5) | edge
    if normals is not None:
        size = (views.cameras.height, views.cameras.width)
        normals = F.interpolate(
            normals.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True, align_corners=False
        )
        normals = F.normalize(normals.permute(0, 2, 3, 1)[used], dim=-1)
    rays = camera_rays(views.cameras, used)
    return Targets(views.cameras, rays, views.rgb[used], alpha[used], edge[used], normals)
