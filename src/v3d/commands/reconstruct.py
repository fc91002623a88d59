"""`v3d reconstruct`: posed views of an object become an asset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from v3d.commands.shared import Out, print_warnings
from v3d.settings import FinishSettings, OrbitSettings, ReconstructSettings, Up


def reconstruct(
    views: Positional[Annotated[Path, arg(metavar="VIEWS")]],
    /,
    out: Out = Path("out"),
    settings: OmitArgPrefixes[ReconstructSettings] = ReconstructSettings(),  # noqa: B008 (frozen)
    orbit: bool = False,
    cameras: OmitArgPrefixes[OrbitSettings] = OrbitSettings(),  # noqa: B008 (frozen)
    photo: Annotated[Path | None, arg(metavar="PHOTO")] = None,
    up: Up = "auto",
    finish: OmitArgPrefixes[FinishSettings] = FinishSettings(),  # noqa: B008 (frozen)
    force: bool = False,
) -> None:
    """Views of an object -> 3D Gaussians and a textured mesh.

    Args:
        views: folder of posed photos: with a transforms.json (nerfstudio, instant-ngp, V3D), a COLMAP model
            (also MVImgNet's), or a CO3D sequence; raw photos where the extra `colmap` is installed; or the
            path of a transforms.json; with --orbit or --law pictures without cameras: a video, a folder of
            images, or one image with a grid of them.
        out: the views get a folder of their own name in it.
        settings: quality and formats.
        orbit: VIEWS is a video that goes once around the object at its own height.
        photo: a sharper photo of the first view, for the texture; the shape fills this view's silhouette.
        up: the axis of the photos' world that is up; auto finds it from the cameras.
        finish: the mesh made ready for a game, a print or a web page.
        force: compute finished stages anew.

    Raises:
        V3DError: the views, the photo or the folder cannot be used.
    """
    from v3d.objects import pipeline
    from v3d.progress import ProgressDisplay
    from v3d.run import run_name

    with ProgressDisplay() as show:
        show.title(f"{views} -> {out / run_name(views)}")
        asset = pipeline.reconstruct(
            views,
            out,
            settings,
            orbit=cameras if orbit or cameras != OrbitSettings() else None,
            photo=photo,
            up=up,
            finish=finish,
            force=force,
            on_progress=show,
        )
    print_warnings(asset.report["warnings"])
