"""Where the fit of Gaussians starts: on the hull, or, without carving, as a grey blob."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from v3d.compositing import off_white
from v3d.meshes.mesh import Mesh
from v3d.splats.gaussians import Splats, morton_order
from v3d.surface.extract import marching_cubes
from v3d.surface.grid import Grid
from v3d.surface.unseen import facing
from v3d.views import Views


def initial_splats(hull: Grid, views: Views, count: int, *, seed: int = 0) -> Splats:
    """`count` flat Gaussians on the hull's surface, see `splats_on`.

    Args:
        hull: a field with a surface, on the views' device (see `v3d.surface.carving.carve`).
        views: that colours are taken from.
        count: number of Gaussians, at least one.
        seed: of their places.

    Raises:
        V3DError: the hull has no surface.
    """
    return splats_on(marching_cubes(hull), views, count, tolerance=1.5 * hull.voxel, seed=seed)


def splats_on(mesh: Mesh, views: Views, count: int, *, tolerance: float = 0.0, seed: int = 0) -> Splats:
    """`count` flat Gaussians, uniform over a surface, coloured by the views that see them.

    Colours are averages over the views in which the point is not hidden, weighted by the squared cosine
    between normal and view direction; points that no view sees take the colour of the nearest visible one.
    The shortest axis is the surface normal.

    Args:
        mesh: the surface, on the views' device; its texture is not read.
        views: that colours are taken from.
        count: number of Gaussians, at least one.
        tolerance: how far behind the mesh a visible point may lie, world units.
        seed: of their places.

    Returns:
        The Gaussians, in Morton order.
    """
    generator = torch.Generator().manual_seed(seed)
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    area = mesh.face_areas
    face = torch.multinomial(area.cpu().double(), count, replacement=True, generator=generator)
    face = face.to(area.device)
    u, v = torch.rand(2, count, 1, generator=generator).to(area)
    # Folding the unit square's far half back makes (u, v) uniform over the triangle.
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    means = a[face] + u * (b - a)[face] + v * (c - a)[face]
    normals = mesh.face_normals[face]

    order = morton_order(means)
    means, normals = means[order], normals[order]
    rgb = _visible_colors(means, normals, mesh, views, tolerance=tolerance)
    spacing = math.sqrt(float(area.sum()) / count)
    scales = means.new_tensor([0.6, 0.6, 0.15]) * spacing
    return Splats(
        means=means,
        quats=_rotation_to(normals),
        log_scales=scales.log().repeat(count, 1),
        logit_opacity=means.new_full((count,), math.log(0.7 / 0.3)),
        rgb=rgb,
    )


def random_splats(views: Views, count: int, *, seed: int = 0) -> Splats:
    """The start without carving, as the paper's release has it: a grey normal blob at the origin.

    Its standard deviation is 1/16 of the cameras' mean distance from the origin.

    Args:
        views: whose cameras give the size.
        count: number of Gaussians, at least one.
        seed: of their places.

    Returns:
        The Gaussians, in Morton order.
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
        quats=means.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        log_scales=scale.log()[:, None].repeat(1, 3),
        logit_opacity=means.new_full((count,), math.log(0.1 / 0.9)),
        rgb=means.new_full((count, 3), 0.5),
    )


def _visible_colors(points: Tensor, normals: Tensor, mesh: Mesh, views: Views, tolerance: float) -> Tensor:
    """Colours [P, 3] of surface points from the views in which they are not hidden behind the mesh."""
    cosine = facing(points, normals, mesh, views.cameras, tolerance=tolerance)
    pixels, _ = views.cameras.project(points)
    grid = views.cameras.to_grid(pixels)[:, :, None]
    image = torch.cat([views.rgb, views.alpha[..., None]], -1).permute(0, 3, 1, 2)
    sampled = F.grid_sample(image, grid, padding_mode="border", align_corners=False)[..., 0].permute(0, 2, 1)
    rgb, alpha = sampled[..., :3], sampled[..., 3]
    # Views are composited on white: take the white back out where an edge pixel mixes it in.
    rgb = off_white(rgb, alpha, 0.25).clamp(0, 1)
    weight = cosine**2 * alpha * (alpha > 0.5)
    total = weight.sum(0)
    color = (rgb * weight[..., None]).sum(0) / total.clamp_min(1e-8)[:, None]

    visible = total > 1e-3
    if not bool(visible.any()):
        return torch.full_like(points, 0.5)
    _, index = cKDTree(points[visible].cpu().numpy()).query(points[~visible].cpu().numpy())
    color[~visible] = color[visible][torch.from_numpy(np.asarray(index)).to(points.device)]
    return color


def _rotation_to(normals: Tensor) -> Tensor:
    """Quaternions [P, 4] (w, x, y, z) that turn the z axis onto unit normals [P, 3] the shortest way."""
    x, y, z = normals.unbind(-1)
    q = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)
    half_turn = normals.new_tensor([0.0, 1.0, 0.0, 0.0])
    return F.normalize(torch.where((z < -0.9999)[:, None], half_turn, q), dim=-1)
