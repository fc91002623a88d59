"""Silhouette coherence: do the outlines of several photos have a hull that fills every one of them?

A ray through a point of one photo's outline touches the object, so somewhere along it every other photo must
show the object too. How far it passes outside the others' outlines at best is its gap; similarities that
bring the photos to the orbit's cameras are found by Gauss-Newton on the gaps (cf. Hernandez, Schmitt and
Cipolla, "Silhouette coherence for camera calibration under circular motion", 2007).

Places in an image are [..., 2] in units of its side, x right, y down, the centre at 0. A similarity [4] is
(log scale, shift x, shift y, roll in radians, clockwise) and takes a photo's places to the orbit camera's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from skimage.measure import find_contours
from torch import Tensor

from v3d.cameras import ORBIT_FOV, ORBIT_RADIUS, cat_cameras, orbit
from v3d.compositing import resize_rgba
from v3d.framing import visible_box
from v3d.surface.silhouette import silhouette_distance

SIDE = 144
"""Pixels of the images whose outlines are compared."""
POINTS = 80
"""Points on every outline."""
SCALE, SHIFT_X, SHIFT_Y, ROLL = range(4)
_FOCAL = 0.5 / math.tan(math.radians(ORBIT_FOV) / 2)  # of an orbit's camera, in image sides
_REACH = 1.1  # world units around the origin in which the object lies
_COARSE = 28  # depths along a ray at first
_NOISE = 0.005  # of an image's side: how well an outline is known, most of a pixel of SIDE
_OUTLIER = 2.0  # noises; what exceeds them counts linearly (Huber)
_OPPOSITE = 15.0  # degrees from 180 at which outlines still are mirror images
_MIRROR = 0.3  # weight of mirror images, which differ by perspective
_SPREAD = (0.5, 0.02, 0.03, 0.2)  # of a similarity's numbers around the first guess


@dataclass(frozen=True)
class Outline:
    """The outline of one photo.

    Attributes:
        distance: [SIDE, SIDE] signed distance to it, negative inside, in image sides.
        contour: [POINTS, 2] places on it, spread evenly.
        box: [4] left, top, right, bottom.
    """

    distance: Tensor
    contour: Tensor
    box: Tensor

    @property
    def mirrored(self) -> Outline:
        """The outline of the photo's mirror image, left and right exchanged."""
        left, top, right, bottom = self.box.unbind()
        flip = self.contour.new_tensor([-1.0, 1.0])
        return Outline(self.distance.flip(1), self.contour * flip, torch.stack([-right, top, -left, bottom]))


def outline_of(photo: Tensor) -> Outline:
    """The outline of a framed photo [S, S, 4] of straight alpha."""
    alpha = resize_rgba(photo, SIDE, SIDE)[..., 3].clamp(0, 1)
    contours = find_contours(F.pad(alpha, (1, 1, 1, 1)).numpy(), 0.5)
    points = np.concatenate([contour[:-1] for contour in contours])  # row, column; the last repeats the first
    chosen = points[np.linspace(0, len(points), POINTS, endpoint=False).astype(int)] - 1
    contour = torch.from_numpy(np.ascontiguousarray(chosen[:, ::-1])).float()
    box = torch.tensor(visible_box(photo[..., 3])) / photo.shape[0] - 0.5
    return Outline(silhouette_distance(alpha[None])[0] / SIDE, (contour + 0.5) / SIDE - 0.5, box)


@dataclass(frozen=True)
class Alignment:
    """The similarities by which outlines agree best.

    Attributes:
        similarities: [n, 4].
        guess: [n, 4] the prior's.
        free: [n, 4] bool, the numbers that were fitted.
        cost: see `Coherence.cost`.
    """

    similarities: Tensor
    guess: Tensor
    free: Tensor
    cost: float


def transform(places: Tensor, similarity: Tensor) -> Tensor:
    """Places [..., 2] of a photo -> places in the orbit camera's image; similarity [4] or [..., 4]."""
    scale, cos, sin = similarity[..., 0].exp(), similarity[..., 3].cos(), similarity[..., 3].sin()
    x, y = places.unbind(-1)
    turned = torch.stack([cos * x - sin * y, sin * x + cos * y], -1)
    return scale[..., None] * turned + similarity[..., 1:3]


def transform_back(places: Tensor, similarity: Tensor) -> Tensor:
    """The inverse of `transform`."""
    scale, cos, sin = similarity[..., 0].exp(), similarity[..., 3].cos(), similarity[..., 3].sin()
    x, y = (places - similarity[..., 1:3]).unbind(-1)
    return torch.stack([cos * x + sin * y, cos * y - sin * x], -1) / scale[..., None]


