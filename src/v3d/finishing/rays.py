"""Where rays meet a mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from v3d.finishing.ray_kernels import fill_cells, trace
from v3d.kernels.pool import pool
from v3d.meshes.mesh import Mesh

_MOST_CELLS = 2_000_000


@dataclass(frozen=True)
class Hits:
    """What N rays meet first.

    Attributes:
        distance: [N] in lengths of the ray's direction; infinity where it meets nothing.
        face: [N] int64, -1 where it meets nothing.
        weights: [N, 3] of the face's corners at the point.
    """

    distance: NDArray[np.float64]
    face: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def found(self) -> NDArray[np.bool_]:
        """[N] which rays meet something."""
        met: NDArray[np.bool_] = self.face >= 0
        return met

    def at(self, faces: NDArray[np.int64], attribute: NDArray[np.float64]) -> NDArray[np.float64]:
        """A mesh's attribute [P, C] at the points; that of face 0 where nothing is met."""
        value: NDArray[np.float64] = np.einsum(
            "nkc,nk->nc", attribute[faces[np.maximum(self.face, 0)]], self.weights
        )
        return value


class RayGrid:
    """A mesh's triangles, sorted into the cells of a grid, so that rays find them."""

    def __init__(self, mesh: Mesh) -> None:
        """Sort the faces of a mesh that has some."""
        points = mesh.vertices.cpu().double().numpy()
        self.triangles = np.ascontiguousarray(points[mesh.faces.cpu().numpy()])
        low, high = self.triangles.min((0, 1)), self.triangles.max((0, 1))
        span = np.maximum(high - low, 1e-9 * max(float((high - low).max()), 1e-9))
        cells = min(4.0 * len(self.triangles), _MOST_CELLS)
        self.side = max(float((span.prod() / cells) ** (1 / 3)), float(span.max()) / 512)
        margin = 1e-6 * float(span.max())
        self.low = low - margin
        self.shape = np.floor((span + 2 * margin) / self.side).astype(np.int64) + 1
        self.boxes = np.floor(
            np.concatenate([self.triangles.min(1) - self.low, self.triangles.max(1) - self.low], 1)
            / self.side
        ).astype(np.int64)
        starts = np.zeros(int(self.shape.prod()) + 1, np.int64)
        fill_cells(self.boxes, self.shape, starts, starts, False)
        self.starts = starts.cumsum()
        self.items = np.zeros(self.starts[-1], np.int64)
        fill_cells(self.boxes, self.shape, self.starts.copy(), self.items, True)

    def first_hits(
        self, origins: NDArray[np.float64], directions: NDArray[np.float64], limit: float = np.inf
    ) -> Hits:
        """What rays meet first, from either side of the faces.

        Args:
            origins: [N, 3].
            directions: [N, 3].
            limit: how far to look, in lengths of the direction.
        """
        count = len(origins)
        distance, face = np.full(count, np.inf), np.full(count, -1, np.int64)
        weights = np.zeros((count, 2))
        rays = (np.ascontiguousarray(origins, np.float64), np.ascontiguousarray(directions, np.float64))
        grid = (self.triangles, self.starts, self.items, self.low, self.side, self.shape)
        arguments = (*rays, np.full(count, float(limit)), *grid, distance, face, weights)
        pool().run(trace, count, 64, *arguments)
        return Hits(distance, face, np.concatenate([1 - weights.sum(1, keepdims=True), weights], 1))
