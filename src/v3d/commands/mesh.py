"""`v3d mesh`: 3D Gaussians become a textured mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from v3d.commands.shared import Out, print_warnings
from v3d.settings import Device, Quality, ReconstructSettings


def mesh(
    splats: Positional[Annotated[Path, arg(metavar="SPLATS")]],
    /,
    out: Out = Path("meshes"),
    quality: Quality = "standard",
    faces: int | None = None,
    texture_size: int | None = None,
    axes: str | None = None,
    seed: int = 0,
    device: Device = "auto",
    force: bool = False,
) -> None:
    """3D Gaussians of any program -> a watertight, textured mesh that lies on them.

    Args:
        splats: a file of Gaussians: .ply, .splat, .spz, .sog or .glb.
        out: the mesh gets a folder of the file's name in it.
        quality: draft takes seconds, standard a minute or two, high as long as it needs.
        faces: triangles of the mesh at most; by default what the quality says.
        texture_size: pixels of the texture's side; by default what the quality says.
        axes: where x, y and z of the file point, three letters as in RDF (right, down, front) or FLU (front,
            left, up), where its maker did not keep to the format's.
        seed: of everything random.
        device: auto takes a CUDA device where there is one.
        force: compute finished stages anew.

    Raises:
        V3DError: the file holds no Gaussians, or these have no surface.
    """
    from v3d.objects.from_splats import mesh_of_splats
    from v3d.progress import ProgressDisplay

    settings = ReconstructSettings(quality, "mesh", faces, texture_size, ("glb",), seed, device)
    with ProgressDisplay() as show:
        show.title(f"{splats} -> {out}")
        asset = mesh_of_splats(splats, out, settings, axes=axes, force=force, on_progress=show)
    print_warnings(asset.report["warnings"])
