"""Which Gaussian touches which tile, front to back.

The image is cut into tiles of 8 x 16 pixels. An *entry* is one Gaussian in one tile, with the rows of the
tile it reaches. Entries are first listed by Gaussian, then distributed to the tiles in order of depth.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from v3d.kernels.jit import inlined, kernel
from v3d.kernels.linalg import f32
from v3d.splats.cpu.projection import TILE_HEIGHT, TILE_WIDTH, column_range, row_range

ENTRY = np.dtype([("tile", "i4"), ("first", "u1"), ("last", "u1")], align=True)
TILED = np.dtype([("gaussian", "i4"), ("first", "u1"), ("last", "u1")], align=True)


@kernel
def sort_by_depth(projected: Any, room: Any, order: Any, spare: Any) -> int:
    """Write the visible Gaussians, nearest first, to `order`; returns how many. Stable radix sort.

    The bits of positive floats sort as the floats do; 3 passes of 11 bits.
    """
    keys = np.empty((2, len(room)), np.uint32)
    histogram = np.zeros((3, 2048), np.int64)
    one = np.empty(1, np.float32)
    visible = 0
    for i in range(len(room)):
        if room[i] > 0:
            one[0] = projected[i].z
            key = one.view(np.uint32)[0]
            keys[0, visible], order[visible] = key, i
            visible += 1
            for digit in range(3):
                histogram[digit, (key >> np.uint32(11 * digit)) & np.uint32(2047)] += 1
    source, target = order, spare
    for digit in range(3):
        total = 0
        for k in range(2048):
            here = histogram[digit, k]
            histogram[digit, k] = total
            total += here
        for i in range(visible):
            key = keys[digit % 2, i]
            k = (key >> np.uint32(11 * digit)) & np.uint32(2047)
            place = histogram[digit, k]
            histogram[digit, k] = place + 1
            keys[(digit + 1) % 2, place], target[place] = key, source[i]
        source, target = target, source
    for i in range(visible):  # after three passes the result lies in `spare`
        order[i] = spare[i]
    return visible


@inlined
def _reach(g: Any, dx0: float, dx1: float) -> Any:
    """Lowest and highest dy of the ellipse between columns dx0 and dx1; empty (1, 0) if it misses them."""
    dx0, dx1 = max(dx0, -g.extent_x), min(dx1, g.extent_x)
    if dx0 > dx1:
        return f32(1), f32(0)
    top = min(max(-g.lean, dx0), dx1)
    bottom = min(max(g.lean, dx0), dx1)
    square = g.extent_x * g.extent_x
    return (
        g.slope * top - g.aspect * math.sqrt(max(square - top * top, f32(0))),
        g.slope * bottom + g.aspect * math.sqrt(max(square - bottom * bottom, f32(0))),
    )


@kernel
def list_entries(
    lo: int, hi: int, projected: Any, room: Any, start: Any, cam: Any, tiles_x: int, entries: Any, count: Any
) -> None:
    """The entries of Gaussians lo..hi: entries[start[i] : start[i] + count[i]]."""
    slack = f32(1e-3)  # a row that rounding puts just outside may still be seen
    for i in range(lo, hi):
        count[i] = 0
        if room[i] == 0:
            continue
        g = projected[i]
        e = start[i]
        x0, x1 = column_range(g, cam.width)
        box0, box1 = row_range(g, cam.height)  # `room` was made for this box
        for tile_x in range(x0 // TILE_WIDTH, x1 // TILE_WIDTH + 1):
            left = f32(max(x0, tile_x * TILE_WIDTH)) + f32(0.5)
            right = f32(min(x1, tile_x * TILE_WIDTH + TILE_WIDTH - 1)) + f32(0.5)
            low, high = _reach(g, left - g.x, right - g.x)
            y0 = max(math.ceil(g.y + low - f32(0.5) - slack), box0)
            y1 = min(math.floor(g.y + high - f32(0.5) + slack), box1)
            if low > high or y0 > y1:
                continue
            for tile_y in range(y0 // TILE_HEIGHT, y1 // TILE_HEIGHT + 1):
                entry = entries[e]
                entry.tile = tile_y * tiles_x + tile_x
                entry.first = max(y0 - tile_y * TILE_HEIGHT, 0)
                entry.last = min(y1 - tile_y * TILE_HEIGHT, TILE_HEIGHT - 1)
                e += 1
        count[i] = e - start[i]


@kernel
def count_tiles(
    lo: int, hi: int, order: Any, visible: int, start: Any, count: Any, entries: Any, sizes: Any
) -> None:
    """sizes[band, tile]: entries of the depth bands lo..hi (equal shares of `order`) in every tile."""
    bands = len(sizes)
    for band in range(lo, hi):
        for k in range(band * visible // bands, (band + 1) * visible // bands):
            i = order[k]
            for e in range(start[i], start[i] + count[i]):
                sizes[band, entries[e].tile] += 1


@kernel
def fill_tiles(
    lo: int,
    hi: int,
    order: Any,
    visible: int,
    start: Any,
    count: Any,
    entries: Any,
    next_place: Any,
    tiled: Any,
    place: Any,
) -> None:
    """Copy the entries to their tiles, in order of depth. `place[e]`: where entry e went."""
    bands = len(next_place)
    for band in range(lo, hi):
        for k in range(band * visible // bands, (band + 1) * visible // bands):
            i = order[k]
            for e in range(start[i], start[i] + count[i]):
                entry = entries[e]
                p = next_place[band, entry.tile]
                next_place[band, entry.tile] = p + 1
                t = tiled[p]
                t.gaussian, t.first, t.last = i, entry.first, entry.last
                place[e] = p
