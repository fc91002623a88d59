"""One HTML file that shows Gaussians and a mesh.

The viewer is V3D's own: 500 lines of WebGL 2 (25 kB), where the viewers that others keep bring one to three
megabytes into every file and show either Gaussians or meshes.
"""

from __future__ import annotations

import base64
import html
from importlib import resources
from string import Template

_SCRIPTS = ("camera.js", "gl.js", "splats.js", "mesh.js", "main.js")


def viewer_page(spz: bytes, glb: bytes, title: str) -> str:
    """The text of a page that shows Gaussians, a mesh, or both, from the disk and without a network.

    Args:
        spz: Gaussians as an SPZ file, or nothing.
        glb: a mesh as a GLB file, or nothing.
        title: what the page is called.
    """
    room = resources.files("v3d.viewer")
    return Template(room.joinpath("viewer.html").read_text(encoding="utf-8")).substitute(
        splats=base64.b64encode(spz).decode("ascii"),
        mesh=base64.b64encode(glb).decode("ascii"),
        title=html.escape(title),
        style=room.joinpath("viewer.css").read_text(encoding="utf-8"),
        script="\n".join(room.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS),
    )
