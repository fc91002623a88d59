"""Views whose pictures are a little off -> cameras by which all outlines agree.

Pictures of a generator, and of a camera held by hand, are shifted, scaled and turned against the law of their
cameras. Carving them as they are cuts thin parts away. A ray through a point of one outline touches the
object, so somewhere along it every other view must show the object too; how far it passes outside the others
at best is its gap. Similarities of the pictures that close the gaps are found by Gauss-Newton: at its best
depth a gap belongs to one other view, so each row of the Jacobian has the numbers of two views alone.

`v3d.surface.coherence` asks the same of a few photos whose sizes and places are not known at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from skimage.measure import find_contours
from torch import Tensor

from v3d.autocast import without_autocast
from v3d.cameras import Cameras
from v3d.surface.silhouette import silhouette_distance
from v3d.views import Views

SIDE = 128
"""Pixels of the longer side of the views whose outlines are compared."""
_POINTS = 96  # on every outline
_REACH = 1.1  # world units around the origin in which the object lies
_DEPTHS = 48  # tried along a ray at first
_NOISE = 0.4  # pixels of SIDE: how well an outline is known
_INDEPENDENT = 12.0  # points of an outline that count as independent measurements
_STEPS = (2e-3, 0.2, 0.2, 2e-3)  # differences of a similarity's numbers


@dataclass(frozen=True)
class Spread:
    """How far pictures are off, as standard deviations; 0 holds a number fixed.

    Attributes:
        scale: of the logarithm of their size.
        shift: of their place, as a share of the longer side.
        roll: of their turn in the image, radians.
    """

    scale: float = 0.02
    shift: float = 0.008
    roll: float = 0.0


@dataclass(frozen=True)
class Aligned:
    """Cameras by which outlines agree.

    Attributes:
        cameras: the given ones with focal lengths, principal points and rolls corrected.
        gap: mean gap of the outlines, as a share of the images' longer side: 0 where all agree.
        before: the same of the given cameras.
    """

    cameras: Cameras
    gap: float
    before: float


@without_autocast
def align_outlines(views: Views, spread: Spread = Spread(), *, rounds: int = 8) -> Aligned:
    """Correct each camera's size, place and roll in the image until all outlines agree.

    What moves the object as a whole is held by the prior that pictures are off by nothing on average.

    Args:
        views: at least three, each with something in its mask, of an object around the origin.
        spread: how far the pictures may be off.
        rounds: Gauss-Newton steps.

    Raises:
        ValueError: a mask is empty.
    """
    small = views.reduced(SIDE).to("cpu")
    unit = max(small.cameras.width, small.cameras.height)
    outlines = _Outlines.of(small)
    deviation = torch.tensor([spread.scale, spread.shift * unit, spread.shift * unit, spread.roll])
    free = deviation > 0
    found = torch.zeros(len(views), 4)
    before = float("nan")
    for i in range(rounds):
        touch = outlines.touch(found)
        gap = outlines.gaps(touch, found, found).clamp_min(0)
        if i == 0:
            before = float(gap.mean()) / unit
        found = found + _step(outlines, touch, gap, found, deviation, free)
    gap = outlines.gaps(outlines.touch(found), found, found).clamp_min(0)
    full = found * torch.tensor([1.0, *[views.cameras.width / small.cameras.width] * 2, 1.0])
    cameras = _corrected(views.cameras, full.to(views.cameras.K))
    return Aligned(cameras, float(gap.mean()) / unit, before)


@dataclass(frozen=True)
class _Touch:
    """Where rays come closest to all other outlines.

    Attributes:
        depth: [R] along the rays.
        view: [R] whose outline is passed farthest outside there.
    """

    depth: Tensor
    view: Tensor


@dataclass(frozen=True)
class _Outlines:
    """The outlines of V small views.

    Attributes:
        cameras: as given.
        distance: [V, H, W] signed distance to them in pixels, negative inside.
        points: [V, P, 2] pixels on them, spread evenly.
    """

    cameras: Cameras
    distance: Tensor
    points: Tensor

    @staticmethod
    def of(views: Views) -> _Outlines:
        points = torch.stack([_contour(alpha) for alpha in views.alpha])
        return _Outlines(views.cameras, silhouette_distance(views.alpha), points)

    @property
    def owner(self) -> Tensor:
        """[R] the view that each ray belongs to."""
        return torch.arange(len(self.cameras)).repeat_interleave(self.points.shape[1])

    def rays(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and directions [R, 3], of unit camera z, through the outlines' points."""
        cameras = _corrected(self.cameras, found)
        places = torch.cat([self.points, torch.ones_like(self.points[..., :1])], -1)
        to_world = cameras.c2w[:, :3, :3] @ torch.linalg.inv(cameras.K)
        directions = torch.einsum("vij,vpj->vpi", to_world, places).flatten(0, 1)
        return cameras.centers[self.owner], directions

    def touch(self, found: Tensor) -> _Touch:
        """Search along the rays for where they come closest to all other outlines."""
        origins, directions = self.rays(found)
        distance = origins.norm(dim=-1, keepdim=True)
        depth = distance + torch.linspace(-_REACH, _REACH, _DEPTHS)
        step = 2 * _REACH / (_DEPTHS - 1)
        projection = _projection(_corrected(self.cameras, found))
        for _ in range(3):
            outside, view = self._outside(
                projection, origins[:, None] + depth[..., None] * directions[:, None]
            )
            best = outside.argmin(1, keepdim=True)
            nearest = depth.gather(1, best)
            depth = nearest + step * torch.linspace(-1, 1, 9)
            step /= 4
        return _Touch(nearest[:, 0], view.gather(1, best)[:, 0])

    def _outside(self, projection: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Largest distance [R, D] of points [R, D, 3] to another view's outline, and which view's [R, D]."""
        worst = torch.full(points.shape[:2], -torch.inf)
        view = torch.zeros(points.shape[:2], dtype=torch.long)
        for v in range(len(self.cameras)):
            own = self.owner == v
            distance = self._distance(v, _pixels(points @ projection[v, :, :3].T + projection[v, :, 3]))
            distance[own] = -torch.inf
            view = torch.where(distance > worst, v, view)
            worst = torch.maximum(worst, distance)
        return worst, view

    def gaps(self, touch: _Touch, own: Tensor, others: Tensor) -> Tensor:
        """Distance [R] in pixels of the points at `touch` to the outlines there; negative inside.

        Args:
            touch: depths and views.
            own: [V, 4] similarities of the rays' own views.
            others: [V, 4] similarities of the views that they pass.
        """
        origins, directions = self.rays(own)
        points = origins + touch.depth[:, None] * directions
        P = _projection(_corrected(self.cameras, others))[touch.view]
        places = _pixels(torch.einsum("rij,rj->ri", P[..., :3], points) + P[..., 3])
        out = torch.empty(len(points))
        for v in range(len(self.cameras)):
            chosen = touch.view == v
            out[chosen] = self._distance(v, places[chosen])
        return out

    def _distance(self, view: int, places: Tensor) -> Tensor:
        """Signed distance [...] of pixels [..., 2] to the outline of a view, as at its border beyond it."""
        grid = self.cameras.to_grid(places).reshape(1, 1, -1, 2)
        field = self.distance[view, None, None]
        sampled = F.grid_sample(field, grid, padding_mode="border", align_corners=False)
        return sampled.reshape(places.shape[:-1])


def _step(
    outlines: _Outlines, touch: _Touch, gap: Tensor, found: Tensor, deviation: Tensor, free: Tensor
) -> Tensor:
    """One damped Gauss-Newton step [V, 4] of the similarities, robust to gaps that will not close."""
    views, rows = len(found), torch.arange(len(gap))
    base = outlines.gaps(touch, found, found)
    J = torch.zeros(len(gap), views * 4)
    for k in free.nonzero()[:, 0].tolist():
        moved = found.clone()
        moved[:, k] += _STEPS[k]
        J[rows, outlines.owner * 4 + k] += (outlines.gaps(touch, moved, found) - base) / _STEPS[k]
        J[rows, touch.view * 4 + k] += (outlines.gaps(touch, found, moved) - base) / _STEPS[k]
    huber = 2 / (gap / _NOISE).clamp_min(2.0)
    weight = (gap > 0) * huber * (_INDEPENDENT / outlines.points.shape[1]) / _NOISE**2
    # A number that is held fixed has a stiff prior instead of no column.
    prior = torch.where(free, 1 / deviation.clamp_min(1e-9) ** 2, 1e6).repeat(views)
    A = (J * weight[:, None]).mT @ J + torch.diag(prior)
    gradient = (J * (weight * gap)[:, None]).sum(0) + prior * found.flatten()
    A = A + torch.diag(0.3 * A.diagonal())
    step: Tensor = torch.linalg.solve(A, gradient).view(views, 4)
    return -step


def _corrected(cameras: Cameras, found: Tensor) -> Cameras:
    """The cameras whose images are the pictures as they are.

    A similarity (log scale, shift x and y in pixels, roll clockwise in radians) takes a picture, around the
    middle of its image, to where the law's camera sees it.
    """
    scale = found[:, 0].exp()
    middle = found.new_tensor([cameras.width / 2, cameras.height / 2])
    K = cameras.K.clone()
    K[:, :2] /= scale[:, None, None]
    cos, sin = found[:, 3].cos(), found[:, 3].sin()
    # The picture's own place of the law's principal point, turned back by the roll.
    offset = cameras.K[:, :2, 2] - middle - found[:, 1:3]
    back = torch.stack([cos * offset[:, 0] + sin * offset[:, 1], cos * offset[:, 1] - sin * offset[:, 0]], -1)
    K[:, :2, 2] = middle + back / scale[:, None]
    turn = torch.zeros_like(cameras.c2w)
    turn[:, 0, 0] = turn[:, 1, 1] = cos
    turn[:, 0, 1], turn[:, 1, 0] = -sin, sin
    turn[:, 2, 2] = turn[:, 3, 3] = 1
    return Cameras(cameras.c2w @ turn, K, cameras.width, cameras.height)


def _projection(cameras: Cameras) -> Tensor:
    """[V, 3, 4] from the world to homogeneous pixels."""
    return cameras.K @ cameras.w2c[:, :3]


def _pixels(homogeneous: Tensor) -> Tensor:
    return homogeneous[..., :2] / homogeneous[..., 2:].clamp_min(1e-3)


def _contour(alpha: Tensor) -> Tensor:
    """Pixels [P, 2] on the outline of alpha [H, W], evenly spread.

    Raises:
        ValueError: there is none.
    """
    contours = find_contours(F.pad(alpha, (1, 1, 1, 1)).numpy(), 0.5)
    if not contours:
        raise ValueError("A view shows no object, so it has no outline.")
    points = np.concatenate([contour[:-1] for contour in contours])  # row, column; the last repeats the first
    chosen = points[np.linspace(0, len(points), _POINTS, endpoint=False).astype(int)] - 1
    return torch.from_numpy(np.ascontiguousarray(chosen[:, ::-1])).float() + 0.5
