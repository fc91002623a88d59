"""`v3d scene`: posed photos of a scene become new views and Gaussians."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from v3d.commands.shared import Out, print_warnings
from v3d.settings import SceneSettings, Up


def scene(
    photos: Positional[Annotated[Path, arg(metavar="PHOTOS")]],
    /,
    out: Out = Path("out"),
    settings: OmitArgPrefixes[SceneSettings] = SceneSettings(),  # noqa: B008 (frozen)
    up: Up = "auto",
    force: bool = False,
) -> None:
    """Posed photos of a scene -> new views along a camera path, a video, 3D Gaussians.

    Args:
        photos: folder of posed photos: with a transforms.json (nerfstudio, instant-ngp, V3D), a COLMAP model
            (also MVImgNet's), or a CO3D sequence; raw photos where the extra `colmap` is installed; or the
            path of a transforms.json.
        out: the scene gets a folder of its own name in it.
        settings: path, quality and model.
        up: the axis of the photos' world that is up; auto finds it from the cameras.
        force: compute finished stages anew.

    Raises:
        V3DError: the photos, the path, the weights or the folder cannot be used.
    """
    from v3d.progress import ProgressDisplay
    from v3d.run import run_name
    from v3d.scene import pipeline

    with ProgressDisplay() as show:
        show.title(f"{photos} -> {out / run_name(photos)}")
        asset = pipeline.generate_scene(photos, out, settings, up=up, force=force, on_progress=show)
    print_warnings(asset.report["warnings"])
