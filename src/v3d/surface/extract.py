"""Signed distance field -> clean triangle mesh.

Marching cubes, removal of specks and inner shells, smoothing, a cover for what no view sees, decimation.
"""

from __future__ import annotations

from typing import Any

import fast_simplification
import manifold3d
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from skimage import measure

from v3d.cameras import Cameras
from v3d.errors import V3DError
from v3d.meshes.mesh import Mesh
from v3d.surface.grid import Grid
from v3d.surface.unseen import cover_unseen

SPECK = 0.02
"""Share of the largest part's volume below which other parts are dropped."""


def extract_mesh(sdf: Grid, *, cameras: Cameras | None = None, faces: int = 20_000) -> Mesh:
    """The zero surface as a closed mesh of at most `faces` triangles, oriented outward.

    Marching cubes; parts smaller than `SPECK` of the largest and inner shells are dropped; Taubin smoothing
    takes the lattice's steps away without shrinking; what none of the `cameras` sees gets the simplest cover
    (see `v3d.surface.unseen`); quadric decimation to the budget.

    Every edge of the result has exactly two faces that run through it in opposite directions. Should quadrics
    tear the surface, it is decimated by manifold3d, whose result is closed; then the budget is met only as
    far as its tolerances allow.

    Args:
        sdf: negative inside.
        cameras: those that saw the object; None leaves unseen parts as they are.
        faces: the most triangles.

    Raises:
        V3DError: the field has no surface.
    """
    mesh = marching_cubes(sdf)
    vertices, triangles = mesh.vertices.cpu().double().numpy(), mesh.faces.cpu().numpy()
    vertices, triangles = _solid_parts(vertices, triangles)
    vertices = _taubin(vertices, triangles)
    if cameras is not None:
        vertices = cover_unseen(_mesh(vertices, triangles, sdf), cameras, sdf).vertices.cpu().double().numpy()
    vertices, triangles = _decimate(vertices, triangles, faces)
    return _mesh(vertices, triangles, sdf)


def marching_cubes(sdf: Grid) -> Mesh:
    """The raw zero surface, closed where it meets the box, faces counter-clockwise seen from outside.

    Raises:
        V3DError: the field has no surface.
    """
    values = sdf.values.detach().cpu().numpy()
    values = np.pad(values, 1, constant_values=sdf.voxel)
    # A node exactly on the surface would make triangles without area.
    values[np.abs(values) < 1e-4 * sdf.voxel] = 1e-4 * sdf.voxel
    if not (values < 0).any():
        raise V3DError("The field has no surface; the object's silhouettes may be too small or inconsistent.")
    untyped_marching_cubes: Any = measure.marching_cubes
    vertices, triangles, _, _ = untyped_marching_cubes(values, 0.0)
    positions = torch.from_numpy(vertices - 1).to(sdf.origin) * sdf.voxel + sdf.origin
    return Mesh(positions, torch.from_numpy(triangles.astype(np.int64)).to(sdf.origin.device))


def _mesh(vertices: NDArray[np.float64], triangles: NDArray[np.int64], sdf: Grid) -> Mesh:
    device = sdf.values.device
    return Mesh(torch.from_numpy(vertices).float().to(device), torch.from_numpy(triangles).long().to(device))


def is_closed(triangles: NDArray[np.int64]) -> bool:
    """Whether every edge of triangles [F, 3] has exactly two, which run through it in opposite directions.

    False where there are none.
    """
    directed = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    key = directed[:, 0] * (int(triangles.max(initial=0)) + 1) + directed[:, 1]
    reverse = directed[:, 1] * (int(triangles.max(initial=0)) + 1) + directed[:, 0]
    key.sort()
    reverse.sort()
    return len(key) > 0 and bool((np.diff(key) > 0).all()) and bool((key == reverse).all())


def _volume(vertices: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.float64]:
    """Signed volume under every face [F]; the sum is the solid's."""
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    volume: NDArray[np.float64] = (a * np.cross(b, c)).sum(-1) / 6
    return volume


def _solid_parts(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Keep the connected parts of positive volume that are no specks; inner shells have a negative one."""
    i, j = triangles[:, [0, 1, 1, 2]].reshape(-1, 2).T
    graph = sparse.coo_matrix((np.ones(len(i), bool), (i, j)), shape=(len(vertices), len(vertices)))
    _, label = connected_components(graph, directed=False)
    part = label[triangles[:, 0]]
    volume = np.bincount(part, weights=_volume(vertices, triangles), minlength=label.max() + 1)
    keep = (volume > 0) & (volume >= SPECK * volume.max())
    return _compact(vertices, triangles[keep[part]])


def _compact(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Drop the vertices that no face uses."""
    used, index = np.unique(triangles, return_inverse=True)
    return vertices[used], index.reshape(-1, 3)


def _taubin(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64], rounds: int = 10
) -> NDArray[np.float64]:
    """Taubin's filter: a smoothing step, then a slightly larger step back, `rounds` times."""
    i, j = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).T
    graph = sparse.csr_matrix((np.ones(len(i)), (i, j)), shape=(len(vertices), len(vertices)))
    mean = sparse.diags(1 / np.asarray(graph.sum(1))[:, 0]) @ graph
    for _ in range(rounds):
        for step in (0.5, -0.53):
            vertices = vertices + step * (mean @ vertices - vertices)
    return vertices


def _decimate(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64], faces: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """At most `faces` triangles if that is possible without opening the surface."""
    if len(triangles) <= faces:
        return vertices, triangles
    for haste in (7, 5):  # 7 is their own; a threshold that rises slower tears less
        points, simple = _quadrics(vertices, triangles, faces, haste)
        if len(simple) <= faces and is_closed(simple) and _volume(points, simple).sum() > 0:
            return _compact(points, simple)
    # What quadrics leave at twice the budget, if it is a solid, keeps the shape and is less to do.
    for points, simple in (_quadrics(vertices, triangles, 2 * faces, 5), (vertices, triangles)):
        solid = manifold3d.Manifold(
            manifold3d.Mesh(points.astype(np.float32), np.ascontiguousarray(simple, np.uint32))
        )
        if solid.status() != manifold3d.Error.NoError or solid.volume() <= 0:
            continue
        tolerance = 1e-4
        while solid.num_tri() > faces and tolerance < 0.1:
            solid = solid.simplify(tolerance)
            tolerance *= 1.5
        out = solid.to_mesh()
        points, simple = np.asarray(out.vert_properties[:, :3], np.float64), out.tri_verts.astype(np.int64)
        if is_closed(simple):
            return points, simple
    return vertices, triangles


def _quadrics(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64], faces: int, haste: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Quadric decimation to about `faces` triangles; the result may be torn."""
    points, simple = fast_simplification.simplify(vertices, triangles, target_count=faces, agg=haste)
    return np.asarray(points, np.float64), np.asarray(simple, np.int64)
