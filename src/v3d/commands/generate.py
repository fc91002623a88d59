"""`v3d generate`: photos become assets, one after the other, or several photos of one object one asset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from v3d.commands.shared import Out, SomeFailedError, print_error, print_warnings
from v3d.errors import V3DError
from v3d.settings import FinishSettings, GenerateSettings

Side = Annotated[Path | None, arg(metavar="PHOTO")]


def generate(
    photos: Positional[Annotated[tuple[Path, ...], arg(metavar="PHOTO [PHOTO ...]")]],
    /,
    left: Side = None,
    back: Side = None,
    right: Side = None,
    photo: Annotated[tuple[str, ...], arg(metavar="PHOTO@AZIMUTH [PHOTO@AZIMUTH ...]")] = (),
    mask: Annotated[tuple[str, ...], arg(metavar="MASK[@AZIMUTH] [MASK[@AZIMUTH] ...]")] = (),
    out: Out = Path("out"),
    settings: OmitArgPrefixes[GenerateSettings] = GenerateSettings(),  # noqa: B008 (frozen)
    finish: OmitArgPrefixes[FinishSettings] = FinishSettings(),  # noqa: B008 (frozen)
    force: bool = False,
) -> None:
    """Photos -> orbit views, 3D Gaussians and textured meshes.

    Args:
        photos: image files, each of one object. With photos of other sides, the object's front.
        left: the same object's own left side, azimuth 90: its front faces left in it.
        back: its back, azimuth 180.
        right: its own right side, azimuth 270: its front faces right in it.
        photo: photos of other sides: azimuth in degrees, counter-clockwise seen from above; 45 is between
            front and left.
        mask: images of where the object is, where it is not cut out well: white on black, or with alpha, as
            the cutout.png of an earlier run. The front's, or by azimuth as in left_mask.png@90.
        out: every object gets a folder of the name of its front photo in it.
        settings: quality, formats, model and sampler.
        finish: the mesh made ready for a game, a print or a web page.
        force: compute finished stages anew.

    Raises:
        V3DError: no photo is given, two have one name or one side, or the only object failed.
        SomeFailedError: some of several objects failed.
    """
    sides = sides_of(left, back, right, photo)
    masks = masks_of(mask)
    check_fronts(photos, sides, masks)
    from v3d.objects import pipeline
    from v3d.progress import ProgressDisplay

    failed = 0
    with ProgressDisplay() as show:
        for front in photos:
            show.title(f"{' + '.join(map(str, [front, *sides.values()]))} -> {out / front.stem}")
            try:
                given = {0.0: front, **sides}
                asset = pipeline.generate(
                    given, out, settings, masks=masks, finish=finish, force=force, on_progress=show
                )
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


def check_fronts(
    photos: tuple[Path, ...], sides: dict[float, Path], masks: dict[float, Path] | None = None
) -> None:
    """See that the front photos are of objects that can be told apart, and the other sides of one of them.

    Raises:
        V3DError: they are not, or there is none.
    """
    if not photos:
        raise V3DError("Give at least one photo, for example: v3d generate photo.png -o out")
    if sides and len(photos) > 1:
        raise V3DError(
            f"Photos of other sides belong to one object, but {len(photos)} front photos are given; run v3d"
            " generate once for each object."
        )
    if masks and len(photos) > 1:
        raise V3DError(
            f"Masks belong to one object, but {len(photos)} photos are given; run v3d generate once for each."
        )
    names = [front.stem for front in photos]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise V3DError(f"Two photos are called {twice}, so their results would share a folder; rename one.")


def sides_of(
    left: Path | None, back: Path | None, right: Path | None, others: tuple[str, ...]
) -> dict[float, Path]:
    """Azimuth in degrees, in [0, 360) -> photo, of the options of `v3d generate`.

    Args:
        left, back, right: photos at 90, 180 and 270 degrees.
        others: `FILE@AZIMUTH` each; the name of the file may hold further @.

    Raises:
        V3DError: an azimuth is no number, or two photos are of one side.
    """
    named = [(90.0, left), (180.0, back), (270.0, right)]
    given = [(azimuth, photo) for azimuth, photo in named if photo is not None]
    for text in others:
        file, at, azimuth = text.rpartition("@")
        try:
            given.append((float(azimuth) % 360, Path(file)))
        except ValueError:
            at = ""
        if not (at and file):
            raise V3DError(
                f"{text} does not say from which side it was taken; write PHOTO@AZIMUTH, as in side.png@45."
            )
    sides = dict(given)
    if len(sides) < len(given) or 0.0 in sides:
        raise V3DError("Two photos are of the same side; give one photo of each side.")
    return sides


def masks_of(masks: tuple[str, ...]) -> dict[float, Path]:
    """Azimuth in degrees, in [0, 360) -> mask, of `FILE` (the front's) or `FILE@AZIMUTH`.

    Raises:
        V3DError: two masks are of one side.
    """
    given = []
    for text in masks:
        file, _, azimuth = text.rpartition("@")
        try:
            given.append((float(azimuth) % 360, Path(file)))
        except ValueError:  # the name may hold an @
            given.append((0.0, Path(text)))
    if len(dict(given)) < len(given):
        raise V3DError("Two masks are of the same side; give one for each, as in mask.png left_mask.png@90.")
    return dict(given)
