"""Photos of a disc, as files, that tests of reading and of cut-outs share."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from v3d.capture.photo import Photo

RED = (200, 40, 30)


def disc(height: int = 120, width: int = 160, radius: float = 35.0) -> np.ndarray:
    """Antialiased coverage of a disc in the middle."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.asarray(np.clip(radius + 0.5 - np.hypot(x - width / 2, y - height / 2), 0, 1))


def scene(background: np.ndarray | float = 1.0, colour: tuple[int, int, int] = RED) -> np.ndarray:
    a = disc()[..., None]
    rgb = a * np.array(colour) / 255 + (1 - a) * background
    return np.asarray(np.clip(rgb * 255, 0, 255).round(), np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def save_png(path: Path, width: int, height: int, rows: Sequence[bytes] | None = None) -> Path:
    """A grey PNG written by hand, row after row, so that tests can state sizes nobody wants in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    body = (
        b"".join([packer.compress(b"\0" + row) for row in rows] if rows is not None else []) + packer.flush()
    )
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    return path


def middle(photo: Photo) -> np.ndarray:
    size = photo.rgba.shape[0]
    return np.asarray(photo.rgba[size // 2, size // 2, :3])
