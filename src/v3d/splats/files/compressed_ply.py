"""Gaussians as PlayCanvas's `.compressed.ply`: 16 bytes each, in chunks of 256 that share their ranges.

SuperSplat and PlayCanvas read and write it. Axes as in `.ply`.
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.meshes.reading.ply_table import read_table
from v3d.splats.files.axes import WORLD, turned
from v3d.splats.files.encoding import (
    Array,
    FileSplats,
    check_count,
    logit,
    made_of,
    three_smallest,
    to_numpy,
    with_largest,
)
from v3d.splats.files.ply import AXES, COMMENT
from v3d.splats.gaussians import Splats, morton_order

PACKED = b"packed_position"
"""A word of the header that tells this format from other `.ply` files."""

_CHUNK = 256
_AXES3 = ("x", "y", "z")
_RANGES = (
    *(f"{end}_{axis}" for end in ("min", "max") for axis in _AXES3),
    *(f"{end}_scale_{axis}" for end in ("min", "max") for axis in _AXES3),
    *(f"{end}_{colour}" for end in ("min", "max") for colour in "rgb"),
)
_POSITION, _COLOUR = (11, 10, 11), (8, 8, 8, 8)  # bits, from the highest down


def save_compressed_ply(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write positions and scales in 11, 10 and 11 bits of their chunk's range, the rest in 8 to 10 bits.

    Neighbours stand in one chunk.

    Raises:
        V3DError: the file cannot be written.
    """
    splats = turned(splats[morton_order(splats.means)], WORLD, AXES)
    count = len(splats)
    chunks = -(-count // _CHUNK)
    whole = torch.arange(chunks * _CHUNK).clamp(max=max(count - 1, 0))  # the last one fills the last chunk
    tables = (splats.means, splats.log_scales.clamp(-20, 20), splats.rgb)
    ranges, packed = [], []
    for table, bits in zip(tables, (_POSITION, _POSITION, _COLOUR[:3]), strict=True):
        values = to_numpy(table[whole]).reshape(chunks, _CHUNK, 3).astype(np.float64)
        low, high = values.min(1), values.max(1)
        ranges += [low, high]
        span = np.maximum(high - low, 1e-5)[:, None]
        packed.append(_packed(((values - low[:, None]) / span).reshape(-1, 3)[:count], bits))
    opacity = np.rint(to_numpy(splats.opacity) * 255).astype(np.uint32)
    largest, three = three_smallest(splats.quats)
    turns = largest.astype(np.uint32) << 30 | _packed(three * math.sqrt(0.5) + 0.5, (10, 10, 10))
    header = [
        *("ply", "format binary_little_endian 1.0", f"comment {COMMENT}", f"element chunk {chunks}"),
        *(f"property float {name}" for name in _RANGES),
        f"element vertex {count}",
        *(f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")),
        "end_header",
        "",
    ]
    position, scale, colour = packed
    rows = np.stack([position, turns, scale, colour << 8 | opacity], -1)
    with atomic(path) as temporary:
        body = np.concatenate(ranges, -1).astype("<f4").tobytes() + rows.astype("<u4").tobytes()
        temporary.write_bytes("\n".join(header).encode() + body)


def read_compressed_ply(data: bytes) -> FileSplats:
    """The Gaussians of a `.compressed.ply`.

    Raises:
        V3DError: it is broken.
    """
    tables, _ = read_table(data)
    chunks, columns = tables["chunk"], tables["vertex"]
    names = ("position", "rotation", "scale", "color")
    position, rotation, scale, colour = (np.asarray(columns[f"packed_{n}"], np.uint32) for n in names)
    check_count(len(position))
    if len(position) > _CHUNK * len(np.asarray(chunks["min_x"])):
        raise V3DError("it has fewer chunks than its Gaussians need; copy it again")
    chunk = np.arange(len(position)) // _CHUNK

    def spread(values: Array, what: str, axes: tuple[str, ...]) -> Array:
        low, high = (
            np.stack([np.asarray(chunks[f"{end}_{what}{a}"], np.float64)[chunk] for a in axes], -1)
            for end in ("min", "max")
        )
        return low + values * (high - low)

    colours = _unpacked(colour, _COLOUR)
    rgb = spread(colours[:, :3], "", ("r", "g", "b")) if "min_r" in chunks else colours[:, :3]
    three = (_unpacked(rotation, (2, 10, 10, 10))[:, 1:] - 0.5) * math.sqrt(2)
    splats = made_of(
        spread(_unpacked(position, _POSITION), "", _AXES3),
        with_largest(rotation >> 30, three),
        spread(_unpacked(scale, _POSITION), "scale_", _AXES3),
        logit(colours[:, 3]),
        rgb,
    )
    rest = len(tables.get("sh", {}))
    return FileSplats(splats, AXES, round((1 + rest / 3) ** 0.5) - 1)


def _packed(values: Array, bits: tuple[int, ...]) -> Array:
    """Numbers in [0, 1] [N, C] -> [N] uint32, the first in the highest of their bits."""
    packed = np.zeros(len(values), np.uint32)
    for column, size in zip(values.T, bits, strict=True):
        packed = packed << size | np.rint(np.clip(column, 0, 1) * (2**size - 1)).astype(np.uint32)
    return packed


def _unpacked(packed: Array, bits: tuple[int, ...]) -> Array:
    """The numbers in [0, 1] [N, C] of [N] uint32 whose 32 bits are shared in this way."""
    columns, shift = [], 32
    for size in bits:
        shift -= size
        columns.append((packed >> shift & (2**size - 1)) / (2**size - 1))
    return np.stack(columns, -1)
