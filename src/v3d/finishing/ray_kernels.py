"""Rays through a grid of triangles, compiled: a three-dimensional digital differential analyser."""

from __future__ import annotations

from typing import Any

import numpy as np

from v3d.kernels.jit import inlined, kernel


@kernel
def fill_cells(boxes: Any, shape: Any, starts: Any, items: Any, fill: bool) -> None:
    """Count the triangles of every cell in `starts[cell + 1]`, or, with `fill`, list them in `items`.

    Args:
        boxes: [F, 6] int64 cells that the triangles' boxes reach: lowest x, y, z, highest x, y, z.
        shape: numbers of cells along x, y, z.
        starts: [cells + 1] int64: counts, or, with `fill`, where the next item of a cell goes.
        items: [all counts] int64.
        fill: what to do.
    """
    for f in range(len(boxes)):
        for x in range(boxes[f, 0], boxes[f, 3] + 1):
            for y in range(boxes[f, 1], boxes[f, 4] + 1):
                for z in range(boxes[f, 2], boxes[f, 5] + 1):
                    cell = (x * shape[1] + y) * shape[2] + z
                    if fill:
                        items[starts[cell]] = f
                        starts[cell] += 1
                    else:
                        starts[cell + 1] += 1


@inlined
def _hit(origin: Any, direction: Any, corners: Any) -> Any:
    """Distance along the ray and the weights of corners b and c, by Moeller and Trumbore; -1 for a miss."""
    e1x, e1y, e1z = (
        corners[1, 0] - corners[0, 0],
        corners[1, 1] - corners[0, 1],
        corners[1, 2] - corners[0, 2],
    )
    e2x, e2y, e2z = (
        corners[2, 0] - corners[0, 0],
        corners[2, 1] - corners[0, 1],
        corners[2, 2] - corners[0, 2],
    )
    px = direction[1] * e2z - direction[2] * e2y
    py = direction[2] * e2x - direction[0] * e2z
    pz = direction[0] * e2y - direction[1] * e2x
    determinant = e1x * px + e1y * py + e1z * pz
    t, v, w = -1.0, -1.0, -1.0
    if abs(determinant) > 1e-30:
        sx, sy, sz = origin[0] - corners[0, 0], origin[1] - corners[0, 1], origin[2] - corners[0, 2]
        v = (sx * px + sy * py + sz * pz) / determinant
        qx, qy, qz = sy * e1z - sz * e1y, sz * e1x - sx * e1z, sx * e1y - sy * e1x
        w = (direction[0] * qx + direction[1] * qy + direction[2] * qz) / determinant
        if v >= -1e-9 and w >= -1e-9 and v + w <= 1 + 1e-9:
            t = (e2x * qx + e2y * qy + e2z * qz) / determinant
    return t, v, w


@kernel
def trace(
    first: Any,
    last: Any,
    origins: Any,
    directions: Any,
    limits: Any,
    triangles: Any,
    starts: Any,
    items: Any,
    low: Any,
    side: float,
    shape: Any,
    distance: Any,
    face: Any,
    weights: Any,
) -> None:
    """The nearest triangle along each of the rays `first` to `last`.

    Args:
        first, last: the range of rays.
        origins, directions: [N, 3] float64; distances are in lengths of the direction.
        limits: [N] how far to look.
        triangles: [F, 3, 3] corners.
        starts, items: the triangles of every cell.
        low: [3] the grid's lowest corner.
        side: of a cell.
        shape: numbers of cells along x, y, z.
        distance: [N], filled with infinity: the results.
        face: [N] int64, filled with -1.
        weights: [N, 2] of corners b and c.
    """
    step, cell = np.zeros(3, np.int64), np.zeros(3, np.int64)
    following, delta = np.zeros(3), np.zeros(3)
    for i in range(first, last):
        enter, leave = 0.0, limits[i]
        for k in range(3):
            o, d = origins[i, k] - low[k], directions[i, k]
            if abs(d) < 1e-12:
                if o < 0 or o > shape[k] * side:
                    leave = -1.0
            else:
                a, b = -o / d, (shape[k] * side - o) / d
                enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
        if enter > leave:
            continue
        for k in range(3):
            o, d = origins[i, k] - low[k], directions[i, k]
            cell[k] = min(max(int(np.floor((o + d * enter) / side)), 0), shape[k] - 1)
            if d > 1e-12:
                step[k], delta[k], following[k] = 1, side / d, ((cell[k] + 1) * side - o) / d
            elif d < -1e-12:
                step[k], delta[k], following[k] = -1, -side / d, (cell[k] * side - o) / d
            else:
                step[k], delta[k], following[k] = 0, np.inf, np.inf
        best = limits[i]
        while True:
            at = (cell[0] * shape[1] + cell[1]) * shape[2] + cell[2]
            for j in range(starts[at], starts[at + 1]):
                t, v, w = _hit(origins[i], directions[i], triangles[items[j]])
                if 0 <= t < best:
                    best = t
                    distance[i], face[i] = t, items[j]
                    weights[i, 0], weights[i, 1] = v, w
            k = 0
            if following[1] < following[k]:
                k = 1
            if following[2] < following[k]:
                k = 2
            if following[k] > best or following[k] > leave:
                break
            cell[k] += step[k]
            if cell[k] < 0 or cell[k] >= shape[k]:
                break
            following[k] += delta[k]


@inlined
def _pierces(a: Any, b: Any, corners: Any) -> Any:
    """Whether the inside of the segment from a to b goes through the inside of a triangle."""
    t, v, w = _hit(a, b - a, corners)
    return 1e-9 < t < 1 - 1e-9 and v > 1e-9 and w > 1e-9 and v + w < 1 - 1e-9


@kernel
def count_crossings(
    triangles: Any, corners: Any, boxes: Any, starts: Any, items: Any, shape: Any, crossing: Any
) -> int:
    """The number of pairs of triangles that go through each other; those that share a corner do not count.

    Args:
        triangles: [F, 3, 3] corners.
        corners: [F, 3] int64 numbers of their places.
        boxes, starts, items, shape: the grid that they are sorted into, see `fill_cells`.
        crossing: [F] bool, filled with False: which are in such a pair.
    """
    pairs = 0
    for x in range(shape[0]):
        for y in range(shape[1]):
            for z in range(shape[2]):
                at = (x * shape[1] + y) * shape[2] + z
                for m in range(starts[at], starts[at + 1]):
                    i = items[m]
                    for n in range(m + 1, starts[at + 1]):
                        j = items[n]
                        # Two that share several cells meet in the first of them only.
                        if (
                            max(boxes[i, 0], boxes[j, 0]) != x
                            or max(boxes[i, 1], boxes[j, 1]) != y
                            or max(boxes[i, 2], boxes[j, 2]) != z
                        ):
                            continue
                        joined = False
                        for k in range(3):
                            for h in range(3):
                                joined = joined or corners[i, k] == corners[j, h]
                        if joined:
                            continue
                        through = False
                        for k in range(3):
                            h = (k + 1) % 3
                            through = through or _pierces(triangles[i, k], triangles[i, h], triangles[j])
                            through = through or _pierces(triangles[j, k], triangles[j, h], triangles[i])
                        if through:
                            pairs += 1
                            crossing[i] = True
                            crossing[j] = True
    return pairs
