"""Camera paths through a scene, and the order in which a long path's frames are made.

Paths are pure functions of the given cameras, in a z-up world (`v3d.scene.normalise`). Speed is constant. All
frames of a path share the given cameras' image size; their intrinsics are the mean of the given ones, except
where the path passes through the given cameras.

Long paths take several clips of the video model. One clip is consistent in itself; frames of different clips
agree because they are conditioned on the same frames around them: anchors over the whole path first, then
what lies between.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from v3d.cameras import Cameras, look_at
from v3d.errors import V3DError
from v3d.placement import up_direction
from v3d.scene.normalise import focus

_FINE = 64  # samples of a curve per frame or segment, to measure its length


def orbit_path(cameras: Cameras, count: int, *, turns: float = 1.0) -> Cameras:
    """A horizontal circle around what the cameras look at, at their mean height and distance.

    It starts at camera 0's azimuth and goes counter-clockwise seen from above. With a whole number of turns
    it is closed: the step after the last frame leads to the first.

    Args:
        cameras: the given ones.
        count: number of frames.
        turns: how often it goes around; negative for clockwise.

    Raises:
        V3DError: the cameras stand straight above or below the point.
    """
    centre = focus(cameras)
    offset = cameras.centers.double().cpu() - centre
    radius, height = float(offset[:, :2].norm(dim=-1).mean()), float(offset[:, 2].mean())
    if radius < 1e-3 * (abs(height) + 1e-9):
        raise V3DError("There is no orbit for cameras that look straight down or up; choose another path.")
    start = math.atan2(float(offset[0, 1]), float(offset[0, 0]))
    phi = start + torch.arange(count, dtype=torch.float64) * (2 * math.pi * turns / count)
    circle = torch.stack([radius * phi.cos(), radius * phi.sin(), torch.full_like(phi, height)], -1)
    return _like(cameras, look_at(centre + circle, centre.tolist()))


def spiral_path(cameras: Cameras, count: int, *, size: float | None = None, turns: int = 2) -> Cameras:
    """A closed spiral around the mean camera of forward-facing ones, which swings to and fro.

    It always looks at what the cameras look at.

    Args:
        cameras: the given ones.
        count: number of frames.
        size: radius across the view, as a share of the distance to that point; by default the cameras' own
            spread, between 0.05 and 0.3.
        turns: loops around the mean camera.

    Raises:
        V3DError: the cameras stand all around what they look at.
    """
    centre = focus(cameras)
    positions = cameras.centers.double().cpu()
    mean = positions.mean(0)
    distance = float((centre - mean).norm())
    if distance < 1e-6 * (1 + float(mean.norm())):
        raise V3DError("There is no spiral for cameras that stand all around; choose another path.")
    forward = (centre - mean) / distance
    up = _across(up_direction(cameras), forward)
    right = torch.linalg.cross(forward, up)
    if size is None:
        aside = (positions - mean) - ((positions - mean) @ forward)[:, None] * forward
        size = min(max(float(aside.norm(dim=-1).max()) / distance, 0.05), 0.3)
    radius = size * distance

    def curve(t: Tensor) -> Tensor:
        a = 2 * math.pi * turns * t
        swing = (2 * math.pi * t).sin() / 2
        parts = (a.cos()[:, None] * right, a.sin()[:, None] * up, swing[:, None] * forward)
        return mean + radius * sum(parts, torch.zeros_like(up))

    t = torch.linspace(0, 1, _FINE * count + 1, dtype=torch.float64)
    step = (curve(t)[1:] - curve(t)[:-1]).norm(dim=-1)
    even = torch.from_numpy(_even(t.numpy(), step.numpy(), count, closed=True))
    return _like(cameras, look_at(curve(even), centre.tolist(), up.tolist()))


def dolly_path(cameras: Cameras, count: int, *, start: float = 1.0, end: float = 0.5) -> Cameras:
    """Camera 0 moves along its own axis, without turning.

    Args:
        cameras: the given ones.
        count: number of frames.
        start: distance of the first frame to what the cameras look at, as a share of camera 0's own: 1 is
            where it stands, more is behind it.
        end: distance of the last frame, as such a share.
    """
    c2w = cameras.c2w[0].double().cpu()
    forward = c2w[:3, 2]
    distance = float((focus(cameras) - c2w[:3, 3]) @ forward)
    if distance <= 0:  # camera 0 looks away from what the others look at
        distance = float((focus(cameras) - c2w[:3, 3]).norm())
    share = torch.linspace(start, end, count, dtype=torch.float64)
    poses = c2w.repeat(count, 1, 1)
    poses[:, :3, 3] = c2w[:3, 3] + ((1 - share) * distance)[:, None] * forward
    return _like(cameras, poses, cameras.K[:1])


def through_path(cameras: Cameras, count: int, *, closed: bool = False) -> Cameras:
    """A smooth path through the given cameras, in their order.

    Positions follow a cubic spline, rotations the shortest turns (slerp), intrinsics change evenly. The
    speed, counted in distance and turning alike (a radian counts as the cameras' mean distance to what they
    look at), is constant. An open path begins at the first camera and ends at the last; a closed one leads
    back, and the step after the last frame leads to the first.

    Args:
        cameras: the given ones.
        count: number of frames.
        closed: lead back to the first camera.
    """
    c2w, K = cameras.c2w.double().cpu(), cameras.K.double().cpu()
    radian = float((cameras.centers.double().cpu() - focus(cameras)).norm(dim=-1).mean())
    if closed:
        c2w, K = torch.cat([c2w, c2w[:1]]), torch.cat([K, K[:1]])
    apart = _lengths(c2w, radian)
    # Repeated cameras have no path between them.
    keep = np.concatenate([[True], apart > 1e-6 * max(radian, 1e-9)])
    c2w, K, apart = c2w[keep], K[keep], apart[keep[1:]]
    if len(c2w) == 1:
        return _like(cameras, c2w.repeat(count, 1, 1), cameras.K[:1])
    knots = np.concatenate([[0.0], np.sqrt(apart).cumsum()])  # centripetal: no loops where knots crowd
    closes = closed and len(c2w) > 3
    places = c2w[:, :3, 3].numpy().copy()
    if closes:
        places[-1] = places[0]  # to the last bit
    position = CubicSpline(knots, places, bc_type="periodic" if closes else "natural")
    turn = Slerp(knots, Rotation.from_matrix(c2w[:, :3, :3].numpy()))

    def poses(t: NDArray[np.float64]) -> Tensor:
        out = torch.eye(4, dtype=torch.float64).repeat(len(t), 1, 1)
        out[:, :3, :3] = torch.from_numpy(turn(t).as_matrix())
        out[:, :3, 3] = torch.from_numpy(position(t))
        return out

    fine = np.concatenate(
        [np.linspace(a, b, _FINE + count, endpoint=False) for a, b in itertools.pairwise(knots)]
        + [knots[-1:]]
    )
    even = _even(fine, _lengths(poses(fine), radian), count, closed=closed)
    lenses = np.stack([np.interp(even, knots, column) for column in K.reshape(-1, 9).T.numpy()], -1)
    return _like(cameras, poses(even), torch.from_numpy(lenses.reshape(-1, 3, 3)))


@dataclass(frozen=True)
class Step:
    """The frames of one clip: what one call of the scene model generates, and from what.

    Attributes:
        sources: indices of finished frames that are given to the model beside the photos.
        targets: indices of the frames to generate.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]


