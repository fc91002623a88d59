"""The part of a surface that no view sees: the simplest cover, instead of the hull's.

Rays that graze the rim of a flat top rise towards its middle, so the hull of an orbit puts a cone on every
can and every bowl, and no photo contradicts it. The cover with the least curvature is the better guess: a
soap film on a rim with a crease, the continuation of a surface that bends out of sight.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from torch import Tensor

from v3d.cameras import Cameras
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import rasterize_mesh
from v3d.surface.grid import Grid

GRAZING = 0.1
"""Cosine below which a view shows no more of a surface than its outline."""
CREASE = 0.5
"""Cosine above which the surface beside a rim makes the rim a crease."""
RINGS = 4
"""Edges from the rim to the surface beside it: field and smoothing round creases over so many."""
ROUNDS = 4
"""Tries to find where the cover must not leave the solid."""


def facing(
    points: Tensor, normals: Tensor, mesh: Mesh, cameras: Cameras, *, tolerance: float = 0.0
) -> Tensor:
    """Cosines [V, P] between the normals of surface points and the directions to the cameras.

    0 where the point faces away from a camera, lies outside its image, or is hidden by the mesh.

    Args:
        points, normals: [P, 3] on or near the surface; normals have unit length.
        mesh: the surface, which hides what lies behind it; on the cameras' device.
        cameras: V of them.
        tolerance: how much deeper than the mesh a point may lie, world units, beside a pixel's footprint.
    """
    pixels, depth = cameras.project(points)
    to_camera = F.normalize(cameras.centers[:, None] - points, dim=-1)
    cosine = (to_camera * normals).sum(-1).clamp_min(0)
    # One by one: of a rasterized view only its depth is kept.
    nearest = torch.cat([rasterize_mesh(mesh, cameras[i]).depth for i in range(len(cameras))])
    nearest = torch.where(nearest > 0, nearest, 1e9)
    grid = cameras.to_grid(pixels)[:, :, None]
    inside = (grid.abs() < 1).all(-1)[..., 0] & (depth > 0)
    # The z-buffer is read at the nearest pixel centre, where a slanted surface lies deeper or nearer.
    slope = (depth / cameras.K[:, :1, 0]) / cosine.clamp_min(0.1)
    front = F.grid_sample(nearest[:, None], grid, mode="nearest", align_corners=False)[:, 0, :, 0]
    return cosine * (inside & (depth < front + tolerance + slope))


def cover_unseen(mesh: Mesh, cameras: Cameras, sdf: Grid) -> Mesh:
    """Give a closed surface its simplest cover where no camera sees it.

    Moves the unseen vertices x to where sum |L x|^2 is smallest, L x being a vertex minus the mean of its
    neighbours. The sum goes over unseen vertices, which alone would span a film on the rim, and over those of
    a rim that bends out of sight, which let the cover go on in the surface's direction. Silhouettes prove the
    outside of the hull empty: vertices that would leave the solid stay where they are, as do visible ones,
    and parts that no camera sees at all.

    Args:
        mesh: the surface of `sdf`, closed, every vertex in a face.
        cameras: on the mesh's device.
        sdf: the solid.

    Returns:
        The mesh with other vertices; the faces stay.
    """
    best = facing(mesh.vertices, mesh.vertex_normals, mesh, cameras).amax(0).double().cpu().numpy()
    faces = mesh.faces.cpu().numpy()
    i, j = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).T
    edges = sparse.csr_matrix((np.ones(len(i)), (i, j)), shape=(len(best), len(best)))
    mean = sparse.diags(1 / np.asarray(edges.sum(1))[:, 0]) @ edges
    best = mean @ (mean @ best)  # one vertex's normal is noisy
    visible = best >= GRAZING
    _, part = connected_components(edges, directed=False)
    free = ~visible & np.bincount(part, visible)[part].astype(bool)
    beside = best
    for _ in range(RINGS):
        beside = np.maximum(beside, np.maximum.reduceat(beside[edges.indices], edges.indptr[:-1]))
    bends = visible & (beside < CREASE)
    laplacian = (sparse.identity(len(best)) - mean).tocsr()
    start = mesh.vertices.double().cpu().numpy()
    for _ in range(ROUNDS):
        if not free.any():
            return mesh
        rim = bends & (edges @ free > 0)
        moving, fixed = laplacian[free | rim][:, free].tocsc(), laplacian[free | rim][:, ~free]
        vertices = start.copy()
        vertices[free] = splu((moving.T @ moving).tocsc()).solve(-moving.T @ (fixed @ start[~free]))
        outside = sdf.sample(torch.from_numpy(vertices).to(sdf.values)).cpu().numpy() > 0.25 * sdf.voxel
        if not (outside & free).any():
            break
        free &= ~outside
    return replace(mesh, vertices=torch.from_numpy(vertices).to(mesh.vertices))
