"""Axes of mesh files, and what readers and writers of all formats share.

V3D's world is z up with the object's front towards +x (see `v3d.cameras`). Files differ:

- GLB and glTF are y up with the front towards +z, as their standard says: (x, y, z) in the file is
  (z, x, y) in the world. OBJ is written and read in the same way, as most programs do.
- PLY and STL, the scanner's and the printer's formats, are read as they stand: z up, front towards +x.
- Folders of Google Scanned Objects (see `v3d.meshes.folders`) are z up with the front towards -y.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v3d.errors import V3DError
from v3d.meshes.folders import SCANNED_OBJ, is_scanned_object
from v3d.meshes.mesh import Mesh


def load_mesh(path: str | Path) -> Mesh:
    """Read a GLB, glTF, OBJ, PLY or STL file, or the folder of a scanned object, as one mesh in V3D's world.

    The scene graph is baked into the vertices. One texture is kept as it is; several textures, plain
    materials and vertex or face colours become one atlas. Without any colour, `texture` is None.

    Raises:
        V3DError: the file is missing, unreadable or holds no triangles.
    """
    from v3d.meshes.importing import import_mesh  # trimesh takes half a second to import

    path = Path(path)
    scanned = is_scanned_object(path)
    vertices, faces, uv, texture = import_mesh(path / SCANNED_OBJ if scanned else path)
    if scanned:
        vertices = vertices[:, [1, 0, 2]] * (-1, 1, 1)
    elif path.suffix.lower() in {".glb", ".gltf", ".obj"}:
        vertices = vertices[:, [2, 0, 1]]
    return Mesh(
        torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(faces, dtype=np.int64)),
        None if uv is None else torch.from_numpy(np.ascontiguousarray(uv, dtype=np.float32)),
        None if texture is None else torch.from_numpy(texture.astype(np.float32) / 255),
    )


def to_file_axes(points: Tensor) -> np.ndarray:
    """Points or directions [P, 3] in the world -> float32 [P, 3] in the y-up axes of GLB and OBJ files."""
    return np.ascontiguousarray(points[:, [1, 2, 0]].cpu().numpy().astype(np.float32))


def texture_to_uint8(texture: Tensor) -> np.ndarray:
    """A texture [T, T', 3] in [0, 1] -> uint8, rounded."""
    return (texture.clamp(0, 1) * 255).round().byte().cpu().numpy()


def check_savable(mesh: Mesh) -> None:
    """Refuse what other programs could not open.

    Raises:
        V3DError: the mesh has no faces, or vertices that are not finite numbers.
    """
    if len(mesh.faces) == 0:
        raise V3DError("The mesh has no faces, so there is nothing to save.")
    if not bool(torch.isfinite(mesh.vertices).all()):
        raise V3DError("The mesh has vertices that are not finite numbers; it cannot be saved.")
