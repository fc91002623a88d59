"""`OrbitPhotos`: photos of an object that its orbit is generated from, and their places among the views."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras, around
from v3d.compositing import over_white
from v3d.errors import V3DError
from v3d.metrics import soft_iou
from v3d.views import Views, cat_views

MAX_ELEVATION = 60.0
"""Degrees; photos from higher above, or from lower below, say too little about the sides of an object."""
SAME_FRAMING = 0.85
"""Least soft IoU of a single photo and its view; `v3d.framing` says when a model rightly shrinks it."""
_SAME_PLACE = 1e-3  # world units, between the cameras of a photo and of a view


@dataclass(frozen=True)
class OrbitPhotos:
    """Photos of one object from known sides, all from the same height.

    Attributes:
        images: [S, S, 4] each, of its own resolution: straight alpha, in [0, 1]. A single photo is framed by
            the law (`v3d.framing`); several are of one scale (`v3d.surface.registration`).
        azimuths: of their cameras in degrees, counter-clockwise seen from above, the first 0: the front. The
            object's own left side is at 90, its back at 180, its right side at 270.
        elevation: of their cameras, degrees above the object's horizon.

    Raises:
        V3DError: there is no photo of the front, two are of one side, or the elevation is out of range.
    """

    images: tuple[Tensor, ...]
    azimuths: tuple[float, ...] = (0.0,)
    elevation: float = 0.0

    def __post_init__(self) -> None:
        check_sides(self.azimuths, self.elevation)
        if len(self.images) != len(self.azimuths):
            raise ValueError("Every photo has an azimuth.")

    def __len__(self) -> int:
        """How many photos there are."""
        return len(self.images)

    def cameras(self, size: int) -> Cameras:
        """Where the photos were taken, with images of `size` pixels; the object stands upright."""
        return around(self.azimuths, size=size, elevation=self.elevation)

    def as_views(self, size: int) -> Views:
        """The photos as views of `size` pixels (antialiased), composited on white first."""
        images = [
            torch.cat([over_white(x[..., :3], x[..., 3]), x[..., 3:]], -1).permute(2, 0, 1)[None]
            for x in self.images
        ]
        sized = torch.cat(
            [
                F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
                for x in images
            ]
        ).permute(0, 2, 3, 1)
        return Views(sized[..., :3].contiguous(), sized[..., 3].contiguous(), self.cameras(size))

    def among(self, cameras: Cameras) -> dict[int, Tensor]:
        """Number of a camera -> the photo [S, S, 4] that was taken from its place."""
        return {v: self.images[i] for i, v in self.numbers(cameras).items()}

    def numbers(self, cameras: Cameras) -> dict[int, int]:
        """Number of a photo -> that of the camera at its place, for photos that have one there."""
        distance = torch.cdist(cameras.centers, self.cameras(1).centers.to(cameras.centers))
        return {i: int(v) for i, v in enumerate(distance.argmin(0)) if distance[v, i] < _SAME_PLACE}


def check_sides(azimuths: tuple[float, ...], elevation: float) -> None:
    """See that photos from these sides, at this height, can be of one orbit.

    Raises:
        V3DError: there is no front, two are of one side, or a number is out of range.
    """
    if not all(math.isfinite(azimuth) for azimuth in azimuths):
        raise V3DError(
            "The azimuth of a photo is a number of degrees: 90 for the left side, 180 for the back."
        )
    if not abs(elevation) <= MAX_ELEVATION:
        raise V3DError(
            f"The elevation is {elevation:g} degrees; give the height that the photos were taken from,"
            f" between {-MAX_ELEVATION:g} and {MAX_ELEVATION:g}."
        )
    if not azimuths or azimuths[0] % 360 != 0:
        raise V3DError("Which side is the front? One photo must have the azimuth 0.")
    turns = sorted(azimuth % 360 for azimuth in azimuths)
    for one, other in zip(turns, [*turns[1:], 360.0], strict=True):
        if other - one < 1:
            raise V3DError(f"Two photos show the same side (azimuth {one:g}); give one of each side.")


def with_photos(views: Views, photos: OrbitPhotos) -> Views:
    """The views with the photos in their places, and those that stand between views added; by azimuth.

    A single photo takes the place of view 0 only where the model kept its framing. Several photos are of one
    scale, which the model had to keep.
    """
    size = views.cameras.width
    given = photos.as_views(size)
    rgb, alpha, between = views.rgb.clone(), views.alpha.clone(), []
    numbers = photos.numbers(views.cameras)
    for i in range(len(photos)):
        v = numbers.get(i)
        if v is None:
            between.append(given[i])
        elif len(photos) > 1 or soft_iou(alpha[v], given.alpha[i]) > SAME_FRAMING:
            rgb[v], alpha[v] = given.rgb[i], given.alpha[i]
    placed = cat_views([Views(rgb, alpha, views.cameras), *between])
    if not between:
        return placed
    x, y = placed.cameras.centers[:, 0].double(), placed.cameras.centers[:, 1].double()
    # The front first, though rounding may leave it a hair below 0.
    return placed[((torch.rad2deg(torch.atan2(y, x)) + 1e-3) % 360).argsort().tolist()]
