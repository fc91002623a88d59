"""A file of Gaussians of any format -> `Splats` in V3D's world."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from v3d.errors import V3DError
from v3d.splats.files.axes import checked_axes
from v3d.splats.files.encoding import FileSplats, in_world, naming, read_bytes
from v3d.splats.files.ply import read_ply
from v3d.splats.files.splat import read_splat
from v3d.splats.gaussians import Splats


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
    """Read Gaussians: `.ply`, `.splat`.

    What the file is, is seen by its first bytes; `.splat` files have none that tell, and go by their name.

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
        return read_ply(data)
    if path.suffix.lower() == ".splat":
        return read_splat(data)
    raise V3DError("it is no file of Gaussians that V3D knows; use .ply or .splat")
