"""Meshes as binary glTF 2.0 (.glb)."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from v3d.files import atomic
from v3d.meshes.files import check_savable, to_bytes, to_file_axes
from v3d.meshes.mesh import Mesh

_LARGEST_PNG = 16 << 20


def save_glb(mesh: Mesh, path: str | Path) -> None:
    """Write a binary glTF 2.0 file: one primitive, smooth normals, the texture as unlit-ready base colour.

    Metallic 0, roughness 1. Positions and uv are kept to the last bit, the texture to 8 bits (as PNG; a
    texture whose PNG passes 16 MB is written as JPEG of quality 95).

    Raises:
        V3DError: the mesh has no faces or its numbers are not finite, or the file cannot be written.
    """
    check_savable(mesh)
    position = to_file_axes(mesh.vertices)
    normal = to_file_axes(mesh.vertex_normals)
    normal[np.linalg.norm(normal, axis=1) < 0.5] = (0, 1, 0)  # vertices of no or only flat faces
    index_type = np.uint16 if len(position) < 65535 else np.uint32

    views: list[dict[str, Any]] = []
    blob = bytearray()

    def add(data: bytes, **properties: Any) -> int:
        blob.extend(b"\0" * (-len(blob) % 4))
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data), **properties})
        blob.extend(data)
        return len(views) - 1

    accessors: list[dict[str, Any]] = []

    def accessor(array: np.ndarray, kind: str, target: int) -> int:
        component = {"uint16": 5123, "uint32": 5125, "float32": 5126}[array.dtype.name]
        count = array.size if kind == "SCALAR" else len(array)
        view = add(np.ascontiguousarray(array).tobytes(), target=target)
        accessors.append({"bufferView": view, "componentType": component, "count": count, "type": kind})
        return len(accessors) - 1

    primitive: dict[str, Any] = {
        "indices": accessor(mesh.faces.cpu().numpy().astype(index_type), "SCALAR", 34963)
    }
    attributes = {"POSITION": accessor(position, "VEC3", 34962), "NORMAL": accessor(normal, "VEC3", 34962)}
    accessors[attributes["POSITION"]] |= {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    primitive["attributes"] = attributes
    gltf: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "V3D"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [primitive], "name": "object"}],
    }
    if mesh.uv is not None and mesh.texture is not None:
        attributes["TEXCOORD_0"] = accessor(mesh.uv.cpu().numpy().astype(np.float32), "VEC2", 34962)
        data, mime = _encode_texture(mesh.texture)
        surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
        primitive["material"] = 0
        gltf |= {
            "materials": [{"name": "texture", "pbrMetallicRoughness": surface}],
            "textures": [{"source": 0, "sampler": 0}],
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
            "images": [{"bufferView": add(data), "mimeType": mime}],
        }
    blob.extend(b"\0" * (-len(blob) % 4))
    gltf |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(blob)}]}
    text = json.dumps(gltf, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(blob)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(blob), b"BIN\0") + blob)


def _encode_texture(texture: Tensor) -> tuple[bytes, str]:
    image = Image.fromarray(to_bytes(texture))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    if buffer.tell() <= _LARGEST_PNG:
        return buffer.getvalue(), "image/png"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), "image/jpeg"
