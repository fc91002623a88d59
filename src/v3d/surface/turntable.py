"""Frames of a camera that went around an object -> `Views`.

What is assumed: the camera kept to one circle, level or at one elevation, and looked at the object; its lens
is as stated. What is found: where it stood still, how far it went, which way, roughly how its speed changed,
how it shook, and where in the frames the object stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.compositing import resize_rgba
from v3d.errors import V3DError
from v3d.framing import visible_box
from v3d.surface.direction import Direction, direction
from v3d.surface.orbit_poses import (
    sights_of,
)
from v3d.surface.turn_readings import SIDE, Clip, Judge, Reading, read_turn
from v3d.surface.turntable_views import framed
from v3d.views import Views

__all__ = ["Direction", "Turntable", "direction", "turntable_views"]

VIEWS = 36
"""Frames that become views at most."""
_KEPT = 384  # pixels of the frames that are kept
_FEWEST = 6
_MISFIT = 1.6  # pixels of SIDE by which frames that do not fit miss each other


@dataclass(frozen=True)
class Turntable:
    """Frames with cameras.

    Attributes:
        views: by azimuth, counter-clockwise from the first frame, which is at 0, on V3D's orbit. The radius
            is such that the images show as much of the world as those of the orbit: 2 for 60 degrees.
        clockwise: whether the camera went clockwise, seen from above.
        notes: what was found, guessed or left out, one sentence each.
        fits: whether the frames are those of one turn around one object, as far as outlines tell.
    """

    views: Views
    clockwise: bool
    notes: tuple[str, ...]
    fits: bool = True


def turntable_views(
    images: Sequence[NDArray[np.float32]],
    times: Sequence[float] | NDArray[np.float64],
    *,
    elevation: float | None = None,
    fov: float = 60.0,
    clockwise: bool | None = None,
    views: int = VIEWS,
    judge: Judge | None = None,
    on_step: OnStep | None = None,
) -> Turntable:
    """Find the cameras of frames of one object, around which the camera went or which turned before it.

    Args:
        images: N frames of one size, straight RGBA [H, W, 4] in [0, 1], the object cut out. Each is asked
            for twice at most, so they may be made when asked for.
        times: [N] seconds, increasing.
        elevation: of the camera above the object's horizon, degrees; None to find it.
        fov: full field of view along the frames' longer side, degrees.
        clockwise: which way the camera went, seen from above; None to find it.
        views: frames that become views at most.
        judge: decides, where the camera shakes, between readings of the frames that outlines cannot tell
            apart; without one the outlines decide.
        on_step: called with the steps done and the steps in all.

    Raises:
        V3DError: too few frames show an object.
    """
    step = on_step or (lambda done, total: None)
    total = len(images) + 20
    small = []
    for i, image in enumerate(images):
        small.append((_square(torch.from_numpy(np.asarray(image, np.float32)), _KEPT) * 255).byte())
        step(i + 1, total)
    seen = [i for i, image in enumerate(small) if int((image[..., 3] > 127).sum()) >= _FEWEST**2]
    if len(seen) < _FEWEST:
        raise V3DError(f"Only {len(seen)} frames show an object; give at least {_FEWEST}, from all round.")
    stamps = np.asarray(times, np.float64)[seen]
    small, near = _closer([small[i] for i in seen], fov)
    coarse = torch.stack([resize_rgba(image.float() / 255, SIDE, SIDE) for image in small])
    clip = Clip(small, stamps, coarse, sights_of(coarse, near))
    read = read_turn(
        clip,
        elevation=elevation,
        clockwise=clockwise,
        views=views,
        judge=judge,
        on_round=lambda i: step(len(images) + 8 + i, total),
    )
    turn, chosen = read.best.turn, read.best.frames
    numbers = [seen[i] for i in chosen]
    out = framed(
        images, numbers, read.best.poses, clip.sights[torch.tensor(chosen)], fov, keep_axis=turn.steady
    )
    step(total, total)
    notes = _notes(read, len(images) - len(seen), clockwise is not None)
    if elevation is None and read.tilt != 0:
        above = math.degrees(read.tilt)
        notes = (f"The camera's height was found to be {above:g} degrees above the object's horizon.", *notes)
    return Turntable(out, turn.clockwise, notes, read.best.gap <= _MISFIT)


def _closer(squares: list[Tensor], fov: float) -> tuple[list[Tensor], float]:
    """Square frames [S, S, 4] cropped, around their middle, to the object; and their field of view."""
    side = len(squares[0])
    reach = 0.0
    for square in squares:
        left, top, right, bottom = visible_box(square[..., 3] / 255)
        reach = max(reach, *(abs(edge - side / 2) for edge in (left, top, right, bottom)))
    edge = max(math.floor(side / 2 - 1.05 * reach - 2), 0)
    cropped = [square[edge : side - edge, edge : side - edge] for square in squares]
    return cropped, 2 * math.degrees(math.atan(math.tan(math.radians(fov) / 2) * (1 - 2 * edge / side)))


def _notes(read: Reading, empty: int, told: bool) -> tuple[str, ...]:
    turn, way, moves, gap = read.best.turn, read.way, read.moves, read.best.gap
    notes = []
    if empty:
        notes.append(f"{empty} frames show no object and were left out.")
    if turn.progress.speed != "even speed" and not moves.all():
        notes.append(f"The camera stands still in {int((~moves).sum())} frames, which were left out.")
    if "picture" in turn.progress.speed:
        notes.append("The camera's speed changes; where it was is read from how fast the picture changes.")
    if not min(0.96, 1 - 1.6 / moves.sum()) < turn.turns < 1.02:  # closed by the step after the last
        notes.append(f"The frames go around the object by {360 * turn.turns:.0f} degrees.")
    if not way.sure:
        notes.append(
            "Whether the camera went clockwise cannot be seen; "
            f"{'clockwise' if turn.clockwise else 'counter-clockwise'}, seen from above, was taken."
        )
    elif turn.clockwise and not told:
        notes.append("The camera goes around the object clockwise, seen from above.")
    if not turn.steady:
        notes.append("The camera shakes; the frames were aligned by the object's outlines and colours.")
    if gap > _MISFIT:
        notes.append(
            "The frames do not fit one turn around one object "
            f"(outlines miss each other by {100 * gap / SIDE:.0f} % of the frame); expect a poor shape, and "
            "film at an even pace and height, with the whole object in every frame."
        )
    return tuple(notes)


def _square(rgba: Tensor, side: int) -> Tensor:
    """A frame [H, W, 4] in the middle of a transparent square, reduced to [side, side, 4]."""
    height, width = rgba.shape[:2]
    scale = side / max(height, width)
    rgba = resize_rgba(rgba, max(round(height * scale), 1), max(round(width * scale), 1))
    height, width = rgba.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(rgba, (0, 0, left, side - width - left, top, side - height - top))
