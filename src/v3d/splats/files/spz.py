"""Gaussians as `.spz`, Niantic's compressed format: a tenth of a `.ply`. Axes `RUB`, as the format says.

Version 3 is written, which everything reads: one gzip stream. Versions 2 to 4 are read; 4 is of ZSTD streams,
for which the extra `spz` installs `zstandard`.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib

import numpy as np

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.splats.files.axes import WORLD, turned
from v3d.splats.files.encoding import (
    SH_DC,
    Array,
    FileSplats,
    check_count,
    logit,
    made_of,
    three_smallest,
    to_bytes,
    to_numpy,
    with_largest,
)
from v3d.splats.gaussians import Splats

AXES = "RUB"
MAGIC = b"NGSP"

_COLOUR = 0.15 / SH_DC  # 8 bits of colour span [0.5 - 0.5 / _COLOUR, 0.5 + 0.5 / _COLOUR]
_LARGEST = math.sqrt(0.5)  # of the three smaller components of a quaternion
# The coordinate systems that the extension 0xADBE0003 numbers from 1.
_SYSTEMS: tuple[str, ...] = ("LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF")
_SYSTEMS += ("LFD", "RFD", "LFU", "RFU", "LBD", "RBD", "LBU", "RBU")
_SYSTEM_RECORD = 0xADBE0003


def save_spz(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write SPZ 3, without spherical harmonics above degree 0.

    A Gaussian has 3 x 24 bits of position, 8 each of opacity, colours and logarithms of the scales (steps of
    1/16), and 32 of rotation. A step of the position is 2**-12, or finer for small objects and coarser where
    coordinates pass 2048.

    Raises:
        V3DError: the file cannot be written.
    """
    splats = turned(splats, WORLD, AXES)
    farthest = float(splats.means.abs().max()) if len(splats) else 1.0
    whole = math.frexp(farthest)[1]  # bits before the point
    fraction = min(max(min(23 - whole, max(12, 15 - whole)), 0), 23)
    steps = np.rint(to_numpy(splats.means).astype(np.float64) * 2.0**fraction)
    positions = np.clip(steps, -(2**23), 2**23 - 1).astype("<i4")[..., None].view(np.uint8)[..., :3]
    largest, three = three_smallest(splats.quats)
    parts = np.rint(np.abs(three) / _LARGEST * 511).astype(np.uint32) | np.where(three < 0, 512, 0)
    # Components in the order x y z w, of which ours is w x y z.
    packed = ((largest.astype(np.uint32) + 3) % 4) << 30
    first_is_w = largest != 0
    ordered = np.where(first_is_w[:, None], np.roll(parts, -1, axis=1), parts).astype(np.uint32)
    packed |= ordered[:, 0] << 20 | ordered[:, 1] << 10 | ordered[:, 2]
    data = [
        struct.pack("<4sIIBBBB", MAGIC, 3, len(splats), 0, fraction, 0, 0),
        positions.tobytes(),
        to_bytes(splats.opacity * 255).tobytes(),
        to_bytes(((splats.rgb - 0.5) * _COLOUR + 0.5) * 255).tobytes(),
        to_bytes((splats.log_scales + 10) * 16).tobytes(),
        packed.astype("<u4").tobytes(),
    ]
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(b"".join(data), 9, mtime=0))


def read_spz(data: bytes) -> FileSplats:
    """The Gaussians of an SPZ file of version 2, 3 or 4.

    Raises:
        V3DError: it is of another version, cut short, or needs the extra `spz`.
    """
    axes = AXES
    if data[:4] == MAGIC:
        version, count, degree, fraction, flags, streams, table = struct.unpack_from("<IIBBBBI", data, 4)
        if version != 4:
            raise V3DError(f"it is SPZ of version {version}; V3D reads 2 to 4")
        if flags & 2:
            axes = _stated_axes(data[32:table])
        parts = _zstd_streams(data, check_count(count), streams, table)
    else:
        unpacked = zlib.decompressobj(31)
        head = unpacked.decompress(data, 16)
        magic, version, count, degree, fraction, _, _ = struct.unpack("<4sIIBBBB", head)
        if magic != MAGIC or version not in (2, 3):
            raise V3DError("it is no SPZ file of version 2 to 4")
        sizes = _sizes(check_count(count), version)
        body = memoryview(unpacked.decompress(unpacked.unconsumed_tail, sum(sizes) or 1))
        ends = np.cumsum(sizes)
        parts = [bytes(body[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    if [len(part) for part in parts] != _sizes(count, version):
        raise V3DError("it ends early; copy it again")
    if degree > 4 or fraction > 31:
        raise V3DError("its header is broken; copy it again")
    return FileSplats(_unpacked(parts, version, fraction), axes, degree)


def _sizes(count: int, version: int) -> list[int]:
    """Bytes of positions, opacity, colours, scales and rotations."""
    return [9 * count, count, 3 * count, 3 * count, (3 if version == 2 else 4) * count]


def _unpacked(parts: list[bytes], version: int, fraction: int) -> Splats:
    positions, alphas, colours, scales, turns = (np.frombuffer(part, np.uint8) for part in parts)
    steps = np.zeros((len(alphas), 3, 4), np.uint8)
    steps[..., 1:] = positions.reshape(-1, 3, 3)  # the upper bytes, so that the sign is in its place
    means = (steps.view("<i4")[..., 0] >> 8) / 2.0**fraction
    return made_of(
        means,
        _first_three(turns.reshape(-1, 3)) if version == 2 else _smallest_three(turns),
        scales.reshape(-1, 3) / 16.0 - 10,
        logit(alphas / 255.0),
        (colours.reshape(-1, 3) / 255.0 - 0.5) / _COLOUR + 0.5,
    )


def _first_three(turns: Array) -> Array:
    """Quaternions wxyz of bytes x y z [N, 3]; w is positive."""
    return with_largest(np.zeros(len(turns), np.int64), turns / 127.5 - 1)


def _smallest_three(turns: Array) -> Array:
    """Quaternions wxyz of 32 bits: which of x y z w is the largest, and sign and 9 bits of the others."""
    packed = turns.view("<u4")
    fields = np.stack([packed >> shift & 1023 for shift in (20, 10, 0)], -1).astype(np.int64)
    three = np.where(fields & 512, -1, 1) * (fields & 511) / 511 * _LARGEST
    return with_largest((packed >> 30).astype(np.int64), three)[:, [3, 0, 1, 2]]


def _stated_axes(records: bytes) -> str:
    """The axes that a record of the header's extensions names, or the format's own."""
    at = 0
    while at + 12 <= len(records):
        kind, size, value = struct.unpack_from("<III", records, at)
        if kind == _SYSTEM_RECORD and 1 <= value <= len(_SYSTEMS):
            return _SYSTEMS[int(value) - 1]
        at += 8 + size
    return AXES


def _zstd_streams(data: bytes, count: int, streams: int, table: int) -> list[bytes]:
    """What the first five streams of version 4 hold, as far as it is needed."""
    try:
        import zstandard
    except ImportError:
        raise V3DError(
            "it is SPZ 4, which needs the package zstandard: pip install zstandard, or save it as SPZ 3"
        ) from None
    if streams < 5:
        raise V3DError("it lacks some of its streams")
    at, parts = table + 16 * streams, []
    for k, size in enumerate(_sizes(count, 4)):
        packed = struct.unpack_from("<Q", data, table + 16 * k)[0]
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data[at : at + packed])
        parts.append(reader.read(size) if size else b"")
        at += packed
    return parts
