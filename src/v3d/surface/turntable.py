"""Frames of a camera that went around an object -> `Views`.

What is assumed: the camera kept to one circle, level or at one elevation, and looked at the object; its lens
is as stated. What is found: where it stood still, how far it went, which way, roughly how its speed changed,
how it shook, and where in the frames the object stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.compositing import resize_rgba
from v3d.errors import V3DError
from v3d.framing import visible_box
from v3d.surface.direction import Direction, decided, direction, disagreement, hull_gaps
from v3d.surface.orbit_poses import (
    AZIMUTH,
    ELEVATION,
    YAW,
    Sights,
    cameras_at,
    centred,
    refine,
    sights_of,
)
from v3d.surface.turning import Progress, differences, moving, readings
from v3d.surface.turntable_views import framed
from v3d.views import Views

__all__ = ["Direction", "Turntable", "direction", "turntable_views"]

VIEWS = 36
"""Frames that become views at most."""
_KEPT = 384  # pixels of the frames that are kept
_SIDE = 96  # pixels of the frames among which the turn is sought
_FINE = 160  # pixels of those by which cameras are refined
_TRIED = 24  # frames by which a turn is judged
_FEWEST = 6
_BETTER = 0.85  # of the cost; a less likely reading must cost less than this
_STEADY = 0.45  # pixels of _SIDE: outlines of a steady camera that miss each other by less need no refining
_MISFIT = 1.6  # pixels of _SIDE by which frames that do not fit miss each other
_ABOVE = 0.65  # of the level cameras' gap; one from above must leave less
_LEVEL = 0.35  # pixels of _SIDE: outlines of level cameras miss their hull by less
_TILTS = 3  # times that the height is sought
_ELEVATIONS = (-15.0, 10.0, 20.0, 30.0, 45.0)
_ELEVATION_STEPS = (5.0, 2.5, 1.25, 0.625)
_CLOSED = 0.9  # of a turn; the axis is found from whole turns only


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


@dataclass(frozen=True)
class _Turn:
    """One reading of all frames: azimuths [N] in degrees, from 0, and whether the camera was steady."""

    progress: Progress
    turns: float
    clockwise: bool
    steady: bool
    cost: float = math.inf

    @property
    def azimuths(self) -> NDArray[np.float64]:
        return (-1 if self.clockwise else 1) * 360 * self.turns * self.progress.along


def turntable_views(
    images: Sequence[NDArray[np.float32]],
    times: Sequence[float] | NDArray[np.float64],
    *,
    elevation: float | None = None,
    fov: float = 60.0,
    clockwise: bool | None = None,
    views: int = VIEWS,
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
        raise V3DError(
            f"Only {len(seen)} frames show an object; at least {_FEWEST} are needed, from all round."
        )
    stamps = np.asarray(times, np.float64)[seen]
    small, near = _closer([small[i] for i in seen], fov)
    coarse = torch.stack([resize_rgba(image.float() / 255, _SIDE, _SIDE) for image in small])
    sights = sights_of(coarse, near)
    tilt = math.radians(elevation or 0.0)
    turn, way, moves = _found(sights, coarse, stamps, tilt, clockwise)
    for _ in range(_TILTS if elevation is None else 0):  # a better height shows the turn better
        before, tilt = tilt, _tilt(turn, sights)
        if tilt == before:
            break
        turn, way, moves = _found(sights, coarse, stamps, tilt, clockwise)
    step(len(images) + 8, total)
    chosen = _spread(turn, moves, views)
    poses = _poses(turn, sights, tilt)[chosen]
    fine = sights_of(torch.stack([resize_rgba(small[i].float() / 255, _FINE, _FINE) for i in chosen]), near)
    poses, gap = _refined(fine, poses, turn.steady, lambda i: step(len(images) + 8 + i, total))
    numbers = [seen[i] for i in chosen]
    out = framed(images, numbers, poses, sights[torch.tensor(chosen)], fov, keep_axis=turn.steady)
    step(total, total)
    notes = _notes(turn, way, moves, gap, len(images) - len(seen), clockwise is not None)
    if elevation is None and tilt != 0:
        above = math.degrees(tilt)
        notes = (f"The camera's height was found to be {above:g} degrees above the object's horizon.", *notes)
    return Turntable(out, turn.clockwise, notes, gap <= _MISFIT)


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


def _found(
    sights: Sights, coarse: Tensor, stamps: NDArray[np.float64], tilt: float, clockwise: bool | None
) -> tuple[_Turn, Direction, NDArray[np.bool_]]:
    """The reading of the frames by which outlines and colours agree best."""
    difference = differences(coarse)
    moves = moving(difference)
    ways = (False, True) if clockwise is None else (clockwise,)

    def judged(turn: _Turn, colours: bool = False) -> _Turn:
        chosen = torch.tensor(_spread(turn, None, _TRIED))
        cameras = cameras_at(_poses(turn, sights, tilt)[chosen], sights.fov, sights.side)
        if colours:
            return replace(turn, cost=disagreement(sights[chosen], cameras, 0 if turn.steady else 2))
        return replace(turn, cost=hull_gaps(sights[chosen], cameras, 1)[1])

    def either_way(turn: _Turn, colours: bool = False) -> _Turn:
        trials = [judged(replace(turn, clockwise=way), colours) for way in ways]
        return min(trials, key=lambda turn: turn.cost)

    def better(best: _Turn, trial: _Turn, factor: float) -> _Turn:
        return trial if trial.cost < factor * best.cost - 0.02 else best

    # Outlines first.
    found = readings(difference, stamps, moves)
    best = either_way(_Turn(found[0], found[0].turns[0], False, True))
    for progress in found:
        for turns in progress.turns:
            for steady in (True, False):
                best = better(best, either_way(_Turn(progress, turns, False, steady)), _BETTER)
        if best.steady and best.cost < 0.75 * _STEADY:
            break
    # Then colours, of which outlines know nothing: those of a can fit any turn.
    outlined = best.turns
    best = either_way(replace(best, turns=best.progress.turns[0]), True)
    for turns in dict.fromkeys((outlined, *best.progress.turns[1:])):
        best = better(best, either_way(replace(best, turns=turns), True), _BETTER)
    for part in (0.03, 0.015, 0.007):
        for sign in (-1, 1):
            best = better(best, judged(replace(best, turns=best.turns * (1 + sign * part)), True), 0.97)
    if clockwise is not None:
        return best, Direction(clockwise, True), moves
    other = judged(replace(best, clockwise=not best.clockwise), True)
    costs = (other.cost, best.cost) if best.clockwise else (best.cost, other.cost)
    return best, decided(*costs), moves


def _tilt(turn: _Turn, sights: Sights) -> float:
    """The elevation of the camera in radians by which outlines agree best; 0 where it is hardly worse."""

    forgiven = 0 if turn.steady else 1  # a hull that forgives is larger than its outlines, from above least

    def cost(elevation: float) -> float:
        costs = []
        for clockwise in (False, True):
            trial = replace(turn, clockwise=clockwise)
            chosen = torch.tensor(_spread(trial, None, _TRIED))
            poses = _poses(trial, sights, math.radians(elevation))[chosen]
            costs.append(hull_gaps(sights[chosen], cameras_at(poses, sights.fov, sights.side), forgiven)[1])
        return min(costs)

    level = cost(0.0)
    if level < _LEVEL:
        return 0.0
    best, elevation = min((cost(e), e) for e in _ELEVATIONS)
    for step in _ELEVATION_STEPS:
        best, elevation = min(
            (best, elevation), *((cost(e), e) for e in (elevation - step, elevation + step))
        )
    return math.radians(elevation) if best < _ABOVE * level else 0.0


def _poses(turn: _Turn, sights: Sights, tilt: float) -> Tensor:
    """Poses [N, 6] by a reading of the frames."""
    azimuths = torch.from_numpy(np.radians(turn.azimuths))
    poses = centred(sights, azimuths, tilt)
    if turn.steady:
        poses[:, YAW:] = 0
        if turn.turns > _CLOSED:  # what goes around an axis sweeps as far to its left as to its right
            x = sights.contour[..., 0]
            middle = float(x.min() + x.max()) / 2 - sights.side / 2
            # Between two frames the object may have reached farther than it did in either.
            unsure = float(x.max() - x.min()) / 2 * (1 - math.cos(math.pi * turn.turns / len(poses)))
            middle = math.copysign(max(abs(middle) - unsure, 0.0), middle)
            poses[:, YAW] = -math.atan(middle / (0.5 * sights.side / math.tan(math.radians(sights.fov) / 2)))
    return poses


def _spread(turn: _Turn, moves: NDArray[np.bool_] | None, count: int) -> list[int]:
    """At most `count` frames evenly spread over what was seen, by azimuth from the first on."""
    azimuths = turn.azimuths % 360
    usable = np.ones(len(azimuths), bool) if moves is None else moves.copy()
    usable[0] = True
    frames = np.flatnonzero(usable)
    if len(frames) > count:
        target = np.arange(count) * 360 / count
        apart = np.abs((azimuths[frames][None] - target[:, None] + 180) % 360 - 180)
        near = apart.argmin(1)[apart.min(1) <= 180 / count + 1e-6]
        frames = np.unique(np.r_[frames[near], 0])
    order = np.argsort((azimuths[frames] - azimuths[0]) % 360, kind="stable")
    return [int(frame) for frame in frames[order]]


def _refined(
    sights: Sights, poses: Tensor, steady: bool, on_round: Callable[[int], None]
) -> tuple[Tensor, float]:
    """Poses by which the frames agree better, where they do not agree yet; and the gap in pixels of _SIDE."""

    def gap(at: Tensor) -> float:
        return hull_gaps(sights, cameras_at(at, sights.fov, sights.side), 1)[1] * _SIDE / sights.side

    before = gap(poses)
    if steady and before < _STEADY:
        return poses, before
    starts = [poses]
    if not steady:
        tilt = float(poses[0, ELEVATION])
        starts.append(centred(sights, poses[:, AZIMUTH], tilt, by_area=True))
    found = [refine(sights, start, on_round=on_round) for start in starts]
    after, better = min(((gap(at), at) for at in found), key=lambda pair: pair[0])
    if after > before:
        return poses, before
    better[:, AZIMUTH] -= better[0, AZIMUTH].clone()
    return better, after


def _notes(
    turn: _Turn, way: Direction, moves: NDArray[np.bool_], gap: float, empty: int, told: bool
) -> tuple[str, ...]:
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
            f"(outlines miss each other by {100 * gap / _SIDE:.0f} % of the frame); expect a poor shape, and "
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
