"""Meshes of other formats as GLB files without materials, which then take textures as any GLB does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from v3d.meshes.gltf import ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, GltfBuffer
from v3d.meshes.mesh import Mesh
from v3d.meshes.reading.parts import Array, Part
from v3d.meshes.reading.texturing import welded

_NO_IMAGE = np.zeros((1, 1, 3), np.uint8)


def save_bare_glb(parts: Sequence[Part], path: Path, *, name: str, z_up: bool) -> None:
    """Write parts as one mesh, a primitive each, with their vertices and uv and without their colours.

    A vertex that has several uv is repeated, as glTF needs it. The number of a part's material is kept.

    Args:
        parts: at least one.
        path: of the .glb file.
        name: of the object in it.
        z_up: the parts are z up with the front towards +x; otherwise they have the axes of glTF.

    Raises:
        V3DError: the file cannot be written.
    """
    buffer = GltfBuffer()
    primitives = [_primitive(part, buffer, z_up) for part in parts]
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "V3D"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"primitives": primitives, "name": name}],
        "materials": [{} for _ in range(max(part.material for part in parts) + 1)],
    }
    buffer.save(path, {key: value for key, value in document.items() if value != []})


def _primitive(part: Part, buffer: GltfBuffer, z_up: bool) -> dict[str, Any]:
    vertices, faces, uv = part.vertices, part.faces, None
    if part.uv is not None:
        placed = welded(part, part.uv, _NO_IMAGE)
        vertices, faces, uv = placed.vertices, placed.faces, placed.uv
    position = np.ascontiguousarray(vertices[:, [1, 2, 0]] if z_up else vertices, np.float32)
    primitive: dict[str, Any] = {
        "indices": buffer.add_accessor(_smallest(faces.reshape(-1), len(position)), ELEMENT_ARRAY_BUFFER),
        "attributes": {
            "POSITION": buffer.add_accessor(position, ARRAY_BUFFER, bounds=True),
            "NORMAL": buffer.add_accessor(_normals(position, faces), ARRAY_BUFFER),
        },
    }
    if uv is not None:
        primitive["attributes"]["TEXCOORD_0"] = buffer.add_accessor(uv.astype(np.float32), ARRAY_BUFFER)
    return primitive | ({"material": part.material} if part.material >= 0 else {})


def _smallest(indices: Array, vertices: int) -> Array:
    return indices.astype(np.uint16 if vertices < 65535 else np.uint32)


def _normals(position: Array, faces: Array) -> Array:
    mesh = Mesh(torch.from_numpy(position), torch.from_numpy(np.ascontiguousarray(faces, np.int64)))
    normal: Array = mesh.vertex_normals.numpy()
    normal[np.linalg.norm(normal, axis=1) < 0.5] = (0, 1, 0)  # vertices of no or only flat faces
    return normal
