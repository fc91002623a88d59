"""Gaussians and a mesh -> one HTML file that shows them.

The viewer is V3D's own: 500 lines of WebGL 2 (25 kB), where the viewers that others keep bring one to three
megabytes into every file and show either Gaussians or meshes. The Gaussians are in it as SPZ, the mesh as
GLB, both as base64.
"""

from __future__ import annotations

import base64
import html
import os
import tempfile
from importlib import resources
from pathlib import Path
from string import Template

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.splats.files.spz import save_spz
from v3d.splats.gaussians import Splats

_SCRIPTS = ("camera.js", "gl.js", "splats.js", "mesh.js", "main.js")


def save_viewer(
    path: str | os.PathLike[str], splats: Splats | None, mesh: Mesh | None, title: str = "V3D"
) -> None:
    """Write a page that shows Gaussians, a mesh, or both, from the disk and without a network.

    Args:
        path: the .html file.
        splats: Gaussians in V3D's world.
        mesh: a mesh in V3D's world.
        title: what the page is called.

    Raises:
        V3DError: there is nothing to show, or the file cannot be written.
    """
    if splats is None and mesh is None:
        raise V3DError("There are neither Gaussians nor a mesh to show.")
    room = resources.files("v3d.viewer")
    data = {"splats": "", "mesh": ""}
    with tempfile.TemporaryDirectory() as scratch:
        if splats is not None:
            save_spz(Path(scratch) / "splats.spz", splats)
            data["splats"] = _base64(Path(scratch) / "splats.spz")
        if mesh is not None:
            save_glb(mesh, Path(scratch) / "mesh.glb")
            data["mesh"] = _base64(Path(scratch) / "mesh.glb")
    page = Template(room.joinpath("viewer.html").read_text(encoding="utf-8")).substitute(
        data,
        title=html.escape(title),
        style=room.joinpath("viewer.css").read_text(encoding="utf-8"),
        script="\n".join(room.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS),
    )
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
