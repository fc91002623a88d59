"""A mesh file of any format -> the arrays of one mesh with one texture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from v3d.errors import V3DError, in_words
from v3d.meshes.folders import FORMATS
from v3d.meshes.reading.gltf_scene import read_gltf
from v3d.meshes.reading.obj import read_obj
from v3d.meshes.reading.parts import MOST_ELEMENTS, Array, Part
from v3d.meshes.reading.ply import read_ply
from v3d.meshes.reading.stl import read_stl
from v3d.meshes.reading.texturing import one_mesh

_READERS: dict[str, Callable[[Path], tuple[list[Part], list[str]]]] = {
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".ply": read_ply,
    ".stl": read_stl,
}


@dataclass(frozen=True)
class FileMesh:
    """A mesh in the axes of its file.

    Attributes:
        vertices: [P, 3] float64.
        faces: [F, 3] int64.
        uv: [P, 2] in [0, 1], v down; None where the file has no colours.
        texture: [T, T', 3] uint8; None where the file has no colours.
        notes: what is shown otherwise than the file says, a clause each.
    """

    vertices: Array
    faces: Array
    uv: Array | None
    texture: Array | None
    notes: tuple[str, ...]


def read_file(path: Path) -> FileMesh:
    """Read a mesh file.

    The scene graph is baked into the vertices. One texture is kept as it is; all else that a file can say
    about colours becomes one texture.

    Raises:
        V3DError: the file is missing, unreadable or holds no triangles.
    """
    with reading(path):
        parts, notes = _parts(path)
        return _joined(parts, notes)


def read_parts(path: Path) -> tuple[list[Part], list[str]]:
    """The parts of a mesh file that have triangles, in the axes of the file, and notes.

    Raises:
        V3DError: the file is missing, unreadable or holds no triangles.
    """
    with reading(path):
        return _parts(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a mesh file is read into one sentence that names it.

    Raises:
        V3DError: something went wrong, or there is no mesh file of that name.
    """
    if path.suffix.lower() not in FORMATS:
        raise V3DError(f"{path.name} is not a mesh file V3D reads; use one of {', '.join(FORMATS)}.")
    if not os.path.isfile(path):
        raise V3DError(f"There is no mesh file {path}.")
    try:
        with np.errstate(all="ignore"):
            yield
    except V3DError as error:
        raise V3DError(f"{path.name} cannot be read: {str(error).rstrip('.')}.") from None
    except MemoryError:
        raise V3DError(f"{path.name} needs more memory than there is; make a smaller one.") from None
    except Exception as error:  # broken files fail in every imaginable way
        raise V3DError(f"{path.name} is broken or not a mesh file ({in_words(error)}).") from error


def _parts(path: Path) -> tuple[list[Part], list[str]]:
    parts, notes = _READERS[path.suffix.lower()](path)
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise V3DError("it holds no triangles")
    for part in parts:
        _check(part)
    if sum(len(part.faces) for part in parts) > MOST_ELEMENTS:
        raise V3DError(f"it has more than {MOST_ELEMENTS:,} triangles; make a simpler one")
    return parts, notes


def _joined(parts: list[Part], notes: list[str]) -> FileMesh:
    mesh, more = one_mesh(parts)
    if mesh is None:
        raise V3DError("all of it is transparent")
    corners = mesh.vertices[mesh.faces]
    if not np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    ).any():
        raise V3DError("none of its triangles has an area")
    coloured = any(part.coloured for part in parts)
    uv, texture = (mesh.uv, mesh.texture) if coloured else (None, None)
    return FileMesh(mesh.vertices, mesh.faces, uv, texture, (*notes, *more))


def _check(part: Part) -> None:
    if not np.isfinite(part.corners).all():
        raise V3DError("it has vertices that are not finite numbers")
    if np.abs(part.corners).max() > 1e15:
        raise V3DError("it has vertices too far away to be meant")
    for uv in (part.uv, *(layer.uv for layer in part.layers)):
        if uv is not None and not np.isfinite(uv).all():
            raise V3DError("it has texture coordinates that are not finite numbers")
    if part.colours is not None and not np.isfinite(part.colours).all():
        raise V3DError("it has colours that are not finite numbers")
