"""The files that a run can write beside its own: which formats there are, and what writes each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.meshes.glb import save_glb
from v3d.meshes.look import Look
from v3d.meshes.mesh import Mesh
from v3d.meshes.obj import save_obj
from v3d.meshes.ply import save_ply_mesh
from v3d.meshes.stl import save_stl
from v3d.meshes.threemf import save_3mf
from v3d.meshes.usd import check_usd, save_usd, save_usdz
from v3d.settings import Format
from v3d.splats.files.spz import save_spz
from v3d.splats.files.write import write_splats
from v3d.splats.gaussians import Splats
from v3d.viewer.page import viewer_page

Thing = TypeVar("Thing")
PRINT_SIZE = 0.08
"""Metres of the longest side of a print whose size nobody gave."""


@dataclass(frozen=True)
class Export(Generic[Thing]):
    """One format of the splats or of the mesh.

    Attributes:
        file: its name in the run's folder.
        save: writes the thing into that path; a name and a mesh's shading and maps go with it.
        beside: names of the files that `save` writes next to it.
        printed: its numbers are millimetres of a thing to be made.
    """

    file: str
    save: Callable[[Thing, Path, Look], None]
    beside: tuple[str, ...] = ()
    printed: bool = False


SPLATS: Mapping[str, Export[Splats]] = {
    name: Export(f"splats{ending}", lambda splats, path, look: write_splats(path, splats))
    for name, ending in (
        ("splat", ".splat"),
        ("spz", ".spz"),
        ("compressed", ".compressed.ply"),
        ("splats-glb", ".glb"),
        ("sog", ".sog"),
    )
}
"""Formats of the splats but splats.ply, which every run keeps."""

MESHES: Mapping[str, Export[Mesh]] = {
    "glb": Export("mesh.glb", save_glb),
    "obj": Export("mesh.obj", save_obj, ("mesh.mtl", "mesh.png")),
    "stl": Export("mesh.stl", save_stl, printed=True),
    "3mf": Export("mesh.3mf", save_3mf, printed=True),
    "ply-mesh": Export("mesh.ply", save_ply_mesh),
    "usd": Export("mesh.usd", save_usd, ("mesh_colour.png",)),
    "usdz": Export("mesh.usdz", save_usdz),
}
"""Formats of the mesh; every run keeps mesh.glb."""

VIEWER = "viewer.html"
"""The page of the format html, which shows both."""


def print_sized(mesh: Mesh) -> Mesh:
    """The mesh with its longest side `PRINT_SIZE` long."""
    sides = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    return replace(mesh, vertices=mesh.vertices * (PRINT_SIZE / float(sides.max().clamp_min(1e-9))))


def print_size_note(files: list[str]) -> str:
    """What to say of printed files whose size nobody gave."""
    return (
        f"{' and '.join(files)}: the longest side is {PRINT_SIZE * 1000:g} mm, since an object in photos has "
        "no known size; --size says another."
    )


def check_formats(formats: tuple[Format, ...]) -> None:
    """See that what writes the formats is installed, before anything is computed.

    Raises:
        V3DError: it is not.
    """
    if {"usd", "usdz"} & set(formats):
        check_usd()


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
    spz, glb = b"", b""
    with tempfile.TemporaryDirectory() as scratch:
        if splats is not None:
            save_spz(Path(scratch) / "splats.spz", splats)
            spz = (Path(scratch) / "splats.spz").read_bytes()
        if mesh is not None:
            save_glb(mesh, Path(scratch) / "mesh.glb")
            glb = (Path(scratch) / "mesh.glb").read_bytes()
    with atomic(path) as temporary:
        temporary.write_text(viewer_page(spz, glb, title), encoding="utf-8")
