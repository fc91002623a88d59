"""A binary glTF without its materials: what asks for a shape alone gets the same file, but white."""

from __future__ import annotations

import json
import struct
from typing import Any


def without_materials(glb: bytes) -> bytes:
    """The same meshes, nodes and names, with no material, texture or image.

    Args:
        glb: a binary glTF 2.0 file as V3D writes it: one buffer, nothing compressed.

    Raises:
        ValueError: these are not the bytes of such a file.
    """
    (magic, _, length) = struct.unpack_from("<4sII", glb)
    (json_length,) = struct.unpack_from("<I", glb, 12)
    if magic != b"glTF" or length != len(glb):
        raise ValueError("This is no binary glTF.")
    document: dict[str, Any] = json.loads(glb[20 : 20 + json_length])
    binary = glb[20 + json_length + 8 :]
    for name in ("materials", "textures", "samplers", "images"):
        document.pop(name, None)
    for mesh in document["meshes"]:
        for primitive in mesh["primitives"]:
            primitive.pop("material", None)
    blob = bytearray()
    views: list[dict[str, Any]] = []
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        start = view.get("byteOffset", 0)
        accessor["bufferView"] = len(views)
        views.append({**view, "byteOffset": len(blob)})
        blob += binary[start : start + view["byteLength"]]
        blob += b"\0" * (-len(blob) % 4)
    document |= {"bufferViews": views, "buffers": [{"byteLength": len(blob)}]}
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(blob))
    return (
        header
        + struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", len(blob), b"BIN\0")
        + blob
    )
