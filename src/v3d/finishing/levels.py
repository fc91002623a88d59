"""Levels of detail: the same surface with fewer faces and the same texture.

Edges are collapsed onto one of their ends (Garland and Heckbert 1997, without new places for vertices), so
that every vertex keeps its place in the texture, and all levels share one. A vertex on a seam of the texture
only moves along the seam, both sides together: nothing tears.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import torch

from v3d.meshes.mesh import Mesh
from v3d.meshes.weld import weld

_LEAST_COSINE = 0.2  # between a face's normals before and after a collapse
_Vector = tuple[float, float, float]


def levels_of_detail(mesh: Mesh, count: int) -> list[Mesh]:
    """`count` lighter versions of the mesh with half, a quarter, an eighth ... of its faces.

    As far as seams and shape allow: where no edge can be collapsed, a level has more faces.
    """
    levels: list[Mesh] = []
    for _ in range(count):
        finer = levels[-1] if levels else mesh
        levels.append(fewer_faces(finer, len(finer.faces) // 2))
    return levels


def fewer_faces(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with at most so many faces where possible, its vertices some of the mesh's own, texture kept.

    Takes about a second for every 5,000 faces that go.
    """
    surface = _Surface(mesh)
    surface.collapse(faces)
    kept = torch.tensor(surface.alive_faces(), dtype=torch.int64).view(-1, 3)
    used, index = torch.unique(kept, return_inverse=True)
    uv = None if mesh.uv is None else mesh.uv[used]
    return replace(mesh, vertices=mesh.vertices[used], faces=index.view(-1, 3), uv=uv)


