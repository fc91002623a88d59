"""`v3d generate`: photos become assets, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from v3d.commands.shared import Out, SomeFailedError, print_error, print_warnings
from v3d.errors import V3DError
from v3d.settings import GenerateSettings


def generate(
    photos: Positional[Annotated[tuple[Path, ...], arg(metavar="PHOTO [PHOTO ...]")]],
    /,
    out: Out = Path("out"),
    settings: OmitArgPrefixes[GenerateSettings] = GenerateSettings(),  # noqa: B008 (frozen)
    force: bool = False,
) -> None:
    """Photos -> orbit views, 3D Gaussians and textured meshes.

    Args:
        photos: image files, each of one object.
        out: every photo gets a folder of its own name in it.
        settings: quality, formats, model and sampler.
        force: compute finished stages anew.

    Raises:
        V3DError: no photo is given, two have one name, or the only one failed.
        SomeFailedError: some of several photos failed.
    """
    if not photos:
        raise V3DError("Give at least one photo, for example: v3d generate photo.png -o out")
    names = [photo.stem for photo in photos]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise V3DError(f"Two photos are called {twice}, so their results would share a folder; rename one.")
    from v3d.objects import pipeline
    from v3d.progress import ProgressDisplay

    failed = 0
    with ProgressDisplay() as show:
        for photo in photos:
            show.title(f"{photo} -> {out / photo.stem}")
            try:
                asset = pipeline.generate(photo, out, settings, force=force, on_progress=show)
            except V3DError as error:
                if len(photos) == 1:
                    raise
                failed += 1
                show.close()
                print_error(error)
            else:
                show.close()
                print_warnings(asset.report["warnings"])
    if failed:
        raise SomeFailedError(f"{failed} of {len(photos)} photos failed.")
