"""A file of Gaussians of any format -> `Splats` in V3D's world."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from v3d.errors import V3DError
from v3d.splats.files.axes import checked_axes
from v3d.splats.files.compressed_ply import PACKED, read_compressed_ply
from v3d.splats.files.encoding import FileSplats, in_world, naming, read_bytes
from v3d.splats.files.glb import read_splats_gltf
from v3d.splats.files.ply import read_ply
from v3d.splats.files.sog import read_sog
from v3d.splats.files.splat import read_splat
from v3d.splats.files.spz import MAGIC, read_spz
from v3d.splats.gaussians import Splats

READ = (".ply", ".compressed.ply", ".splat", ".spz", ".sog", ".glb", ".gltf")
"""Endings of the files that `read_splats` reads."""

_HEADER = 4096  # bytes; where a .ply says what its columns are


@dataclass(frozen=True)
class SplatsImport:
    """A file of Gaussians, read.

    Attributes:
        splats: in V3D's world.
        notes: what was guessed or left out, a sentence each.
    """

    splats: Splats
    notes: tuple[str, ...] = ()


def read_splats(path: str | os.PathLike[str], *, axes: str | None = None) -> SplatsImport:
    """Read Gaussians: `.ply`, `.compressed.ply`, `.splat`, `.spz`, `.sog`, and glTF with Gaussians.

    What a file is, its first bytes say; only `.splat` and `.gltf` go by their names.

    Args:
        path: the file.
        axes: where its x, y and z point, three letters as in RDF (right, down, front); by default what the
            format says. See `v3d.splats.files.axes`.

    Raises:
        V3DError: the file is missing, broken, or of no format that V3D reads.
    """
    path = Path(path)
    axes = None if axes is None else checked_axes(axes)
    data = read_bytes(path)
    with naming(path):
        splats, notes = in_world(_read(path, data), axes)
    return SplatsImport(splats, notes)


def _read(path: Path, data: bytes) -> FileSplats:
    if data[:3] == b"ply":
        return read_compressed_ply(data) if PACKED in data[:_HEADER] else read_ply(data)
    if data[:4] == MAGIC or data[:2] == b"\x1f\x8b":
        return read_spz(data)
    if data[:4] == b"glTF" or path.suffix.lower() == ".gltf":
        return read_splats_gltf(path)
    if data[:4] == b"PK\3\4":
        return read_sog(data)
    if path.suffix.lower() == ".splat":
        return read_splat(data)
    raise V3DError(f"it is no file of Gaussians that V3D reads: {', '.join(READ)}")
