"""Meshes as binary glTF 2.0 (.glb), in the axes that `v3d.meshes.files` states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from v3d.meshes.files import check_savable, to_file_axes
from v3d.meshes.gltf import ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, GltfBuffer
from v3d.meshes.look import PLAIN, Look, encoded, plain_text, shaded, suffix_of
from v3d.meshes.mesh import Mesh
from v3d.meshes.tangents import vertex_tangents

_MIME = {"png": "image/png", "jpg": "image/jpeg"}


def save_glb(mesh: Mesh, path: str | Path, look: Look = PLAIN) -> None:
    """Write a binary glTF 2.0 file: one primitive, normals, the texture as unlit-ready base colour.

    Metallic 0, roughness 1. Positions and uv are kept to the last bit, the texture to 8 bits (as PNG; a
    texture whose PNG passes 16 MB is written as JPEG of quality 95). A normal map brings tangents along.

    Raises:
        V3DError: the mesh has no faces or its numbers are not finite, or the file cannot be written.
    """
    check_savable(mesh)
    mesh, normals = shaded(mesh, look)
    buffer = GltfBuffer()
    primitive = _primitive(mesh, normals, buffer)
    name = plain_text(look.name)
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "V3D"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"primitives": [primitive], "name": name}],
    }
    if mesh.uv is not None and mesh.texture is not None:
        uv = mesh.uv.cpu().numpy().astype(np.float32)
        primitive["attributes"]["TEXCOORD_0"] = buffer.add_accessor(uv, ARRAY_BUFFER)
        primitive["material"] = 0
        if look.normal_map is not None:
            tangents = vertex_tangents(mesh, normals)
            in_file = np.concatenate([to_file_axes(tangents[:, :3]), tangents[:, 3:].cpu().numpy()], 1)
            primitive["attributes"]["TANGENT"] = buffer.add_accessor(in_file, ARRAY_BUFFER)
        document |= _material(mesh.texture, look, buffer)
    buffer.save(path, document)


def _primitive(mesh: Mesh, normals: Tensor, buffer: GltfBuffer) -> dict[str, Any]:
    """Indices, positions and normals."""
    position = to_file_axes(mesh.vertices)
    index_type = np.uint16 if len(position) < 65535 else np.uint32
    indices = mesh.faces.cpu().numpy().astype(index_type).reshape(-1)
    return {
        "indices": buffer.add_accessor(indices, ELEMENT_ARRAY_BUFFER),
        "attributes": {
            "POSITION": buffer.add_accessor(position, ARRAY_BUFFER, bounds=True),
            "NORMAL": buffer.add_accessor(to_file_axes(normals), ARRAY_BUFFER),
        },
    }


def _material(texture: Tensor, look: Look, buffer: GltfBuffer) -> dict[str, Any]:
    """The one material of a textured mesh, with its textures, their sampler and images."""
    images: list[dict[str, Any]] = []

    def add(data: bytes) -> dict[str, int]:
        images.append({"bufferView": buffer.add_view(data), "mimeType": _MIME[suffix_of(data)]})
        return {"index": len(images) - 1}

    surface = {
        "baseColorTexture": add(encoded(texture, "jpeg" if look.jpeg else "smaller")),
        "metallicFactor": 0.0,
        "roughnessFactor": 1.0,
    }
    material: dict[str, Any] = {"name": plain_text(look.name), "pbrMetallicRoughness": surface}
    if look.normal_map is not None:
        material["normalTexture"] = add(encoded(look.normal_map))
    if look.occlusion is not None:
        material["occlusionTexture"] = add(encoded(look.occlusion))
    return {
        "materials": [material],
        "textures": [{"source": i, "sampler": 0} for i in range(len(images))],
        # Linear, with mip maps, clamped at the border.
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": images,
    }


def encode_texture(texture: Tensor) -> tuple[bytes, str]:
    """An image file's bytes and its MIME type."""
    data = encoded(texture, "smaller")
    return data, _MIME[suffix_of(data)]
