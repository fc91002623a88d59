"""Silhouettes of views: the distance to them, a solid that fills one of them, and how far a mesh agrees."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from v3d.cameras import Cameras
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import rasterize_mesh
from v3d.surface.grid import Grid
from v3d.surface.render import camera_rays, closest_pass
from v3d.views import Views

_THICKEST = 4  # voxels, radius of the balls that are added
_FILLET = 6  # voxels, width of the fillets between the solid and the balls
_ROUNDING = 0.02  # of the image's side: a corner that was rounded by less stays so
_OUTSIDE = 10.0  # factor on the distance to a solid that nothing may be added outside of
_STRAIGHT = 0.5  # how much lower the field must be, per distance, for a ball to lie off its neighbours' depth


def silhouette_distance(alpha: Tensor) -> Tensor:
    """Signed distance to silhouettes in pixels, negative inside: alpha [V, H, W] in [0, 1] -> [V, H, W].

    Sub-pixel: across an edge pixel, coverage says where the edge lies.
    """
    masks = alpha.cpu().numpy()
    out = np.empty_like(masks, dtype=np.float32)
    for a, d in zip(masks, out, strict=True):
        inside = (a > 0.5).astype(np.uint8)
        outward, inward = pixel_distance(1 - inside), pixel_distance(inside)
        d[:] = np.where(inside, 0.5 - inward, outward - 0.5)
        edge = np.abs(d) < 1
        d[edge] = 0.5 - a[edge]
    return torch.from_numpy(out).to(alpha)


def pixel_distance(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance in pixels of every pixel of an image [H, W] to the nearest zero in it.

    Where it has no zero, the distances are larger than any image.
    """
    transformed = cv2.distanceTransform(image, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance: NDArray[np.float32] = np.asarray(transformed, np.float32)
    # The last bit of OpenCV's roots depends on where in memory the image lies; their squares are integers.
    near = distance < 4096
    distance[near] = np.sqrt(np.rint(distance[near] ** 2))
    return distance


def fill_silhouette(sdf: Grid, view: Views, *, hull: Grid | None = None, within: Grid | None = None) -> Grid:
    """Add to a solid as much as it needs to fill the silhouette of one view.

    Generated silhouettes of a thin part seldom have a point in common, so carving removes it even where the
    photo shows it. Every ray of the view that should hit the object and misses it is given a ball, as wide
    as the silhouette is there (0.9 to 4 voxels); the union of such balls has the silhouette's own shape. They
    lie about as deep as their neighbours, where the field is lowest (see `_depths`). Fillets join them to
    the solid, within the silhouette. Corners that are merely rounded, by less than 2 % of the image, stay so.

    Args:
        sdf: a field that is negative inside and grows away from the object.
        view: a batch of one, on the field's device.
        hull: fill the silhouette as far as this solid does, rounded corners or not: for a surface fitted to a
            hull that fills it.
        within: add nothing outside this solid, on the same nodes: the hull of several trusted views.

    Returns:
        The field of the larger solid, on the same nodes.
    """
    distance = silhouette_distance(view.alpha)[0]
    target = distance < 0
    rays = camera_rays(view.cameras, target[None])
    if len(rays) == 0:
        return sdf
    closest = closest_pass(sdf, rays)
    pixel = float((closest / rays.depth_scale).mean() / view.cameras.K[0, 0, 0])  # its size at the object
    depth = torch.zeros_like(distance)  # along the ray
    value = torch.full_like(distance, math.inf)
    depth[target], value[target] = closest, sdf.sample(rays.at(closest[:, None])[:, 0])
    # Half a pixel is what silhouettes disagree by anyway.
    missing = target & (value > (0.5 + distance.clamp_min(-0.5)) * pixel)
    depth, ring = _depths(sdf, view.cameras, missing, target, depth, value, pixel)
    if within is not None:
        # Inside it the lowest field says where, whatever the neighbours' depth: rays cross it but briefly.
        penalty = _OUTSIDE * within.values.clamp_min(0)
        depth[target] = closest_pass(Grid(sdf.values + penalty, sdf.origin, sdf.voxel), rays)
        missing[target] &= within.sample(rays.at(depth[target][:, None])[:, 0]) < 0.5 * sdf.voxel
    if hull is None:
        added = missing & (_largest_in_part(missing, ring) > _ROUNDING * view.cameras.width)
    else:
        filled = torch.zeros_like(target)
        filled[target] = hull.sample(rays.at(closest_pass(hull, rays)[:, None])[:, 0]) < 0
        added = missing & filled
    origin, direction = _unit_rays(view.cameras)
    centers = origin[added] + direction[added] * depth[added][:, None]
    filled_sdf = _joined(sdf, _balls(sdf, centers, -distance[added] * pixel), view.cameras, distance)
    if within is None:
        return filled_sdf
    # Up to half a voxel outside, or parts as thin as a voxel would be lost.
    return Grid(torch.maximum(filled_sdf.values, within.values - 0.5 * sdf.voxel), sdf.origin, sdf.voxel)


def _unit_rays(camera: Cameras) -> tuple[Tensor, Tensor]:
    """Origins and directions of unit length [H, W, 3] of one camera's rays."""
    origin, direction = camera.rays()
    return origin[0], F.normalize(direction[0], dim=-1)


def _depths(
    sdf: Grid, camera: Cameras, missing: Tensor, target: Tensor, depth: Tensor, value: Tensor, pixel: float
) -> tuple[Tensor, Tensor]:
    """Where along the missing rays the object may be: ring by ring outward from the rays that hit it.

    Each next ray takes the depth of its neighbours, give or take two pixels' size, where the field is lowest,
    that is, where the fewest views object (cf. shape from inconsistent silhouettes, Landabaso et al. 2008). A
    part of the silhouette that nothing hits begins at its ray with the lowest field.

    Args:
        missing, target: [H, W] the rays that should hit the object and do not, and all that should.
        depth: [H, W] along each ray to where it passes deepest inside the solid, or closest to it.
        value: [H, W] of the field there.
        pixel: size of a pixel at the object.

    Returns:
        Depth [H, W] along the rays, and the ring [H, W] in which each was found, 0 for hits.
    """
    origin, direction = _unit_rays(camera)
    steps = pixel * torch.linspace(-2, 2, 9, device=depth.device)
    has_depth, ring = target & ~missing, torch.zeros_like(depth)
    while bool((target & ~has_depth).any()):
        count = _around(has_depth.float())
        next_ = target & ~has_depth & (count > 0)
        if bool(next_.any()):
            near = (_around(depth * has_depth) / count)[next_][:, None] + steps
            field = sdf.sample(origin[next_][:, None] + direction[next_][:, None] * near[..., None])
            best = (field + _STRAIGHT * steps.abs()).argmin(1, keepdim=True)
            depth[next_] = near.gather(1, best)[:, 0]
        else:
            next_.view(-1)[torch.where(target & ~has_depth, value, math.inf).argmin()] = True
        ring[next_] = ring.max() + 1
        has_depth = has_depth | next_
    return depth, ring


def _joined(sdf: Grid, balls: Tensor, camera: Cameras, distance: Tensor) -> Grid:
    """The union of the solid and of balls (signed distance [X, Y, Z]) with fillets between them.

    A fillet is a quadratic smooth minimum, lower than both by a quarter of its width where they are equal. It
    ends where the camera's silhouette does (`distance` [H, W] to it in pixels), or it would be visible.
    """
    width = _FILLET * sdf.voxel
    union = torch.minimum(sdf.values, balls)
    blend = (1 - (sdf.values - balls).abs() / width).clamp_min(0)
    near = blend > 0
    pixels, depth = camera.project(sdf.points()[near])
    grid = camera.to_grid(pixels)[:, :, None]
    outside = F.grid_sample(distance[None, None], grid, padding_mode="border", align_corners=False)
    outside = outside[0, 0, :, 0] * depth[0] / camera.K[0, 0, 0]
    fillet = union[near] - width / 4 * blend[near].square()
    union[near] = torch.minimum(union[near], torch.maximum(fillet, outside))
    return Grid(union, sdf.origin, sdf.voxel)


def _largest_in_part(mask: Tensor, ring: Tensor) -> Tensor:
    """The largest `ring` [H, W] in each connected part of the mask [H, W], 0 outside."""
    _, labels = cv2.connectedComponents(mask.cpu().numpy().astype(np.uint8))
    part = torch.from_numpy(labels).long().to(ring.device)
    largest = torch.zeros(int(part.max()) + 1, device=ring.device)
    return largest.scatter_reduce(0, part.flatten(), (ring * mask).flatten(), "amax")[part]


def _around(image: Tensor) -> Tensor:
    """Sum over every pixel's 3 x 3 neighbourhood, [H, W]."""
    return 9 * F.avg_pool2d(image[None], 3, stride=1, padding=1)[0]


def _balls(sdf: Grid, centers: Tensor, radii: Tensor) -> Tensor:
    """Signed distance [X, Y, Z] to balls, infinite farther off than a fillet.

    Args:
        centers: [P, 3].
        radii: [P], cut to 0.9 to `_THICKEST` voxels.
    """
    radii = radii.clamp(0.9 * sdf.voxel, _THICKEST * sdf.voxel)  # at the least a node lies inside
    balls = torch.full_like(sdf.values, math.inf)
    far = _THICKEST + _FILLET
    reach = torch.arange(-far, far + 1, device=balls.device)
    window = torch.cartesian_prod(reach, reach, reach)
    limit = torch.tensor(sdf.shape, device=balls.device)
    for first in range(0, len(centers), 256):
        p, r = centers[first : first + 256], radii[first : first + 256]
        node = ((p - sdf.origin) / sdf.voxel).round().long()[:, None] + window
        in_grid = ((node >= 0) & (node < limit)).all(-1)
        ball = (sdf.origin + sdf.voxel * node - p[:, None]).norm(dim=-1) - r[:, None]
        index = (node[..., 0] * sdf.shape[1] + node[..., 1]) * sdf.shape[2] + node[..., 2]
        balls.view(-1).scatter_reduce_(0, index[in_grid], ball[in_grid], "amin")
    return balls


def silhouette_iou(mesh: Mesh, views: Views) -> float:
    """Intersection over union of the mesh's silhouettes and the views', over all views' pixels together."""
    both = either = 0
    for i in range(len(views)):  # one by one: a rasterized view is larger than the view
        hit, seen = rasterize_mesh(mesh, views.cameras[i]).face[0] >= 0, views.alpha[i] > 0.5
        both += int((hit & seen).sum())
        either += int((hit | seen).sum())
    return both / either if either else 1.0
