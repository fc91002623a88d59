"""Outlines of views: the distance to them, a solid that fills one of them, and how far a mesh agrees with them."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import rasterize_mesh
from v3d.surface.grid import Grid
from v3d.surface.render import camera_rays, closest_pass
from v3d.views import Views

_THICKEST = 4  # voxels, radius of what is added
_FILLET = 6  # voxels, width of the fillets between the solid and what is added
_ROUNDING = 0.02  # of the image's side: a corner that was rounded by less stays so
_STRAIGHT = 0.5  # how much lower the field must be, per distance, for what is added to leave its way


def silhouette_distance(alpha: Tensor) -> Tensor:
    """Signed distance to the silhouette in pixels, negative inside: alpha [V, H, W] -> [V, H, W]."""
    masks = alpha.cpu().numpy()
    out = np.empty_like(masks, dtype=np.float32)
    for a, d in zip(masks, out, strict=True):
        inside = (a > 0.5).astype(np.uint8)
        outward = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        inward = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        d[:] = np.where(inside, 0.5 - inward, outward - 0.5)
        # Across an edge pixel, coverage itself says where the edge lies.
        edge = np.abs(d) < 1
        d[edge] = 0.5 - a[edge]
    return torch.from_numpy(out).to(alpha)


def fill_silhouette(sdf: Grid, view: Views, *, hull: Grid | None = None) -> Grid:
    """The solid, and as much more of it as fills the outline of one view.

    Guessed silhouettes of a thin part seldom have a point in common, so carving loses it even where the photo shows it. Every
    ray of the view that should meet the object and does not is given a ball, as wide as the outline is there (0.9 to
    `_THICKEST` voxels); the union of such balls has the outline's own shape. From the rays that do meet the
    solid outward, each next ball lies near its neighbours, where the field is lowest: where the fewest views object
    (cf. shape from inconsistent silhouettes, Landabaso et al. 2008). Fillets join them to the solid, within the outline.

    Corners that are merely rounded stay so (`_ROUNDING`).

    Args:
        sdf: a field that is negative inside and grows away from the object.
        view: one view.
        hull: fill the outline as far as this solid does, rounded corners or not: for a surface fitted to a hull that fills it.
    """
    distance = silhouette_distance(view.alpha)[0]
    told = distance < 0
    rays = camera_rays(view.cameras, told[None])
    if len(rays) == 0:
        return sdf
    along = closest_pass(sdf, rays)
    pixel = float((along / rays.depth_scale).mean() / view.cameras.K[0, 0, 0])
    lowest = sdf.sample(rays.at(along[:, None])[:, 0])
    place = torch.zeros_like(distance)  # distance along the ray
    value = torch.full_like(distance, math.inf)
    place[told], value[told] = along, lowest
    # Half a pixel is what outlines disagree by anyway.
    missed = told & (value > (0.5 + distance.clamp_min(-0.5)) * pixel)
    origin, direction = (x[0] for x in view.cameras.rays())
    direction = F.normalize(direction, dim=-1)
    steps = pixel * torch.linspace(-2, 2, 9, device=place.device)
    known, turn = told & ~missed, torch.zeros_like(distance)
    while bool((told & ~known).any()):
        count = _around(known.float())
        next_ = told & ~known & (count > 0)
        if bool(next_.any()):
            near = (_around(place * known) / count)[next_][:, None] + steps
            field = sdf.sample(origin[next_][:, None] + direction[next_][:, None] * near[..., None])
            best = (field + _STRAIGHT * steps.abs()).argmin(1, keepdim=True)
            place[next_] = near.gather(1, best)[:, 0]
        else:  # a part of the outline of its own: it begins where the field is lowest
            next_.view(-1)[torch.where(told & ~known, value, math.inf).argmin()] = True
        turn[next_] = turn.max() + 1
        known = known | next_
    if hull is None:
        lost = missed & (_farthest(missed, turn) > _ROUNDING * view.cameras.width)
    else:
        met = torch.zeros_like(told)
        met[told] = hull.sample(rays.at(closest_pass(hull, rays)[:, None])[:, 0]) < 0
        lost = missed & met
    points = origin[lost] + direction[lost] * place[lost][:, None]
    return _joined(sdf, _balls(sdf, points, -distance[lost] * pixel), view.cameras, distance)


def _joined(sdf: Grid, balls: Tensor, camera: Cameras, distance: Tensor) -> Grid:
    """The union of the solid and of balls (signed distance [X, Y, Z]) with fillets between them.

    A fillet is a quadratic smooth minimum, lower than both by a quarter of its width where they are equal. It ends
    where the camera's outline does (`distance` [H, W] to it in pixels): farther out nothing is to be seen.
    """
    width = _FILLET * sdf.voxel
    union = torch.minimum(sdf.values, balls)
    blend = (1 - (sdf.values - balls).abs() / width).clamp_min(0)
    near = blend > 0
    pixels, depth = camera.project(sdf.points()[near])
    grid = (pixels / pixels.new_tensor([camera.width, camera.height]) * 2 - 1)[:, :, None]
    outside = F.grid_sample(distance[None, None], grid, padding_mode="border", align_corners=False)[
        0, 0, :, 0
    ]
    outside = outside * depth[0] / camera.K[0, 0, 0]
    fillet = union[near] - width / 4 * blend[near].square()
    union[near] = torch.minimum(union[near], torch.maximum(fillet, outside))
    return Grid(union, sdf.origin, sdf.voxel)


def _farthest(mask: Tensor, turn: Tensor) -> Tensor:
    """The largest `turn` [H, W] in each connected part of the mask, 0 outside."""
    _, labels = cv2.connectedComponents(mask.cpu().numpy().astype(np.uint8))
    part = torch.from_numpy(labels).long().to(turn.device)
    most = torch.zeros(int(part.max()) + 1, device=turn.device)
    return most.scatter_reduce(0, part.flatten(), (turn * mask).flatten(), "amax")[part]


def _around(image: Tensor) -> Tensor:
    """Sum over every pixel's 3 x 3 neighbourhood, [H, W]."""
    return 9 * F.avg_pool2d(image[None], 3, stride=1, padding=1)[0]