def anchors_first(count: int, clip: int, *, closed: bool = False) -> list[Step]:
    """Split a path of `count` frames into clips of at most `clip` frames that hold together.

    The first step generates anchors that are spread over the whole path. Every later one fills gaps
    between finished frames, and is given the frames at both ends of these gaps; gaps too long for one clip
    first get anchors of their own. Every frame is generated exactly once.

    Args:
        closed: the frame after the last is the first, so that there is a gap between them too.
    """
    if count < 1 or clip < 1:
        raise ValueError("A path and a clip need at least one frame.")
    anchors = min(count, clip)
    span = count / anchors if closed else (count - 1) / max(anchors - 1, 1)
    made = sorted({round(i * span) for i in range(anchors)})
    steps = [Step((), tuple(made))]
    while len(made) < count:
        ends = [*made, made[0] + count] if closed else [-1, *made, count]
        fills: list[tuple[set[int], list[int]]] = []  # frames at the ends, frames to make
        for left, right in itertools.pairwise(ends):
            missing = right - left - 1
            if missing == 0:
                continue
            number = min(missing, clip)
            targets = [left + 1 + (2 * i + 1) * missing // (2 * number) for i in range(number)]
            bounds = {left, right} if closed else {left, right} - {-1, count}
            if fills and len(fills[-1][1]) + number <= clip:
                fills[-1][0].update(bounds)
                fills[-1][1].extend(targets)
            else:
                fills.append((bounds, targets))
        for sources, new in fills:
            steps.append(
                Step(tuple(sorted({i % count for i in sources})), tuple(sorted(i % count for i in new)))
            )
            made += steps[-1].targets
        made.sort()
    return steps


def _like(cameras: Cameras, c2w: Tensor, K: Tensor | None = None) -> Cameras:
    """Cameras at poses [N, 4, 4] with the image size, type and mean intrinsics of the given ones.

    Args:
        K: [1 or N, 3, 3], in place of the mean intrinsics.
    """
    K = cameras.K.mean(0, keepdim=True) if K is None else K
    return Cameras(
        c2w.to(cameras.c2w), K.to(cameras.K).repeat(len(c2w) // len(K), 1, 1), cameras.width, cameras.height
    )


def _across(direction: Tensor, forward: Tensor) -> Tensor:
    """The unit vector nearest to `direction` perpendicular to `forward`; any if they are parallel."""
    for candidate in (direction, *torch.eye(3, dtype=torch.float64)):
        part = candidate - (candidate @ forward) * forward
        if float(part.norm()) > 1e-3:
            unit: Tensor = part / part.norm()
            return unit
    raise AssertionError("one of the axes is not parallel to a unit vector")


def _lengths(c2w: Tensor, radian: float) -> NDArray[np.float64]:
    """Lengths [N - 1] from each pose [4, 4] to the next: the root of squared distance plus squared turn.

    Args:
        radian: the distance that a turn by one radian counts for.
    """
    moved = (c2w[1:, :3, 3] - c2w[:-1, :3, 3]).norm(dim=-1).numpy()
    turned = Rotation.from_matrix((c2w[:-1, :3, :3].mT @ c2w[1:, :3, :3]).numpy()).magnitude()
    lengths: NDArray[np.float64] = np.hypot(moved, radian * turned)
    return lengths


def _even(
    t: NDArray[np.float64], lengths: NDArray[np.float64], count: int, *, closed: bool
) -> NDArray[np.float64]:
    """`count` parameters with equal lengths of curve between them.

    Args:
        t: [N] sampled parameters.
        lengths: [N - 1] of the curve between these.
        closed: leave out the end, which is the start.
    """
    along = np.concatenate([[0.0], lengths.cumsum()])
    return np.interp(np.linspace(0, along[-1], count, endpoint=not closed), along, t)
