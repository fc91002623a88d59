"""Readings of a turn: how far, which way and how high a camera went at each frame, and poses by that.

A reading is guessed from how the picture changes (`v3d.surface.turning`), judged by how well outlines and
colours then share one object, and carried out: some frames get poses, which are refined by what they see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.compositing import over_white, resize_rgba
from v3d.surface.direction import Direction, decided, disagreement, hull_gaps
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
from v3d.views import Views

SIDE = 96
"""Pixels of the frames among which a turn is sought."""
_FINE = 160  # pixels of those by which cameras are refined
_TRIED = 24  # frames by which a turn is judged
_TILTS = 3  # times that the height is sought
_BETTER = 0.85  # of the cost; a less likely reading must cost less than this
_STEADY = 0.45  # pixels of SIDE: outlines of a steady camera that miss each other by less need no refining
_ABOVE = 0.65  # of the level cameras' gap; one from above must leave less
_LEVEL = 0.35  # pixels of SIDE: outlines of level cameras miss their hull by less
_ELEVATIONS = (-15.0, 10.0, 20.0, 30.0, 45.0)
_ELEVATION_STEPS = (5.0, 2.5, 1.25, 0.625)
_CLOSED = 0.9  # of a turn; the axis is found from whole turns only

Judge = Callable[[Views], float]
"""How badly small views disagree about what they show."""


@dataclass(frozen=True)
class Turn:
    """One reading of all frames: azimuths [N] in degrees, from 0, and whether the camera was steady."""

    progress: Progress
    turns: float
    clockwise: bool
    steady: bool
    cost: float = math.inf

    @property
    def azimuths(self) -> NDArray[np.float64]:
        """[N] degrees, counter-clockwise from the first frame's."""
        return (-1 if self.clockwise else 1) * 360 * self.turns * self.progress.along


@dataclass(frozen=True)
class Posed:
    """A reading carried out.

    Attributes:
        turn: the reading.
        frames: numbers of V of the clip's frames.
        images: those, [V, S, S, 4] straight.
        poses: [V, 6], refined by what the frames show.
        gap: by which outlines miss each other, in pixels of `SIDE`.
    """

    turn: Turn
    frames: list[int]
    images: Tensor
    poses: Tensor
    gap: float


@dataclass(frozen=True)
class Clip:
    """N frames that show the object.

    Attributes:
        squares: each [S, S, 4] uint8, straight.
        times: [N] seconds, increasing.
        coarse: the same in [0, 1], [N, SIDE, SIDE, 4].
        sights: of `coarse`.
    """

    squares: list[Tensor]
    times: NDArray[np.float64]
    coarse: Tensor
    sights: Sights


@dataclass(frozen=True)
class Reading:
    """The best reading of a clip.

    Attributes:
        best: it.
        way: its direction, and whether that is sure.
        moves: [N], whether the camera moved at each frame.
        tilt: its elevation in radians.
    """

    best: Posed
    way: Direction
    moves: NDArray[np.bool_]
    tilt: float


def read_turn(
    clip: Clip,
    *,
    elevation: float | None,
    clockwise: bool | None,
    views: int,
    judge: Judge | None,
    on_round: Callable[[int], None],
) -> Reading:
    """Find a clip's turn; the arguments are those of `v3d.surface.turntable.turntable_views`.

    `on_round` is told the rounds of refinement.
    """
    tilt = math.radians(elevation or 0.0)
    turn, way, moves = _found(clip, tilt, clockwise)
    for _ in range(_TILTS if elevation is None else 0):  # a better height shows the turn better
        before, tilt = tilt, _tilt(turn, clip.sights)
        if tilt == before:
            break
        turn, way, moves = _found(clip, tilt, clockwise)
    best = _posed(clip, turn, moves, tilt, views, on_round)
    if judge is None or turn.steady:
        return Reading(best, way, moves, tilt)
    others = _alternatives(turn, clip.times, clockwise)
    trials = [_posed(clip, other, moves, tilt, views, on_round) for other in others]
    return Reading(*_judged([best, *trials], judge, clip.sights.fov), moves, tilt)


