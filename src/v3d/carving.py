"""Space carving: silhouettes of posed views -> a signed hull, and the first Gaussians on its surface."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from v3d.cameras import Cameras
from v3d.errors import V3DError
from v3d.mesh import Mesh
from v3d.splats.densify import morton_order
from v3d.splats.gaussians import Splats
from v3d.surface.extract import marching_cubes
from v3d.surface.grid import Grid, empty_grid
from v3d.surface.outline import fill_outline, silhouette_distance
from v3d.surface.unseen import facing
from v3d.views import Views

COARSE = 64


def carve(
    views: Views,
    *,
    resolution: int = 128,
    half_extent: float = 1.15,
    bounds: tuple[Tensor, Tensor] | None = None,
    certain: int | None = None,
) -> Grid:
    """The soft visual hull of the views.

    A point belongs to the hull if every view that sees it shows the object there, and some view sees it:

        hull(x) = max( max_v min(s_v(x), -r_v(x)),  min_v max(s_v(x), r_v(x)) )

    where s_v is the signed distance of x's pixel to the silhouette of view v (negative inside; sub-pixel
    from alpha) and r_v to the image rectangle, both scaled to world units by depth / focal length. What
    lies outside one image is unknown to that view and is not carved by it.

    Args:
        resolution: nodes along the longest side of the hull's box.
        half_extent: the object is sought in the cube [-half_extent, half_extent]^3.
        bounds: low and high corners [3] of the box to carve, in place of the search.
        certain: a view that is true where others are guessed: the hull fills its outline, see `fill_outline`.

    Raises:
        V3DError: a mask is empty, all masks are full, or the silhouettes have no point in common and no view is certain.
    """
    inside = views.alpha > 0.5
    empty = (~inside.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        names = ", ".join(map(str, empty))
        raise V3DError(f"The mask of view {names} is empty; give views in which the object is visible.")
    if bool(inside.all()):
        raise V3DError(
            "The masks are full: no background to carve with; give views with alpha or a plain background."
        )
    silhouettes = silhouette_distance(views.alpha)
    if bounds is None:
        cube = torch.full((3,), half_extent, device=views.alpha.device)
        coarse = _hull(silhouettes, views.cameras, -cube, cube, COARSE)
        if certain is not None:
            coarse = fill_outline(coarse, views[certain])
        # Distances are good to the obliquity of the rays, so a thin part may hide a voxel's diagonal away.
        near = (coarse.values < 1.25 * coarse.voxel).nonzero()
        if len(near) == 0:
            raise _no_overlap()
        margin = 0.5 * coarse.voxel
        low = (coarse.origin + coarse.voxel * near.amin(0) - margin).clamp_min(-half_extent)
        high = (coarse.origin + coarse.voxel * near.amax(0) + margin).clamp_max(half_extent)
        bounds = low, high
    hull = _hull(silhouettes, views.cameras, *bounds, resolution)
    if certain is not None:
        hull = fill_outline(hull, views[certain])
    if not bool((hull.values < 0).any()):
        raise _no_overlap()
    return hull


def initial_splats(hull: Grid, views: Views, count: int, *, seed: int = 0) -> Splats:
    """`count` flat Gaussians, uniform over the hull's surface, coloured by the views that see them.

    Colours are averages over the views in which the point is not hidden, weighted by the squared cosine
    between normal and view direction; points that no view sees take the colour of the nearest seen one.
    The shortest axis is the surface normal. Sorted along a Morton curve, which keeps neighbours in space
    neighbours in memory.
    """
    mesh = marching_cubes(hull)
    generator = torch.Generator().manual_seed(seed)
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1) / 2
    face = torch.multinomial(area.cpu().double(), count, replacement=True, generator=generator).to(
        area.device
    )
    u, v = torch.rand(2, count, 1, generator=generator).to(area)
    # Folding the unit square's far half back makes (u, v) uniform over the triangle.
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    means = a[face] + u * (b - a)[face] + v * (c - a)[face]
    normals = mesh.face_normals[face]

    order = morton_order(means)
    means, normals = means[order], normals[order]
    rgb = _seen_colors(means, normals, mesh, views, tolerance=1.5 * hull.voxel)
    spacing = math.sqrt(float(area.sum()) / count)
    scales = torch.tensor([0.6, 0.6, 0.15]).to(means) * spacing
    return Splats(
        means=means,
        quats=_rotation_to(normals),
        log_scales=scales.log().repeat(count, 1),
        logit_opacity=torch.full((count,), math.log(0.7 / 0.3)).to(means),
        rgb=rgb,
    )


def random_splats(views: Views, count: int, *, seed: int = 0) -> Splats:
    """The start without carving, as the paper's release has it: a grey normal blob at the origin.

    Its standard deviation is 1/16 of the cameras' mean distance from the origin.
    """
    generator = torch.Generator().manual_seed(seed)
    centers = views.cameras.centers
    sigma = float(centers.norm(dim=-1).mean()) / 16
    means = (torch.randn(count, 3, generator=generator) * sigma).to(centers)
    means = means[morton_order(means)]
    nearest, _ = cKDTree(means.cpu().numpy()).query(means.cpu().numpy(), k=min(4, count))
    spacing = torch.from_numpy(
        np.asarray(nearest).reshape(count, -1)[:, 1:].mean(-1) if count > 1 else np.ones(1)
    )
    scale = spacing.to(means).clamp_min(1e-4)
    return Splats(
        means=means,
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).to(means).repeat(count, 1),
        log_scales=scale.log()[:, None].repeat(1, 3),
        logit_opacity=torch.full((count,), math.log(0.1 / 0.9)).to(means),
        rgb=torch.full((count, 3), 0.5).to(means),
    )


def _no_overlap() -> V3DError:
    return V3DError("The silhouettes have no point in common; check that cameras and masks belong together.")


def _hull(silhouettes: Tensor, cameras: Cameras, low: Tensor, high: Tensor, resolution: int) -> Grid:
    """The hull on a lattice over the box, `resolution` nodes along its longest side."""
    extent = (high - low).float()
    voxel = float(extent.max()) / (resolution - 1)
    shape = (extent / voxel - 1e-4).ceil().long().clamp_min(1) + 1
    grid = empty_grid(shape.tolist(), low.float(), voxel)
    axes = grid.axes()
    projection = cameras.K @ cameras.w2c[:, :3]
    focal = (cameras.K[:, 0, 0] * cameras.K[:, 1, 1]).sqrt()
    width, height = cameras.width, cameras.height

    far = float(extent.norm())
    carved = torch.full_like(grid.values, -far)
    shown = torch.full_like(grid.values, far)
    for P, f, silhouette in zip(projection, focal, silhouettes, strict=True):
        # A projection is affine before the division, so each axis adds its own part.
        parts = [P[:, i, None] * axes[i] for i in range(3)]
        u, v, depth = (
            parts[0][i][:, None, None] + parts[1][i][:, None] + (parts[2][i] + P[i, 3]) for i in range(3)
        )
        behind = depth < 1e-3
        depth = depth.clamp_min(1e-3)
        u, v = u / depth * (2 / width) - 1, v / depth * (2 / height) - 1
        outside = torch.maximum((u.abs() - 1) * (width / 2), (v.abs() - 1) * (height / 2))
        outside.masked_fill_(behind, math.inf)
        distance = F.grid_sample(
            silhouette[None, None],
            torch.stack([u, v], dim=-1).flatten(0, 1)[None],
            padding_mode="border",
            align_corners=False,
        ).view_as(depth)
        scale = depth / f
        carved = torch.maximum(carved, torch.minimum(distance, -outside) * scale)
        shown = torch.minimum(shown, torch.maximum(distance, outside) * scale)
    return Grid(torch.maximum(carved, shown), grid.origin, voxel)


def _seen_colors(points: Tensor, normals: Tensor, mesh: Mesh, views: Views, tolerance: float) -> Tensor:
    """Colours [P, 3] of surface points from the views in which they are not hidden behind the mesh."""
    cosine = facing(points, normals, mesh, views.cameras, tolerance=tolerance)
    pixels, _ = views.cameras.project(points)
    size = torch.tensor([views.cameras.width, views.cameras.height]).to(pixels)
    grid = (pixels / size * 2 - 1)[:, :, None]
    image = torch.cat([views.rgb, views.alpha[..., None]], -1).permute(0, 3, 1, 2)
    sampled = F.grid_sample(image, grid, padding_mode="border", align_corners=False)[..., 0].permute(0, 2, 1)
    rgb, alpha = sampled[..., :3], sampled[..., 3]
    # Views are composited on white: take the white back out where an edge pixel mixes it in.
    rgb = ((rgb - (1 - alpha[..., None])) / alpha[..., None].clamp_min(0.25)).clamp(0, 1)
    weight = cosine**2 * alpha * (alpha > 0.5)
    total = weight.sum(0)
    color = (rgb * weight[..., None]).sum(0) / total.clamp_min(1e-8)[:, None]

    seen = total > 1e-3
    if not bool(seen.any()):
        return torch.full_like(points, 0.5)
    _, index = cKDTree(points[seen].cpu().numpy()).query(points[~seen].cpu().numpy())
    color[~seen] = color[seen][torch.from_numpy(np.asarray(index)).to(points.device)]
    return color


def _rotation_to(normals: Tensor) -> Tensor:
    """Quaternions [P, 4] (w, x, y, z) that turn the z axis onto unit normals [P, 3] the shortest way."""
    x, y, z = normals.unbind(-1)
    q = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)
    half_turn = torch.tensor([0.0, 1.0, 0.0, 0.0]).to(normals)
    return F.normalize(torch.where((z < -0.9999)[:, None], half_turn, q), dim=-1)
