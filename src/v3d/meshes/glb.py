"""Meshes as binary glTF 2.0 (.glb), in the axes that `v3d.meshes.files` states."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from v3d.meshes.files import check_savable, texture_to_uint8, to_file_axes
from v3d.meshes.gltf import ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, GltfBuffer
from v3d.meshes.mesh import Mesh

_LARGEST_PNG = 16 << 20  # bytes


def save_glb(mesh: Mesh, path: str | Path) -> None:
    """Write a binary glTF 2.0 file: one primitive, smooth normals, the texture as unlit-ready base colour.

    Metallic 0, roughness 1. Positions and uv are kept to the last bit, the texture to 8 bits (as PNG; a
    texture whose PNG passes 16 MB is written as JPEG of quality 95).

    Raises:
        V3DError: the mesh has no faces or its numbers are not finite, or the file cannot be written.
    """
    check_savable(mesh)
    buffer = GltfBuffer()
    primitive = _primitive(mesh, buffer)
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "V3D"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [primitive], "name": "object"}],
    }
    if mesh.uv is not None and mesh.texture is not None:
        uv = mesh.uv.cpu().numpy().astype(np.float32)
        primitive["attributes"]["TEXCOORD_0"] = buffer.add_accessor(uv, ARRAY_BUFFER)
        primitive["material"] = 0
        document |= _material(mesh.texture, buffer)
    buffer.save(path, document)


def _primitive(mesh: Mesh, buffer: GltfBuffer) -> dict[str, Any]:
    """Indices, positions and normals."""
    position = to_file_axes(mesh.vertices)
    normal = to_file_axes(mesh.vertex_normals)
    normal[np.linalg.norm(normal, axis=1) < 0.5] = (0, 1, 0)  # vertices of no or only flat faces
    index_type = np.uint16 if len(position) < 65535 else np.uint32
    indices = mesh.faces.cpu().numpy().astype(index_type).reshape(-1)
    return {
        "indices": buffer.add_accessor(indices, ELEMENT_ARRAY_BUFFER),
        "attributes": {
            "POSITION": buffer.add_accessor(position, ARRAY_BUFFER, bounds=True),
            "NORMAL": buffer.add_accessor(normal, ARRAY_BUFFER),
        },
    }


def _material(texture: Tensor, buffer: GltfBuffer) -> dict[str, Any]:
    """The one material of a textured mesh, with its texture, sampler and image."""
    data, mime = encode_texture(texture)
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    return {
        "materials": [{"name": "texture", "pbrMetallicRoughness": surface}],
        "textures": [{"source": 0, "sampler": 0}],
        # Linear, with mip maps, clamped at the border.
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": buffer.add_view(data), "mimeType": mime}],
    }


def encode_texture(texture: Tensor) -> tuple[bytes, str]:
    """An image file's bytes and its MIME type."""
    image = Image.fromarray(texture_to_uint8(texture))
    file = io.BytesIO()
    image.save(file, "PNG")
    if file.tell() <= _LARGEST_PNG:
        return file.getvalue(), "image/png"
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue(), "image/jpeg"