def _found(clip: Clip, tilt: float, clockwise: bool | None) -> tuple[Turn, Direction, NDArray[np.bool_]]:
    """The reading of the frames by which outlines and colours agree best."""
    sights, difference = clip.sights, differences(clip.coarse)
    moves = moving(difference)
    ways = (False, True) if clockwise is None else (clockwise,)

    def costed(turn: Turn, colours: bool = False) -> Turn:
        chosen = torch.tensor(_spread(turn, None, _TRIED))
        cameras = cameras_at(_poses(turn, sights, tilt)[chosen], sights.fov, sights.side)
        if colours:
            return replace(turn, cost=disagreement(sights[chosen], cameras, 0 if turn.steady else 2))
        return replace(turn, cost=hull_gaps(sights[chosen], cameras, 1)[1])

    def either_way(turn: Turn, colours: bool = False) -> Turn:
        trials = [costed(replace(turn, clockwise=way), colours) for way in ways]
        return min(trials, key=lambda turn: turn.cost)

    def better(best: Turn, trial: Turn, factor: float) -> Turn:
        return trial if trial.cost < factor * best.cost - 0.02 else best

    # Outlines first.
    found = readings(difference, clip.times, moves)
    best = either_way(Turn(found[0], found[0].turns[0], False, True))
    for progress in found:
        for turns in progress.turns:
            for steady in (True, False):
                best = better(best, either_way(Turn(progress, turns, False, steady)), _BETTER)
        if best.steady and best.cost < 0.75 * _STEADY:
            break
    # Then colours, of which outlines know nothing: those of a can fit any turn.
    outlined = best.turns
    best = either_way(replace(best, turns=best.progress.turns[0]), True)
    for turns in dict.fromkeys((outlined, *best.progress.turns[1:])):
        best = better(best, either_way(replace(best, turns=turns), True), _BETTER)
    for part in (0.03, 0.015, 0.007):
        for sign in (-1, 1):
            best = better(best, costed(replace(best, turns=best.turns * (1 + sign * part)), True), 0.97)
    if clockwise is not None:
        return best, Direction(clockwise, True), moves
    other = costed(replace(best, clockwise=not best.clockwise), True)
    costs = (other.cost, best.cost) if best.clockwise else (best.cost, other.cost)
    return best, decided(*costs), moves


def _tilt(turn: Turn, sights: Sights) -> float:
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


def _poses(turn: Turn, sights: Sights, tilt: float) -> Tensor:
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


def _spread(turn: Turn, moves: NDArray[np.bool_] | None, count: int) -> list[int]:
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


def _posed(
    clip: Clip, turn: Turn, moves: NDArray[np.bool_], tilt: float, views: int, on_round: Callable[[int], None]
) -> Posed:
    """Frames spread over a turn, with poses refined by what they see."""
    still = "left out" in turn.progress.speed or "picture" in turn.progress.speed
    chosen = _spread(turn, moves if still or turn.steady else None, views)
    images = torch.stack([resize_rgba(clip.squares[i].float() / 255, _FINE, _FINE) for i in chosen])
    start = _poses(turn, clip.sights, tilt)[chosen]
    poses, gap = _refined(sights_of(images, clip.sights.fov), start, turn.steady, on_round)
    return Posed(turn, chosen, images, poses, gap)


def _refined(
    sights: Sights, poses: Tensor, steady: bool, on_round: Callable[[int], None]
) -> tuple[Tensor, float]:
    """Poses by which the frames agree better, where they do not agree yet; and the gap in pixels of SIDE."""

    def gap(at: Tensor) -> float:
        return hull_gaps(sights, cameras_at(at, sights.fov, sights.side), 1)[1] * SIDE / sights.side

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


def _alternatives(turn: Turn, times: NDArray[np.float64], clockwise: bool | None) -> list[Turn]:
    """Other readings of a shaky clip: the other way round, and one turn at even speed (a hand that shakes
    hides how fast it moves)."""
    along = (times - times[0]) / (times[-1] - times[0])
    even = Progress(along, (1 - 1 / len(times),), "even speed")
    ways = (turn.clockwise, not turn.clockwise) if clockwise is None else (clockwise,)
    plain = replace(turn, progress=even, turns=even.turns[0])
    return [replace(one, clockwise=way) for one in (turn, plain) for way in ways][1:]


def _judged(trials: list[Posed], judge: Judge, fov: float) -> tuple[Posed, Direction]:
    """The trial whose views agree best, and whether the other direction is clearly worse."""
    costs = []
    for trial in trials:
        alpha = trial.images[..., 3]
        rgb = over_white(trial.images[..., :3], alpha)
        costs.append(judge(Views(rgb, alpha, cameras_at(trial.poses, fov, _FINE))))
    best = min(range(len(trials)), key=lambda i: costs[i])
    taken = trials[best]
    others = [c for c, t in zip(costs, trials, strict=True) if t.turn.clockwise != taken.turn.clockwise]
    return taken, Direction(taken.turn.clockwise, not others or costs[best] < _BETTER * min(others))