def _balls(sdf: Grid, centers: Tensor, radii: Tensor) -> Tensor:
    """Signed distance [X, Y, Z] to balls (centres [P, 3], radii [P] cut to 0.9 to `_THICKEST` voxels), infinite farther off than a fillet."""
    radii = radii.clamp(0.9 * sdf.voxel, _THICKEST * sdf.voxel)  # at the least a node lies inside
    balls = torch.full_like(sdf.values, math.inf)
    far = _THICKEST + _FILLET
    reach = torch.arange(-far, far + 1, device=balls.device)
    window = torch.cartesian_prod(reach, reach, reach)
    limit = torch.tensor(sdf.shape, device=balls.device)
    for p, r in zip(centers.split(256), radii.split(256), strict=True):
        node = ((p - sdf.origin) / sdf.voxel).round().long()[:, None] + window
        there = ((node >= 0) & (node < limit)).all(-1)
        ball = (sdf.origin + sdf.voxel * node - p[:, None]).norm(dim=-1) - r[:, None]
        index = (node[..., 0] * sdf.shape[1] + node[..., 1]) * sdf.shape[2] + node[..., 2]
        balls.view(-1).scatter_reduce_(0, index[there], ball[there], "amin")
    return balls


def silhouette_iou(mesh: Mesh, views: Views) -> float:
    """Intersection over union of the mesh's outlines and the views', over all views."""
    seen = rasterize_mesh(mesh, views.cameras).face >= 0
    told = views.alpha > 0.5
    return float((seen & told).sum() / (seen | told).sum().clamp_min(1))
