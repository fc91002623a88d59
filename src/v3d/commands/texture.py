"""`v3d texture`: a given mesh gets a new texture, from posed views or from photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from v3d.commands.generate import Side, sides_of
from v3d.commands.shared import Out, print_warnings
from v3d.errors import V3DError
from v3d.settings import Device, GenerateSettings, Quality, Up


def texture(
    mesh: Positional[Annotated[Path, arg(metavar="MESH")]],
    source: Positional[Annotated[Path | None, arg(metavar="VIEWS|PHOTO")]] = None,
    /,
    left: Side = None,
    back: Side = None,
    right: Side = None,
    photo: Annotated[tuple[str, ...], arg(metavar="PHOTO@AZIMUTH [PHOTO@AZIMUTH ...]")] = (),
    out: Out = Path("textured"),
    quality: Quality = "standard",
    texture_size: int | None = None,
    elevation: float = 0.0,
    model: str = "mini",
    seed: int = 0,
    device: Device = "auto",
    up: Up = "auto",
    force: bool = False,
) -> None:
    """A mesh and views or photos of it -> the same mesh with a new texture.

    Args:
        mesh: a GLB, glTF, OBJ, PLY or STL file, whose vertices and texture coordinates are kept; or the
            folder of a run of V3D.
        source: posed views, as for v3d reconstruct, in whose world the mesh stands; or a photo of the
            object's front. For the folder of a run its own views, with what was painted into them.
        left: a photo of the object's own left side, azimuth 90, beside one of the front.
        back: of its back, azimuth 180.
        right: of its own right side, azimuth 270.
        photo: photos of other sides, azimuth in degrees.
        out: the mesh gets a folder of its own name in it.
        quality: draft lays the views on the mesh; standard and high fit the texture to them, too.
        texture_size: pixels of the texture's side; by default what the quality says.
        elevation: degrees above the object's horizon that photos were taken from.
        model: draws what photos do not show: mini, a folder of weights, or a hub id.
        seed: of the drawing.
        device: auto takes a CUDA device where there is one.
        up: the axis of the views' world that is up; auto finds it from the cameras.
        force: compute finished stages anew.

    Raises:
        V3DError: the mesh, the views or the photos cannot be used, or do not belong together.
    """
    sides = sides_of(left, back, right, photo)
    if sides and (source is None or source.is_dir()):
        raise V3DError("Photos of other sides need one of the front: v3d texture MESH FRONT --back BACK.")
    from v3d.objects.texturing import texture_mesh
    from v3d.progress import ProgressDisplay

    settings = GenerateSettings(quality, "mesh", None, texture_size, ("glb",), seed, device, model)
    settings = replace(settings, elevation=elevation)
    given = {0.0: source, **sides} if sides and source is not None else source
    with ProgressDisplay() as show:
        show.title(f"{mesh} -> {out}")
        asset = texture_mesh(mesh, given, out, settings, up=up, force=force, on_progress=show)
    print_warnings(asset.report["warnings"])
