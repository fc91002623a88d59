"""Axes of mesh files, and what readers and writers of all formats share.

V3D's world is z up with the object's front towards +x (see `v3d.cameras`). Files differ:

- GLB and glTF are y up with the front towards +z, as their standard says: (x, y, z) in the file is
  (z, x, y) in the world. OBJ is written and read in the same way, as most programs do.
- PLY and STL, the scanner's and the printer's formats, are read as they stand: z up, front towards +x.
  V3D writes them so, and 3MF too; STL and 3MF are in millimetres and stand on z = 0.
- USD is written like GLB.
- Folders of Google Scanned Objects (see `v3d.meshes.folders`) are z up with the front towards -y.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v3d.errors import V3DError
from v3d.meshes.folders import SCANNED_OBJ, is_scanned_object
from v3d.meshes.mesh import Mesh
from v3d.meshes.reading.read import read_file

_FAR = 1000.0
"""Sizes of a mesh; one that stands farther from the origin is moved there: float32 would bend its shape."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeshImport:
    """A mesh file, read.

    Attributes:
        mesh: in V3D's world.
        origin: where the mesh's origin is in the file, in world axes: (0, 0, 0), unless the mesh stands more
            than a thousand times its size from there (in map coordinates, say); then it was moved, in double
            precision.
        notes: what is shown otherwise than the file says, a clause each, such as "the texture wood.png is
            missing".
    """

    mesh: Mesh
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: tuple[str, ...] = ()


def read_mesh(path: str | Path) -> MeshImport:
    """Read a GLB, glTF, OBJ, PLY or STL file, or the folder of a scanned object, as one mesh in V3D's world.

    The scene graph is baked into the vertices. One texture is kept as it is; several textures, plain
    materials, vertex or face colours, and all that multiplies or adds to them become one texture. What is
    cut out by a transparent texture is cut out of the geometry. Without any colour, `texture` is None.

    Raises:
        V3DError: the file is missing, unreadable or holds no triangles with an area.
    """
    path = Path(path)
    scanned = is_scanned_object(path)
    found = read_file(path / SCANNED_OBJ if scanned else path)
    vertices, notes = found.vertices, found.notes
    if scanned:
        vertices = vertices[:, [1, 0, 2]] * (-1, 1, 1)
    elif path.suffix.lower() in {".glb", ".gltf", ".obj"}:
        vertices = vertices[:, [2, 0, 1]]
    low, high = vertices.min(0), vertices.max(0)
    origin = np.zeros(3)
    if np.abs(vertices).max() > _FAR * float((high - low).max()):
        origin = (low + high) / 2
        vertices = vertices - origin
        x, y, z = origin
        notes = (*notes, f"it stands far from the origin and was moved by {-x:.6g}, {-y:.6g}, {-z:.6g}")
    mesh = Mesh(
        torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(found.faces, dtype=np.int64)),
        None if found.uv is None else torch.from_numpy(np.ascontiguousarray(found.uv, dtype=np.float32)),
        None if found.texture is None else torch.from_numpy(found.texture.astype(np.float32) / 255),
    )
    return MeshImport(mesh, (float(origin[0]), float(origin[1]), float(origin[2])), notes)


def load_mesh(path: str | Path) -> Mesh:
    """The mesh that `read_mesh` reads; its notes go to the log.

    Raises:
        V3DError: the file is missing, unreadable or holds no triangles with an area.
    """
    read = read_mesh(path)
    for note in read.notes:
        log.warning("%s: %s", Path(path).name, note)
    return read.mesh


def to_file_axes(points: Tensor) -> np.ndarray:
    """Points or directions [P, 3] in the world -> float32 [P, 3] in the y-up axes of GLB and OBJ files."""
    return np.ascontiguousarray(points[:, [1, 2, 0]].cpu().numpy().astype(np.float32))


def to_print_axes(points: np.ndarray) -> np.ndarray:
    """Points [P, 3] in the world, in metres -> float64 millimetres, z up, standing centred on z = 0."""
    points = points.astype(np.float64) * 1000
    low, high = points.min(0), points.max(0)
    points[:, :2] -= (low[:2] + high[:2]) / 2
    points[:, 2] -= low[2]
    return points


def texture_to_uint8(texture: Tensor) -> np.ndarray:
    """A texture [T, T', 3] or a map [T, T'] in [0, 1] -> uint8, rounded."""
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
