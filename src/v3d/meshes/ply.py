"""Meshes as binary PLY with vertex colours, as scanning programs read them: z up, as in V3D's world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from v3d.files import atomic
from v3d.meshes.files import check_savable, texture_to_uint8
from v3d.meshes.look import PLAIN, Look, identifier
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import sample_texture
from v3d.meshes.weld import weld, without_slivers

_FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])


def save_ply_mesh(mesh: Mesh, path: str | Path, look: Look = PLAIN) -> None:
    """Write a binary PLY file: positions, normals, triangles, and of a textured mesh a colour a vertex.

    A vertex has the texture's colour there; of a vertex on a seam, the mean of all sides. Details of the
    texture between vertices are lost: meshes of few faces look coarse.

    Args:
        mesh: with or without texture.
        path: of the .ply file.
        look: its name goes into a comment.

    Raises:
        V3DError: the mesh has no faces or its numbers are not finite, or the file cannot be written.
    """
    check_savable(mesh)
    places, faces, place = weld(mesh)
    solid = Mesh(torch.from_numpy(places).float(), torch.from_numpy(faces))
    columns = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    data = [solid.vertices.numpy(), solid.vertex_normals.numpy()]
    if mesh.uv is not None and mesh.texture is not None:
        columns += [(name, "u1") for name in ("red", "green", "blue")]
        at_vertices = sample_texture(mesh.texture, mesh.uv).cpu().double().numpy()
        count = np.bincount(place)[:, None]
        summed = np.stack([np.bincount(place, channel) for channel in at_vertices.T], 1)
        data.append(texture_to_uint8(torch.from_numpy(summed / count)))
    vertices = np.zeros(len(places), columns)
    for (name, _), column in zip(columns, (c for block in data for c in block.T), strict=True):
        vertices[name] = column
    kept = faces[without_slivers(faces)]
    triangles = np.zeros(len(kept), _FACE)
    triangles["count"], triangles["corners"] = 3, kept
    types = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"comment V3D {identifier(look.name)}"]
    header += [f"element vertex {len(vertices)}", *(f"property {types[t]} {name}" for name, t in columns)]
    header += [f"element face {len(kept)}", "property list uchar int vertex_indices", "end_header", ""]
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode() + vertices.tobytes() + triangles.tobytes())
