"""Space carving: silhouettes of posed views -> the signed distance to their visual hull."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.errors import V3DError
from v3d.surface.grid import Grid, empty_grid
from v3d.surface.silhouette import fill_silhouette, silhouette_distance
from v3d.views import Views

COARSE = 64
"""Nodes along the sides of the cube in which the hull's box is sought."""


def carve(
    views: Views,
    *,
    resolution: int = 128,
    half_extent: float = 1.15,
    bounds: tuple[Tensor, Tensor] | None = None,
    trusted_views: Sequence[int] = (),
) -> Grid:
    """The soft visual hull of the views.

    A point belongs to the hull if every view that sees it shows the object there, and some view sees it:

        hull(x) = max( max_v min(s_v(x), -r_v(x)),  min_v max(s_v(x), r_v(x)) )

    where s_v is the signed distance of x's pixel to the silhouette of view v (negative inside; sub-pixel
    from alpha) and r_v to the image rectangle, both scaled to world units by depth / focal length. What
    lies outside one image is unknown to that view and is not carved by it.

    Args:
        views: at least one, with something in every mask.
        resolution: nodes along the longest side of the hull's box.
        half_extent: the object is sought in the cube [-half_extent, half_extent]^3.
        bounds: low and high corners [3] of the box to carve, in place of the search.
        trusted_views: numbers of views to believe where generated ones disagree: the hull fills their
            silhouettes, one after another, each within the hull of all trusted views (see
            `v3d.surface.silhouette.fill_silhouette`).

    Raises:
        V3DError: a mask is empty, all masks are full, or the silhouettes have no point in common while no
            view is trusted.
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
        coarse = _filled(coarse, views, silhouettes, trusted_views)
        # Distances are good to the obliquity of the rays, so a thin part may hide a voxel's diagonal away.
        near = (coarse.values < 1.25 * coarse.voxel).nonzero()
        if len(near) == 0:
            raise _no_overlap()
        margin = 0.5 * coarse.voxel
        low = (coarse.origin + coarse.voxel * near.amin(0) - margin).clamp_min(-half_extent)
        high = (coarse.origin + coarse.voxel * near.amax(0) + margin).clamp_max(half_extent)
        bounds = low, high
    hull = _hull(silhouettes, views.cameras, *bounds, resolution)
    hull = _filled(hull, views, silhouettes, trusted_views)
    if not bool((hull.values < 0).any()):
        raise _no_overlap()
    return hull


def _filled(hull: Grid, views: Views, silhouettes: Tensor, trusted_views: Sequence[int]) -> Grid:
    """The hull with the silhouettes of trusted views filled, each as far as the others allow."""
    within = None
    if len(trusted_views) > 1:
        trusted = list(trusted_views)
        within = _hull_on(hull, silhouettes[trusted], views.cameras[trusted])
    for v in trusted_views:
        hull = fill_silhouette(hull, views[v], within=within)
    return hull


def _no_overlap() -> V3DError:
    return V3DError("The silhouettes have no point in common; check that cameras and masks belong together.")


def _hull(silhouettes: Tensor, cameras: Cameras, low: Tensor, high: Tensor, resolution: int) -> Grid:
    """The hull on a lattice over the box, `resolution` nodes along its longest side."""
    extent = (high - low).float()
    voxel = float(extent.max()) / (resolution - 1)
    shape = (extent / voxel - 1e-4).ceil().long().clamp_min(1) + 1
    return _hull_on(empty_grid(shape.tolist(), low.float(), voxel), silhouettes, cameras)


def _hull_on(grid: Grid, silhouettes: Tensor, cameras: Cameras) -> Grid:
    """The hull on the nodes of a grid."""
    axes = grid.axes()
    projection = cameras.K @ cameras.w2c[:, :3]
    focal = (cameras.K[:, 0, 0] * cameras.K[:, 1, 1]).sqrt()
    width, height = cameras.width, cameras.height

    low, high = grid.bounds
    far = float((high - low).norm())
    carved = torch.full_like(grid.values, -far)
    visible = torch.full_like(grid.values, far)
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
        visible = torch.minimum(visible, torch.maximum(distance, outside) * scale)
    return Grid(torch.maximum(carved, visible), grid.origin, grid.voxel)