class Coherence:
    """How well n outlines agree from the orbit's cameras, and the similarities by which they agree best."""

    def __init__(self, outlines: Sequence[Outline], azimuths: Sequence[float], elevation: float) -> None:
        """`azimuths` in degrees, one an outline; `elevation` in degrees, of all."""
        self.elevation = elevation
        self.outlines = tuple(outlines)
        cameras = cat_cameras([orbit(1, size=2, azimuth=a, elevation=elevation) for a in azimuths])
        c2w, w2c = cameras.c2w, cameras.w2c
        relative = w2c[:, None] @ c2w[None]  # [to, from]
        self._turn, self._move = relative[..., :3, :3], relative[..., :3, 3]
        self._c2w = c2w
        self._contour = torch.cat([outline.contour for outline in outlines])
        self._owner = torch.arange(len(outlines)).repeat_interleave(POINTS)
        level = abs(elevation) <= 10
        self._opposite = [
            (i, 1 - i)
            for i in range(2)
            if level and len(azimuths) == 2 and abs((azimuths[0] - azimuths[1]) % 360 - 180) <= _OPPOSITE
        ]

    def first_guess(self) -> Tensor:
        """Similarities [n, 4] that give all boxes the height of the first and shrink what would not fit."""
        boxes = torch.stack([outline.box for outline in self.outlines])
        height = boxes[:, 3] - boxes[:, 1]
        similarities = torch.zeros(len(boxes), 4)
        similarities[:, SCALE] = (height[0] / height).log()
        return similarities

    def reach(self, similarities: Tensor) -> float:
        """The farthest that an outline reaches from its image's centre, in image sides, 0.5 at the border."""
        return float(transform(self._contour, similarities[self._owner]).abs().max())

    def gaps(self, similarities: Tensor, without: int | None = None) -> Tensor:
        """How far each ray through an outline passes outside the others' [n, POINTS], in image sides.

        Negative where it passes through all of them.

        Args:
            similarities: [n, 4].
            without: number of a photo that has no say.
        """
        everything = torch.arange(len(self._owner))
        return self._search(similarities, everything, None, without)[0].view(len(self.outlines), POINTS)

    @property
    def sees_depth(self) -> bool:
        """Whether photos from two opposite sides show the object's depth as the first photo sees it."""
        across = self._c2w[:, :2, 0] @ F.normalize(self._c2w[0, :2, 3], dim=0)
        return bool(across.max() > 0.5) and bool(across.min() < -0.5)

    def centred(self, similarities: Tensor) -> Tensor:
        """The similarities [n, 4] after the middle of the object's box has moved to the depth of the origin.

        Depth is along the first photo's optical axis, where its own outline says nothing, so its similarity
        stays. The rays' ways through the hull stand for the object.
        """
        places = transform(self._contour, similarities[self._owner])
        direction = torch.cat([places / _FOCAL, torch.ones_like(places[:, :1])], -1)
        depths = (ORBIT_RADIUS + torch.linspace(-_REACH, _REACH, 2 * _COARSE)).expand(len(places), -1)
        outside = self._outside(similarities, self._owner, direction, depths, None)
        ray, step = (outside <= outside.amin(1, keepdim=True).clamp_min(0) + _NOISE / 2).nonzero().unbind(1)
        c2w = self._c2w[self._owner[ray]]
        local = direction[ray] * depths[ray, step][:, None]
        points = (c2w[:, :3, :3] @ local[..., None])[..., 0] + c2w[:, :3, 3]
        ahead = F.normalize(self._c2w[0, :3, 2] * torch.tensor([1.0, 1.0, 0.0]), dim=0)
        up = torch.tensor([0.0, 0.0, 1.0])
        middle = _middle(points @ ahead) * ahead + _middle(points @ up) * up
        optical = self._c2w[0, :3, 2]
        moved = self._c2w[:, :3, :3].mT @ (-(middle @ optical) * optical)  # in each camera's axes
        out = similarities.clone()
        out[:, SCALE] += (moved[0, 2] - moved[:, 2]) / ORBIT_RADIUS
        out[:, [SHIFT_X, SHIFT_Y]] += moved[:, :2] * _FOCAL / ORBIT_RADIUS
        return out

    def _search(
        self, similarities: Tensor, rays: Tensor, start: Tensor | None, without: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gap and depth [R] of the chosen rays [R]; with `start` [R] only depths near it are tried."""
        owner = self._owner[rays]
        places = transform(self._contour[rays], similarities[owner])
        direction = torch.cat([places / _FOCAL, torch.ones_like(places[:, :1])], -1)
        if start is None:
            step = 2 * _REACH / (_COARSE - 1)
            depth = (ORBIT_RADIUS + torch.linspace(-_REACH, _REACH, _COARSE)).expand(len(rays), _COARSE)
            rounds = 3
        else:
            step, rounds = 0.04, 1
            depth = start[:, None] + step * torch.linspace(-1, 1, 9)
        for more in reversed(range(rounds)):
            outside = self._outside(similarities, owner, direction, depth, without)
            gap, best = outside.min(1, keepdim=True)
            nearest = depth.gather(1, best)
            depth = nearest + step * torch.linspace(-1, 1, 9)
            step /= 4
            if more == 0:
                break
        return gap[:, 0], nearest[:, 0]

    def _outside(
        self, similarities: Tensor, owner: Tensor, direction: Tensor, depth: Tensor, without: int | None
    ) -> Tensor:
        """The largest signed distance [R, D] to the other photos' outlines of points at `depth` [R, D]."""
        outside = torch.full(depth.shape, -1.0)
        for j in range(len(self.outlines)):
            if j == without:
                continue
            along = (self._turn[j][owner] @ direction[..., None])[..., 0]
            x, y, z = (depth * along[:, i, None] + self._move[j][owner][:, i, None] for i in range(3))
            places = torch.stack([x, y], -1) / z.clamp_min(0.1)[..., None] * _FOCAL
            distance = self._distance(j, places, similarities[j])
            outside = torch.where((owner == j)[:, None], outside, torch.maximum(outside, distance))
        return outside

    def _distance(self, j: int, places: Tensor, similarity: Tensor) -> Tensor:
        """Signed distance [...] of places [..., 2] in camera j's image to outline j."""
        own = transform_back(places, similarity)
        field, grid = self.outlines[j].distance[None, None], 2 * own.reshape(1, 1, -1, 2)
        sampled = F.grid_sample(field, grid, padding_mode="border", align_corners=False)
        beyond = (own.abs() - 0.5).clamp_min(0).amax(-1)
        return (sampled.view(own.shape[:-1]) + beyond) * similarity[SCALE].exp()

    def _mirror(self, similarities: Tensor) -> Tensor:
        """Weighted distances of opposite photos' mirrored outlines from each other."""
        flip = torch.tensor([-1.0, 1.0])
        parts = [torch.zeros(0)]
        for i, j in self._opposite:
            places = transform(self.outlines[i].contour, similarities[i]) * flip
            parts.append(_MIRROR * self._distance(j, places, similarities[j]))
        return torch.cat(parts)

    def cost(self, similarities: Tensor, guess: Tensor) -> float:
        """Huber's sum of squared gaps in units of the outlines' noise, mirror images and prior included."""
        gaps = self.gaps(similarities).flatten().clamp_min(0)
        residual = torch.cat([gaps, self._mirror(similarities)]) / _NOISE
        prior = (similarities - guess) / torch.tensor(_SPREAD)
        return float(_huber(residual).sum() + prior.square().sum())

    def fit(self, begin: Tensor, guess: Tensor, free: Tensor, steps: int = 10) -> tuple[Tensor, float]:
        """Levenberg-Marquardt on the cost.

        Args:
            begin: [n, 4] similarities to start from.
            guess: [n, 4] the prior's.
            free: [n, 4] bool, the numbers to fit.
            steps: at most.

        Returns:
            Similarities [n, 4] and their cost.
        """
        similarities, cost, damping = begin, self.cost(begin, guess), 0.01
        spread = torch.tensor(_SPREAD).expand_as(begin)[free]
        for _ in range(steps):
            A, gradient = self._normal_equations(similarities, free)
            A = A + torch.diag(spread**-2)
            gradient = gradient + (similarities - guess)[free] * spread**-2
            before = cost
            for _ in range(4):
                trial = similarities.clone()
                trial[free] -= torch.linalg.solve(A + damping * torch.diag(A.diagonal()), gradient)
                trial_cost = self.cost(trial, guess)
                if trial_cost < cost:
                    similarities, cost, damping = trial, trial_cost, max(damping / 5, 1e-4)
                    break
                damping *= 5
            if before - cost < 1e-3 * before + 0.05:
                break
        return similarities, cost

    def _normal_equations(self, similarities: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """Gauss-Newton's matrix and gradient of the data's cost, by differences; Huber's by reweighting.

        Only rays that miss or nearly miss matter, and near where they come closest.
        """
        gap, depth = self._search(similarities, torch.arange(len(self._owner)), None)
        rays = (gap > -_NOISE).nonzero()[:, 0]

        def residual(at: Tensor) -> Tensor:
            gaps = self._search(at, rays, depth[rays])[0].clamp_min(0)
            return torch.cat([gaps, self._mirror(at)]) / _NOISE

        base = residual(similarities)
        columns = []
        for index in free.nonzero().tolist():
            moved = similarities.clone()
            moved[tuple(index)] += 1e-3
            columns.append((residual(moved) - base) / 1e-3)
        J = torch.stack(columns, 1)
        weight = _OUTLIER / base.abs().clamp_min(_OUTLIER)
        return J.mT @ (weight[:, None] * J), J.mT @ (weight * base)


def _huber(x: Tensor) -> Tensor:
    size = x.abs()
    return torch.where(size > _OUTLIER, _OUTLIER * (2 * size - _OUTLIER), size * size)


def _middle(x: Tensor) -> Tensor:
    return (x.amin() + x.amax()) / 2
