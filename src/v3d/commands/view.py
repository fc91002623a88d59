"""`v3d view`: Gaussians and meshes in the browser."""

from __future__ import annotations

import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from v3d.commands.shared import print_warnings
from v3d.errors import V3DError

if TYPE_CHECKING:
    from v3d.meshes.mesh import Mesh
    from v3d.splats.gaussians import Splats


def view(
    asset: Positional[Annotated[Path, arg(metavar="ASSET")]],
    /,
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE")] = None,
    axes: str | None = None,
    open: bool = True,
) -> None:
    """A run's folder, a mesh or a file of Gaussians -> one HTML file, opened in the browser.

    The file holds all it needs: send it to whom you like.

    Args:
        asset: the folder of a run, or a .glb, .obj, .ply, .splat, .spz, .sog, ... file.
        out: the .html file; by default viewer.html in the run's folder, or a temporary file.
        axes: where x, y and z of a file of Gaussians point, as in RDF (right, down, front); by default
            what its format says.
        open: open the browser; --no-open only prints the file's name.
    """
    from v3d.viewer.page import save_viewer

    splats, mesh, notes = _run(asset) if asset.is_dir() else _file(asset, axes)
    if out is None:
        folder = asset if asset.is_dir() else Path(tempfile.mkdtemp(prefix="v3d-view-"))
        out = folder / "viewer.html"
    save_viewer(out, splats, mesh, title=asset.resolve().stem)
    print_warnings(notes)
    print(out)
    if open and not webbrowser.open(out.resolve().as_uri()):
        print_warnings([f"There is no browser here; open {out} in one."])


Found = tuple["Splats | None", "Mesh | None", tuple[str, ...]]


def _run(folder: Path) -> Found:
    from v3d.meshes.files import read_mesh
    from v3d.splats.files.read import read_splats

    files = folder / "splats.ply", folder / "mesh.glb"
    splats, mesh = (file.exists() for file in files)
    if not (splats or mesh):
        raise V3DError(f"{folder} is no folder of a run: it has neither splats.ply nor mesh.glb.")
    return (
        read_splats(files[0]).splats if splats else None,
        read_mesh(files[1]).mesh if mesh else None,
        (),
    )


def _file(path: Path, axes: str | None) -> Found:
    from v3d.meshes.files import read_mesh
    from v3d.meshes.folders import FORMATS
    from v3d.splats.files.read import READ, read_splats

    suffix = path.suffix.lower()
    if suffix in FORMATS and (suffix not in READ or axes is None):
        try:  # .ply and .glb are either
            if suffix not in READ:
                raise V3DError("a mesh")
            read = read_splats(path)
        except V3DError:
            found = read_mesh(path)
            return None, found.mesh, found.notes
    else:
        read = read_splats(path, axes=axes)
    return read.splats, None, read.notes
