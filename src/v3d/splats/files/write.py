"""`Splats` -> a file of the format that its name says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from v3d.errors import V3DError
from v3d.splats.files.compressed_ply import save_compressed_ply
from v3d.splats.files.glb import save_splats_glb
from v3d.splats.files.ply import save_ply
from v3d.splats.files.sog import save_sog
from v3d.splats.files.splat import save_splat
from v3d.splats.files.spz import save_spz
from v3d.splats.gaussians import Splats

WRITERS: Mapping[str, Callable[[str | os.PathLike[str], Splats], None]] = {
    ".ply": save_ply,
    ".compressed.ply": save_compressed_ply,
    ".splat": save_splat,
    ".spz": save_spz,
    ".sog": save_sog,
    ".glb": save_splats_glb,
}
"""What writes each ending; the longest that fits is taken."""


def write_splats(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write Gaussians that stand in V3D's world, in the format that the name ends with.

    Raises:
        V3DError: the ending is none that V3D writes, a Gaussian is not made of finite numbers, or the file
            cannot be written.
    """
    name = Path(path).name.lower()
    fitting = [ending for ending in WRITERS if name.endswith(ending)]
    if not fitting:
        raise V3DError(f"{Path(path).name} has no ending of a file of Gaussians: {', '.join(WRITERS)}.")
    if not bool(splats.is_finite.all()):
        raise V3DError("Some Gaussians are not made of finite numbers; they cannot be saved.")
    WRITERS[max(fitting, key=len)](path, splats)
