"""STL, binary or text -> a part, with the colours of faces as Materialise Magics or VisCAM write them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from v3d.errors import V3DError
from v3d.meshes.reading.named_files import read_bytes
from v3d.meshes.reading.parts import Array, Part, linear, plain

_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("bits", "<u2")])
_HEAD = 84  # bytes: 80 of text, and the number of triangles
_VERTEX = re.compile(rb"^\s*vertex\s+(.*)$", re.IGNORECASE | re.MULTILINE)


def read_stl(path: Path) -> tuple[list[Part], list[str]]:
    """The part of an STL file, and no notes.

    Raises:
        V3DError: the file is broken.
    """
    data = read_bytes(path)
    count = int.from_bytes(data[80:_HEAD], "little")
    colours = None
    if len(data) >= _HEAD and len(data) == _HEAD + count * _TRIANGLE.itemsize:
        triangles = np.frombuffer(data, _TRIANGLE, count, _HEAD)
        corners = triangles["corners"].astype(np.float64).reshape(-1, 3)
        colours = _colours(triangles["bits"].astype(np.int64), data[:80])
    else:
        if data[:5].lower() != b"solid":
            raise V3DError(f"it is no STL, or does not hold the {count:,} triangles it claims; copy it again")
        corners = np.array([line.split() for line in _VERTEX.findall(data)], np.float64)
        if corners.size % 9 or b"endsolid" not in data[-4096:].lower():
            raise V3DError("it ends early; copy it again")
        corners = corners.reshape(-1, 3)
    faces = np.arange(len(corners)).reshape(-1, 3)
    return [Part(corners, faces, (plain(),), colours, coloured=colours is not None)], []


def _colours(bits: Array, header: bytes) -> Array | None:
    """15-bit colours of faces -> linear RGBA of their corners [F, 3, 4]; None where the file has none."""
    fifths = np.stack([bits & 31, bits >> 5 & 31, bits >> 10 & 31], 1) / 31
    marked = (bits >> 15 == 1)[:, None]
    at = header.find(b"COLOR=")
    if 0 <= at <= len(header) - 9:  # Magics: red lowest, a marked face has the colour of all
        whole = np.frombuffer(header, np.uint8, 3, at + 6) / 255
        rgb = np.where(marked, whole, fifths)
    elif marked.any():
        rgb = np.where(marked, fifths[:, ::-1], 1.0)  # VisCAM: blue lowest
    else:
        return None
    rgba = np.ones((len(bits), 3, 4), np.float32)
    rgba[..., :3] = linear(rgb)[:, None]
    return rgba
