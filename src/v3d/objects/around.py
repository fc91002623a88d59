"""Unposed pictures around an object -> `Views`: a law poses them, their outlines say what it left open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.cameras import ORBIT_FOV
from v3d.capture.orbit_law import OrbitLaw, orbit_law, parse_grid
from v3d.capture.photo_files import SUFFIXES
from v3d.capture.pictures import read_pictures
from v3d.compositing import over_white, resize_rgba
from v3d.errors import V3DError
from v3d.framing import pad_square
from v3d.objects.orbit_video import views_of_video
from v3d.settings import OrbitSettings
from v3d.surface.alignment import SIDE, align_outlines
from v3d.views import Views

_TRIAL_ROUNDS = 4  # of alignment, where laws are compared
_TRIAL_VIEWS = 12
_ELEVATIONS = (0.0, 20.0, 40.0)
_ELEVATION_STEPS = (10.0, 5.0, 2.5)
_SURE = 1.5  # one way round fits worse than the other by this factor
_NOISE = 2e-4  # gaps, in image sides, that outlines of true views have
_LARGEST_GAP = 0.02  # of an image's side: above, no one object has these outlines


@dataclass(frozen=True)
class PosedPictures:
    """Pictures with cameras.

    Attributes:
        views: in the world of the orbit.
        notes: what was guessed or does not fit, one sentence each.
    """

    views: Views
    notes: tuple[str, ...]


def views_around(
    path: str | Path, settings: OrbitSettings, *, max_size: int = 1024, on_step: OnStep | None = None
) -> PosedPictures:
    """Read pictures around an object and pose them.

    Args:
        path: a video, a folder of images, or one image with a grid of them.
        settings: what is known of their cameras.
        max_size: longer side of the views at most, in pixels; pictures are reduced as they are read.
        on_step: called with the trials done and the trials in all, at most.

    Raises:
        V3DError: the pictures cannot be read, or are not those that the settings describe.
    """
    path = Path(path)
    known = settings.law is not None or bool(settings.azimuths)
    law = orbit_law(settings) if known else None
    if law is None and not path.is_dir() and path.suffix.lower() not in SUFFIXES:
        return _of_video(path, settings, max_size, on_step)
    images = read_pictures(path, law, parse_grid(settings.grid), max_size=max_size)
    return pose_pictures(images, law or orbit_law(settings, len(images)), on_step=on_step)


def _of_video(path: Path, settings: OrbitSettings, max_size: int, on_step: OnStep | None) -> PosedPictures:
    """A video's frames with cameras, see `v3d.objects.orbit_video`.

    Raises:
        V3DError: the video cannot be read or shows no object, or its elevation is not one number.
    """
    if len(settings.elevation) > 1:
        raise V3DError("A video has one elevation; give --elevation one number.")
    if settings.fov is not None and not 10 <= settings.fov <= 150:
        raise V3DError(f"A field of view of {settings.fov:g} degrees is none of a video; give 10 to 150.")
    found = views_of_video(
        path,
        max_size=max_size,
        elevation=settings.elevation[0] if settings.elevation else None,
        fov=ORBIT_FOV if settings.fov is None else settings.fov,
        clockwise=None if settings.direction == "auto" else settings.direction == "clockwise",
        poses=settings.poses,
        on_step=on_step,
    )
    return PosedPictures(found.views, found.notes)


def pose_pictures(
    images: Sequence[NDArray[np.float32]], law: OrbitLaw, *, on_step: OnStep | None = None
) -> PosedPictures:
    """Pose pictures by a law of their cameras, corrected until their outlines agree.

    What the law leaves open is tried: the way round, the elevation. Then every picture's size and place is
    corrected by a few per cent (`v3d.surface.alignment`), since generators keep neither.

    Args:
        images: straight RGBA [H, W, 4] in [0, 1], at least three; they are padded to squares and reduced to
            the smallest one.
        law: one direction an image.
        on_step: called with the trials done and the trials in all, at most.

    Raises:
        V3DError: there are too few pictures, or one shows no object.
    """
    if len(images) != len(law):
        raise V3DError(f"There are {len(images)} pictures where the law of their cameras has {len(law)}.")
    if len(images) < 3:
        raise V3DError("An object is made of at least 3 pictures around it; for 1 or 2, use v3d generate.")
    squares = [pad_square(torch.from_numpy(np.ascontiguousarray(image))) for image in images]
    side = min(len(square) for square in squares)
    stack = torch.stack([resize_rgba(square, side, side) for square in squares])
    empty = (~(stack[..., 3] > 0.5).flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise V3DError(f"Picture {empty[0]} shows no object.")
    law, notes = _complete(stack, law, on_step)
    views = _posed(stack, law)
    aligned = align_outlines(views)
    if aligned.gap > _LARGEST_GAP:
        notes += (
            f"The pictures' outlines do not fit one object (they miss each other by {aligned.gap:.1%} of the "
            "image); check their order, the elevation and the field of view.",
        )
    return PosedPictures(replace(views, cameras=aligned.cameras), notes)


def _complete(stack: Tensor, law: OrbitLaw, on_step: OnStep | None) -> tuple[OrbitLaw, tuple[str, ...]]:
    """The law with its open numbers found, and what to tell."""
    chosen = torch.linspace(0, len(stack), min(len(stack), _TRIAL_VIEWS) + 1)[:-1].long()
    side = min(SIDE, stack.shape[1])
    small = torch.stack([resize_rgba(rgba, side, side) for rgba in stack[chosen]])
    done, total = 0, 2 * len(_ELEVATIONS) + 2 * len(_ELEVATION_STEPS)

    def gap(trial: OrbitLaw) -> float:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(min(done, total), total)
        return align_outlines(_posed(small, trial.among(chosen.tolist())), rounds=_TRIAL_ROUNDS).gap

    notes: tuple[str, ...] = ()
    ways = [law] if law.directed else [law, law.reversed]
    if not law.elevated:
        found = [_elevated(way, gap) for way in ways]
    elif len(ways) > 1:
        found = [(gap(way), way) for way in ways]
    else:
        return law, ()
    best, law = min(found, key=lambda pair: pair[0])
    if not law.elevated:
        law = replace(law, elevated=True)
        notes += (f"The pictures' elevation was found to be {law.elevations[0]:g} degrees.",)
    if len(ways) > 1 and max(g for g, _ in found) < _SURE * best + _NOISE:
        law = replace(found[0][1], elevated=True)
        notes += (
            "Outlines do not tell which way round the pictures go: counterclockwise, seen from above, was "
            "taken; give --direction clockwise if the asset is mirrored.",
        )
    return replace(law, directed=True), notes


def _elevated(law: OrbitLaw, gap: Callable[[OrbitLaw], float]) -> tuple[float, OrbitLaw]:
    """The elevation of all pictures by which outlines agree best: a coarse search, then halved steps."""

    def at(elevation: float) -> OrbitLaw:
        return replace(law, elevations=(elevation,) * len(law))

    best, elevation = min((gap(at(e)), e) for e in _ELEVATIONS)
    for step in _ELEVATION_STEPS:
        for trial in (elevation - step, elevation + step):
            score = gap(at(trial))
            if score < best:
                best, elevation = score, trial
                break
    return best, at(elevation)


def _posed(stack: Tensor, law: OrbitLaw) -> Views:
    """Straight RGBA [V, S, S, 4] as views by the law."""
    return Views(over_white(stack[..., :3], stack[..., 3]), stack[..., 3], law.cameras(stack.shape[1]))
