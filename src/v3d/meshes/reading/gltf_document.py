"""The container of glTF 2.0: its JSON, its buffers, and the arrays in them."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from v3d.errors import V3DError
from v3d.meshes.reading.named_files import find_named, read_bytes
from v3d.meshes.reading.parts import MOST_ELEMENTS, Array

_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_READ = {"KHR_mesh_quantization", "KHR_texture_transform", "KHR_draco_mesh_compression", "EXT_texture_webp"}
_MOST_ZEROS = 1_000_000  # values that a file states without holding them
_MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")


class GltfDocument:
    """A glTF or GLB file.

    Attributes:
        json: the document.
        folder: where the files lie that it names.
        size: bytes of the file and its buffers, as far as they were read.
    """

    def __init__(self, path: Path) -> None:
        """Read the file; buffers beside it are read when they are asked for.

        Raises:
            V3DError: the file is broken, too large, or needs what V3D does not read.
        """
        self.folder = path.parent
        data = read_bytes(path)
        self.size = len(data)
        text, self._binary = _unpack(data) if data[:4] == b"glTF" else (data, b"")
        self.json: dict[str, Any] = json.loads(text.decode("utf-8-sig"))
        if not isinstance(self.json, dict) or "asset" not in self.json:
            raise V3DError("it is not a glTF document")
        if str(self.json["asset"].get("version", "2.0")).split(".")[0] != "2":
            raise V3DError("it is glTF 1.0; convert it to glTF 2.0")
        needed = set(self.json.get("extensionsRequired") or ())
        if needed & set(_MESHOPT):
            raise V3DError(
                "its geometry is compressed with meshopt, which V3D does not read; save it without, for"
                " example with `npx gltfpack -i in.glb -o out.glb`"
            )
        unknown = sorted(n for n in needed - _READ if "_materials_" not in n and n != "KHR_texture_basisu")
        if unknown:
            raise V3DError(f"it needs the glTF extension {unknown[0]}, which V3D does not read")
        self.buffer = lru_cache(maxsize=None)(self._buffer)

    def item(self, kind: str, index: Any) -> dict[str, Any]:
        """Entry `index` of one of the document's lists.

        Raises:
            V3DError: there is none.
        """
        entries = self.json.get(kind, [])
        if type(index) is not int or not 0 <= index < len(entries):
            raise V3DError(f"it names entry {str(index)[:20]} of its {len(entries)} {kind}")
        entry: dict[str, Any] = entries[index]
        if not isinstance(entry, dict):
            raise V3DError(f"entry {index} of its {kind} is no JSON object")
        return entry

    def view(self, index: Any) -> memoryview:
        """The bytes of a buffer view."""
        view = self.item("bufferViews", index)
        start, size = _natural(view.get("byteOffset", 0)), _natural(view["byteLength"])
        data = self.buffer(_natural(view["buffer"]))
        if start + size > len(data):
            raise V3DError(f"buffer view {index} ends after its buffer")
        return memoryview(data)[start : start + size]

    def array(self, index: Any) -> Array:
        """The values [N, C] of an accessor; normalised integers become float64 in [-1, 1]."""
        values = self.stored(index)
        if self.item("accessors", index).get("normalized") and values.dtype.kind in "iu":
            return np.maximum(values / float(np.iinfo(values.dtype).max), -1.0)
        return values

    def stored(self, index: Any) -> Array:
        """The numbers [N, C] of an accessor as they are stored."""
        accessor = self.item("accessors", index)
        dtype, width = np.dtype(_TYPES[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        count = _natural(accessor["count"])
        most = 3 * MOST_ELEMENTS if "bufferView" in accessor else _MOST_ZEROS
        if count > most:
            raise V3DError(f"it claims {count:,} values where {most:,} are the most V3D reads")
        if "bufferView" in accessor:
            view = self.item("bufferViews", accessor["bufferView"])
            values = _strided(
                self.view(accessor["bufferView"]),
                (count, width, _natural(accessor.get("byteOffset", 0)), _natural(view.get("byteStride", 0))),
                dtype,
            )
        else:
            values = np.zeros((count, width), dtype)
        if "sparse" in accessor:
            values = values.copy()
            rows, new = self._sparse(accessor["sparse"], dtype, width)
            if len(rows) and rows.max() >= count:
                raise V3DError("a sparse accessor changes a value that is not there")
            values[rows] = new
        return values

    def file(self, uri: str) -> bytes:
        """What a URI stands for: data in itself, or a file beside the document."""
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            try:
                raw = unquote_to_bytes(body)
                return base64.b64decode(raw) if head.endswith(";base64") else raw
            except (binascii.Error, ValueError):
                raise V3DError("data within it are broken") from None
        path = find_named(uri, self.folder)
        if path is None:
            raise V3DError(f"there is no file {uri[:80]} beside it")
        return read_bytes(path)

    def _buffer(self, index: int) -> bytes:
        uri = self.item("buffers", index).get("uri")
        data = self._binary if uri is None else self.file(str(uri))
        self.size += len(data)
        return data

    def _sparse(self, sparse: dict[str, Any], dtype: np.dtype[Any], width: int) -> tuple[Array, Array]:
        count, at, new = _natural(sparse["count"]), sparse["indices"], sparse["values"]
        rows = _strided(
            self.view(at["bufferView"]),
            (count, 1, _natural(at.get("byteOffset", 0)), 0),
            np.dtype(_TYPES[at["componentType"]]),
        )
        shape = (count, width, _natural(new.get("byteOffset", 0)), 0)
        return rows[:, 0].astype(np.int64), _strided(self.view(new["bufferView"]), shape, dtype)


def _unpack(data: bytes) -> tuple[bytes, bytes]:
    """JSON and binary chunk of a GLB."""
    _, version, _ = struct.unpack_from("<4sII", data)
    if version != 2:
        raise V3DError("it is glTF 1.0; convert it to glTF 2.0")
    chunks: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        size, kind = struct.unpack_from("<I4s", data, at)
        if at + 8 + size > len(data):
            raise V3DError("it ends early; copy it again")
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    return chunks[b"JSON"], chunks.get(b"BIN\0", b"")


def _strided(data: memoryview, layout: tuple[int, int, int, int], dtype: np.dtype[Any]) -> Array:
    """Values [count, width] that begin at `offset` and stand `stride` bytes apart (0: without gaps)."""
    count, width, offset, stride = layout
    size = width * dtype.itemsize
    stride = stride or size
    if count and offset + (count - 1) * stride + size > len(data):
        raise V3DError("an accessor ends after its buffer view")
    if count == 0:
        return np.zeros((0, width), dtype)
    return np.ndarray((count, width), dtype, data, offset, (stride, dtype.itemsize))


def _natural(value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        raise V3DError(f"it has {str(value)[:20]} where a count should be")
    return value