class _Surface:
    """Faces by their vertices ("wedges": a place has one for each chart that meets there) and by place."""

    def __init__(self, mesh: Mesh) -> None:
        places, _, place = weld(mesh)
        self.at: list[_Vector] = [(x, y, z) for x, y, z in places.tolist()]
        self.place: list[int] = place.tolist()
        self.uv = None if mesh.uv is None else mesh.uv.tolist()
        self.faces: list[list[int] | None] = []
        self.around: list[set[int]] = [set() for _ in self.at]
        for corners in mesh.faces.tolist():
            if len({self.place[w] for w in corners}) == 3:
                for w in corners:
                    self.around[self.place[w]].add(len(self.faces))
                self.faces.append(corners)
        self.count = len(self.faces)
        self.quadrics = self._quadrics()
        self.version = [0] * len(self.at)
        self.on_seam = (np.bincount(place, minlength=len(places)) > 1).tolist()
        self.uv_scale = self._uv_scale(mesh)

    def alive_faces(self) -> list[list[int]]:
        """Those that are left."""
        return [corners for corners in self.faces if corners is not None]

    def collapse(self, faces: int) -> None:
        """Collapse the cheapest edges until so many faces are left, or no edge can go."""
        before = -1
        while self.count > faces and self.count != before:
            before = self.count
            self._collapse_once(faces)  # again, since an edge that could not go may have become free

    def _collapse_once(self, faces: int) -> None:
        heap = [self._entry(a, b) for a in range(len(self.at)) for b in self._neighbours(a)]
        heapq.heapify(heap)
        while self.count > faces and heap:
            _, a, b, version = heapq.heappop(heap)
            if version != self.version[a] or not self.around[a] or not self.around[b]:
                continue
            moves = self._moves(a, b)
            if moves is None or not self._keeps_its_shape(a, b, moves):
                continue
            self._apply(a, b, moves)
            for other in self._neighbours(b):
                heapq.heappush(heap, self._entry(b, other))
                heapq.heappush(heap, self._entry(other, b))

    def _quadrics(self) -> list[list[float]]:
        """Of every place the sum over its planes of weight * plane plane^T, its upper half: ten numbers."""
        quadrics = np.zeros((len(self.at), 10))
        rows, columns = np.triu_indices(4)
        if self.count:
            at = np.array(self.at)
            corners = np.array([[self.place[w] for w in f] for f in self.alive_faces()])
            a, b, c = at[corners].transpose(1, 0, 2)
            normal = np.cross(b - a, c - a)
            length = np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
            normal /= length
            edges = corners[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
            _, edge, uses = np.unique(np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True)
            border = uses[edge.reshape(-1)] == 1  # it is held by planes that stand on it
            i, j = edges[border].T
            upright = np.cross(at[j] - at[i], normal.repeat(3, 0)[border])
            width = np.maximum(np.linalg.norm(upright, axis=1, keepdims=True), 1e-30)
            # Corners, normals and weights of all planes.
            planes = [(k, normal, length / 2) for k in corners.T]
            planes += [(k, upright / width, width**2) for k in (i, j)]
            for k, n, weight in planes:
                plane = np.concatenate([n, -(n * at[k]).sum(1, keepdims=True)], 1)
                np.add.at(quadrics, k, weight * plane[:, rows] * plane[:, columns])
        found: list[list[float]] = quadrics.tolist()
        return found

    def _uv_scale(self, mesh: Mesh) -> float:
        """Square world units for each square unit of the texture."""
        if mesh.uv is None or not self.count:
            return 0.0
        p = mesh.uv[mesh.faces].double()
        e, f = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
        in_texture = float((e[:, 0] * f[:, 1] - e[:, 1] * f[:, 0]).abs().sum()) / 2
        return float(mesh.face_areas.sum()) / max(in_texture, 1e-12)

    def _neighbours(self, a: int) -> set[int]:
        around = {self.place[w] for f in self.around[a] for w in self.faces[f] or ()}
        return around - {a}

    def _entry(self, a: int, b: int) -> tuple[float, int, int, int]:
        """Cost, from, to and version of a collapse."""
        q, (x, y, z) = self.quadrics[a], self.at[b]
        cost = x * (q[0] * x + 2 * (q[1] * y + q[2] * z + q[3])) + y * (q[4] * y + 2 * (q[5] * z + q[6]))
        cost += z * (q[7] * z + 2 * q[8]) + q[9]
        area = q[0] + q[4] + q[7]
        if self.on_seam[a] and self.uv is not None:
            moves = self._moves(a, b) or {}
            bend = max((self._bend(a, w, to) for w, to in moves.items()), default=0.0)
            cost += area * self.uv_scale * bend**2
        # Of equal costs (on flat parts) short edges go first.
        ax, ay, az = self.at[a]
        cost += 1e-9 * area * ((x - ax) ** 2 + (y - ay) ** 2 + (z - az) ** 2)
        return cost, a, b, self.version[a]

    def _moves(self, a: int, b: int) -> dict[int, int] | None:
        """Wedge of a -> the wedge of b it becomes; None where the collapse would tear surface or texture."""
        shared = self.around[a] & self.around[b]
        moves: dict[int, int] = {}
        for f in shared:
            corners = self.faces[f]
            assert corners is not None
            old = next(w for w in corners if self.place[w] == a)
            new = next(w for w in corners if self.place[w] == b)
            if moves.setdefault(old, new) != new:
                return None
        for f in self.around[a] - shared:
            corners = self.faces[f]
            assert corners is not None
            if next(w for w in corners if self.place[w] == a) not in moves:
                return None
        near_a, near_b = self._neighbours(a), self._neighbours(b)
        on_border = len(near_a) == len(self.around[a]) + 1
        if not on_border and len(near_a) != len(self.around[a]):
            return None  # sheets meet here
        if len(shared) != (1 if on_border else 2) or len(near_a & near_b) != len(shared):
            return None
        return moves

    def _bend(self, a: int, wedge: int, to: int) -> float:
        """How far, in the texture, the chart's border moves where `wedge` goes."""
        assert self.uv is not None
        seen: dict[int, int] = {}
        for f in self.around[a]:
            corners = self.faces[f]
            if corners is not None and wedge in corners:
                for w in corners:
                    if w != wedge:
                        seen[w] = seen.get(w, 0) + 1
        ends = [w for w, times in seen.items() if times == 1 and w != to]
        (px, py), (bx, by) = self.uv[wedge], self.uv[to]
        if len(ends) != 1:
            return 0.0
        ex, ey = self.uv[ends[0]]
        dx, dy = bx - ex, by - ey
        return float(abs((px - ex) * dy - (py - ey) * dx) / max((dx * dx + dy * dy) ** 0.5, 1e-12))

    def _keeps_its_shape(self, a: int, b: int, moves: dict[int, int]) -> bool:
        """Whether no face turns over, in space or in the texture."""
        for f in self.around[a] - self.around[b]:
            corners = self.faces[f]
            assert corners is not None
            moved = [moves.get(w, w) for w in corners]
            before = _cross(*(self.at[self.place[w]] for w in corners))
            after = _cross(*(self.at[self.place[w]] for w in moved))
            dot = sum(x * y for x, y in zip(before, after, strict=True))
            lengths = sum(x * x for x in before) * sum(x * x for x in after)
            if dot <= _LEAST_COSINE * lengths**0.5:
                return False
            if self.uv is not None:
                old, new = (_turn(*(self.uv[w] for w in ws)) for ws in (corners, moved))
                if old * new < 0 or (old != 0 and abs(new) < 1e-12):
                    return False
        return True

    def _apply(self, a: int, b: int, moves: dict[int, int]) -> None:
        """Move place a onto place b."""
        for f in self.around[a]:
            corners = self.faces[f]
            assert corners is not None
            if f in self.around[b]:
                for w in corners:
                    if self.place[w] != a:
                        self.around[self.place[w]].discard(f)
                self.faces[f] = None
                self.count -= 1
            else:
                self.faces[f] = [moves.get(w, w) for w in corners]
                self.around[b].add(f)
        self.around[a] = set()
        self.quadrics[b] = [x + y for x, y in zip(self.quadrics[a], self.quadrics[b], strict=True)]
        self.version[b] += 1


def _cross(a: _Vector, b: _Vector, c: _Vector) -> _Vector:
    """The normal of a triangle, as long as twice its area."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


def _turn(a: list[float], b: list[float], c: list[float]) -> float:
    """Twice the signed area of a triangle in the texture."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
