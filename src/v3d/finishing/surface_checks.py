"""Whether a surface encloses a solid: open edges, holes, flipped faces, parts, crossings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components

from v3d.finishing.ray_kernels import count_crossings
from v3d.finishing.rays import RayGrid
from v3d.meshes.mesh import Mesh
from v3d.meshes.weld import weld, without_slivers


@dataclass(frozen=True)
class SurfaceCheck:
    """What keeps a surface from enclosing a solid, with vertices of one place taken as one.

    Attributes:
        parts: pieces that hang together by edges; the walls of hollows within others are none.
        floating: parts that stand on nothing.
        holes: rings of edges that have one face only.
        open_edges: edges that have one face only.
        branching_edges: edges that have three faces or more.
        flipped_faces: faces that look the other way than the rest of their part, or all of a part that is
            inside out.
        crossings: pairs of faces that go through each other.
        volume: that is enclosed, in cubic units; None where the surface is not closed.
    """

    parts: int
    floating: int
    holes: int
    open_edges: int
    branching_edges: int
    flipped_faces: int
    crossings: int
    volume: float | None

    @property
    def watertight(self) -> bool:
        """Closed everywhere, with inside and outside told apart."""
        return self.open_edges == self.branching_edges == self.flipped_faces == 0


def check_surface(mesh: Mesh) -> SurfaceCheck:
    """Look at every edge, part and pair of faces of a mesh that has faces with an area."""
    places, faces, _ = weld(mesh)
    faces = faces[without_slivers(faces)]
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    forward = (faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2) == edges).all(1)
    face_of = np.repeat(np.arange(len(faces)), 3)
    _, edge, uses = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    edge = edge.reshape(-1)
    open_ends = edges[uses[edge] == 1]

    order = np.argsort(edge, kind="stable")
    pairs = order[uses[edge[order]] == 2].reshape(-1, 2)  # the two uses of an edge, side by side
    same_way = forward[pairs[:, 0]] == forward[pairs[:, 1]]
    a, b = face_of[pairs].T
    part_count, part = _parts(faces, len(places))
    flipped = _flipped(len(faces), a, b, same_way, part) if same_way.any() else np.zeros(len(faces), bool)
    outward = np.where(flipped[:, None], faces[:, ::-1], faces)
    volume = _volumes(places, outward, part, part_count)
    low, high = _boxes(places, faces, part, part_count)
    within = _within(low, high)
    inside_out = (volume < 0) & ~within
    flipped ^= inside_out[part]
    closed = len(open_ends) == 0 and not (uses > 2).any()
    solid = (volume > 0) | ~within
    bed = low[:, 2].min() + 1e-3 * (high[:, 2].max() - low[:, 2].min())
    return SurfaceCheck(
        parts=int(solid.sum()),
        floating=int((solid & (low[:, 2] > bed)).sum()),
        holes=_rings(open_ends, len(places)),
        open_edges=len(open_ends),
        branching_edges=int((uses > 2).sum()),
        flipped_faces=int(flipped.sum()),
        crossings=_crossings(mesh),
        volume=float(np.where(inside_out, -volume, volume).sum()) if closed else None,
    )


def _parts(faces: NDArray[np.int64], places: int) -> tuple[int, NDArray[np.int64]]:
    """How many parts hang together by corners, and the part of every face."""
    i, j = faces[:, [0, 1, 1, 2]].reshape(-1, 2).T
    _, label = connected_components(sparse.coo_matrix((np.ones(len(i)), (i, j)), shape=(places, places)))
    used, part = np.unique(label[faces[:, 0]], return_inverse=True)
    return len(used), part.reshape(-1).astype(np.int64)


def _flipped(
    count: int,
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    same_way: NDArray[np.bool_],
    part: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which faces look the other way than most of their part, by neighbours a and b over an edge.

    Neighbours agree where they run through their edge in opposite directions.
    """
    # A walk over the surface; every step over an edge that both run through alike turns the sign.
    weight = np.where(same_way, 2.0, 1.0)
    graph = sparse.coo_matrix(
        (np.r_[weight, weight], (np.r_[a, b], np.r_[b, a])), shape=(count, count)
    ).tocsr()
    sign = np.zeros(count, np.int64)
    for start in range(count):
        if sign[start]:
            continue
        order, before = breadth_first_order(graph, start)
        sign[start] = 1
        step = np.asarray(graph[order[1:], before[order[1:]]]).reshape(-1)
        for face, last, way in zip(order[1:], before[order[1:]], step, strict=True):
            sign[face] = sign[last] * (1 if way == 1.0 else -1)
    majority = np.bincount(part, sign)
    return sign * np.where(majority >= 0, 1, -1)[part] < 0


def _volumes(
    places: NDArray[np.float64], faces: NDArray[np.int64], part: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """[count] Signed volumes of the parts."""
    a, b, c = (places - places.mean(0))[faces].transpose(1, 0, 2)
    return np.bincount(part, (a * np.cross(b, c)).sum(-1) / 6, count).astype(np.float64)


def _boxes(
    places: NDArray[np.float64], faces: NDArray[np.int64], part: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest corners [count, 3] of the parts."""
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    for corner in faces.T:
        np.minimum.at(low, part, places[corner])
        np.maximum.at(high, part, places[corner])
    return low, high


def _within(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[count] Whether a part's box lies in another's."""
    above, below = (low[:, None] > low[None]).all(-1), (high[:, None] < high[None]).all(-1)
    return np.asarray(np.logical_and(above, below).any(axis=1))


def _rings(edges: NDArray[np.int64], places: int) -> int:
    """How many rings open edges [E, 2] make."""
    if not len(edges):
        return 0
    graph = sparse.coo_matrix((np.ones(len(edges)), tuple(edges.T)), shape=(places, places))
    _, label = connected_components(graph, directed=False)
    return len(np.unique(label[edges[:, 0]]))


def _crossings(mesh: Mesh) -> int:
    """Pairs of faces without a common corner that go through each other; flat overlaps do not count."""
    grid, (_, faces, _) = RayGrid(mesh), weld(mesh)
    crossing = np.zeros(len(faces), np.bool_)
    cells = (grid.boxes, grid.starts, grid.items, grid.shape)
    return int(count_crossings(grid.triangles, faces, *cells, crossing))
