"""Folders of meshes: mesh files wherever they lie, and Google Scanned Objects as they are downloaded.

A scanned object (Downs et al. 2022, arXiv 2204.11918; any Gazebo model that is laid out alike) is a folder:

    NAME/meshes/model.obj, model.mtl    metres, z up, fronts mostly towards -y
    NAME/materials/textures/texture.png which the .mtl names without its folder
    NAME/metadata.pbtxt                 category, copyright, licence
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

FORMATS = (".glb", ".gltf", ".obj", ".ply", ".stl")
"""Suffixes of the mesh files that V3D reads."""
SCANNED_OBJ = Path("meshes/model.obj")
"""Where a scanned object's folder has the mesh."""
SCANNED_TEXTURES = Path("materials/textures")
"""Where a scanned object's folder has the textures."""
_SPDX = {"Creative Commons Attribution 4.0 International": "CC-BY-4.0"}


@dataclass(frozen=True)
class MeshFile:
    """A mesh that `v3d.meshes.files.load_mesh` reads.

    Attributes:
        id: the file's place in the folder, without suffix unless several files share the rest; a scanned
            object's category/name.
        path: the file, or the folder of a scanned object.
        licence: as the object's metadata say, "" where nothing does.
        real_scan: a scan of a real thing.
    """

    id: str
    path: Path
    licence: str = ""
    real_scan: bool = False


def find_meshes(path: Path) -> list[MeshFile]:
    """All meshes in a folder and in the folders in it, sorted by place; or the one mesh that `path` is."""
    if not path.is_dir():
        return [MeshFile(path.stem, path)]
    found = _find(path, path)
    count = Counter(mesh.id for mesh in found)
    # An asset pack has the same thing as chair.glb, chair.obj and chair.stl.
    return [
        mesh if count[mesh.id] == 1 else replace(mesh, id=mesh.path.relative_to(path).as_posix())
        for mesh in found
    ]


def is_scanned_object(folder: Path) -> bool:
    """Whether this is the folder of one scanned object."""
    # os.path, unlike pathlib, says False to names that no disk can have.
    return os.path.isfile(folder / SCANNED_OBJ) and os.path.isdir(folder / SCANNED_TEXTURES)


def _find(folder: Path, root: Path) -> list[MeshFile]:
    if is_scanned_object(folder):
        return [_scanned_object(folder)]
    found: list[MeshFile] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not path.is_symlink():  # links may run in circles
                found += _find(path, root)
        elif path.suffix.lower() in FORMATS:
            found.append(MeshFile(path.relative_to(root).with_suffix("").as_posix(), path))
    return found


def _scanned_object(folder: Path) -> MeshFile:
    file = folder / "metadata.pbtxt"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    def field(pattern: str) -> str:
        match = re.search(pattern + r'\s*"([^"]*)"', text)
        return match[1].strip() if match else ""

    category, licence, owner = field(r"categories\s*{\s*first:"), field(r"\blicense:"), field(r"\bcopyright:")
    licence = _SPDX.get(licence, licence)
    return MeshFile(
        id="/".join(part.replace(" ", "_") for part in (category, folder.resolve().name) if part),
        path=folder,
        licence=f"{licence} ({owner})" if licence and owner else licence,
        real_scan=True,
    )
