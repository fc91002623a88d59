"""The files that a run can write beside its own: which formats there are, and what writes each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from v3d.meshes.mesh import Mesh
from v3d.meshes.obj import save_obj
from v3d.splats.files.write import write_splats
from v3d.splats.gaussians import Splats

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Export(Generic[Thing]):
    """One format of the splats or of the mesh.

    Attributes:
        file: its name in the run's folder.
        save: writes the thing into that path.
        beside: names of the files that `save` writes next to it.
    """

    file: str
    save: Callable[[Thing, Path], None]
    beside: tuple[str, ...] = ()


SPLATS: Mapping[str, Export[Splats]] = {
    name: Export(f"splats{ending}", lambda splats, path: write_splats(path, splats))
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
    "obj": Export("mesh.obj", save_obj, ("mesh.mtl", "mesh.png")),
}
"""Formats of the mesh but mesh.glb, which every run keeps."""

VIEWER = "viewer.html"
"""The page of the format html, which shows both."""
