"""`v3d convert-splats`: Gaussians from one file format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from v3d.commands.shared import print_warnings
from v3d.errors import V3DError


def convert_splats(
    source: Positional[Annotated[Path, arg(metavar="IN")]],
    target: Positional[Annotated[Path, arg(metavar="OUT")]],
    /,
    axes: str | None = None,
) -> None:
    """Gaussians of one file -> another format, which OUT's ending says.

    Reads and writes .ply, .compressed.ply, .splat, .spz, .sog and .glb.

    Args:
        source: a file of Gaussians; what it is, its content says.
        target: the file to write.
        axes: where x, y and z of IN point, as in RDF (right, down, front), RUB or FLU; by default what
            its format says.
    """
    from v3d.splats.files.read import read_splats
    from v3d.splats.files.write import write_splats

    if target.exists() and source.exists() and target.samefile(source):
        raise V3DError(f"{target} is the file that is read; choose another name for the result.")
    read = read_splats(source, axes=axes)
    write_splats(target, read.splats)
    print_warnings(read.notes)
    print(f"{target}: {len(read.splats):,} Gaussians, {target.stat().st_size / 1e6:.1f} MB")
