"""Binary glTF 2.0 files (.glb): one JSON document, and one buffer that its views and accessors point into."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

import numpy as np

from v3d.files import atomic

ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
"""glTF's targets of a buffer view: vertex attributes, and indices."""
_COMPONENTS = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


class GltfBuffer:
    """The buffer of a file, filled piece by piece."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._views: list[dict[str, Any]] = []
        self._accessors: list[dict[str, Any]] = []

    def add_view(self, data: bytes, **properties: Any) -> int:
        """Append bytes at the next multiple of four; the index of their buffer view."""
        self._pad()
        self._views.append(
            {"buffer": 0, "byteOffset": len(self._bytes), "byteLength": len(data), **properties}
        )
        self._bytes.extend(data)
        return len(self._views) - 1

    def add_accessor(self, array: np.ndarray, target: int, *, bounds: bool = False) -> int:
        """Append an array as a buffer view of its own; the index of its accessor.

        Args:
            array: [N] or [N, C] with C from 2 to 4, of uint8, uint16, uint32 or float32.
            target: `ARRAY_BUFFER` or `ELEMENT_ARRAY_BUFFER`.
            bounds: state the least and the largest of every column, as the standard asks for positions.
        """
        view = self.add_view(np.ascontiguousarray(array).tobytes(), target=target)
        accessor = {"bufferView": view} | accessor_of(array)
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self._accessors.append(accessor)
        return len(self._accessors) - 1

    def save(self, path: str | os.PathLike[str], document: dict[str, Any]) -> None:
        """Write the file: `document` with this buffer, its views and accessors.

        Raises:
            V3DError: the file cannot be written.
        """
        self._pad()
        blob = bytes(self._bytes)
        buffers = {"accessors": self._accessors, "bufferViews": self._views}
        write_glb(path, document | buffers, blob)

    def _pad(self) -> None:
        self._bytes.extend(b"\0" * (-len(self._bytes) % 4))


def accessor_of(array: np.ndarray) -> dict[str, Any]:
    """An accessor's type and count, for an array [N] or [N, C] as `GltfBuffer.add_accessor` takes it."""
    kind = _KINDS[1 if array.ndim == 1 else array.shape[1]]
    return {"componentType": _COMPONENTS[array.dtype.name], "count": len(array), "type": kind}


def write_glb(path: str | os.PathLike[str], document: dict[str, Any], blob: bytes) -> None:
    """Write a GLB of a document and the one buffer that it speaks of.

    Raises:
        V3DError: the file cannot be written.
    """
    blob += b"\0" * (-len(blob) % 4)
    text = json.dumps(document | {"buffers": [{"byteLength": len(blob)}]}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(blob)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(blob), b"BIN\0") + blob)
