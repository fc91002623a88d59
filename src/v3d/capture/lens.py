"""`Lens`: what a lens does to a picture, and the pinhole camera that remains when its distortion is removed.

The one home of intrinsics and distortion, for all formats of posed photos (`v3d.capture.posed`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.cameras import Cameras

_MAX_ZOOM = 2.0
_LARGEST = 1e9  # of any number of a lens; float32 holds it, and what is computed with it
_MAX_SIDE = 1_000_000  # pixels


@dataclass(frozen=True)
class Lens:
    """How a photo's pixels map to directions.

    Attributes:
        width, height: of the photo that the numbers are for, in pixels.
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels; the centre of the first pixel is (0.5, 0.5).
        distortion: OpenCV's coefficients: k1 k2 p1 p2 [k3 [k4 k5 k6]], or k1 k2 k3 k4 of its fisheye model.
        fisheye: whether `distortion` belongs to OpenCV's fisheye model.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    fisheye: bool = False

    @property
    def is_pinhole(self) -> bool:
        """Whether the lens has no distortion."""
        return not self.fisheye and not any(self.distortion)

    def validated(self) -> Lens:
        """The lens itself, if its numbers make sense.

        Raises:
            ValueError: a focal length is not positive, a number is not finite or beyond all lenses, or the
                image has no pixels or more than a million in a row.
        """
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not all(math.isfinite(value) for value in numbers) or min(self.fx, self.fy) <= 0:
            raise ValueError("a focal length is not a positive number, or another number is not finite")
        if max(map(abs, numbers)) > _LARGEST or min(self.fx, self.fy) < 1 / _LARGEST:
            raise ValueError("a number is beyond those of any lens")
        if min(self.width, self.height) < 1:
            raise ValueError("the image has no pixels")
        if max(self.width, self.height) > _MAX_SIDE:
            raise ValueError(f"the image has more than {_MAX_SIDE} pixels in a row")
        return self

    def camera(self, c2w: Tensor) -> Cameras:
        """The pinhole camera with these intrinsics at `c2w` [4, 4]: a batch of one, float64."""
        rows = [[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]]
        K = torch.tensor([rows], dtype=torch.float64)
        return Cameras(c2w[None].double(), K, self.width, self.height)

    def resized(self, width: int, height: int) -> Lens:
        """The lens of the photo after it was resized to `width` x `height` pixels."""
        x, y = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y
        )

    def cropped(self, left: int, top: int, width: int, height: int) -> Lens:
        """The lens of the photo after only the `width` x `height` pixels from (left, top) were kept."""
        return replace(self, width=width, height=height, cx=self.cx - left, cy=self.cy - top)

    def pixels(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels [P, 2] where the points (x, y) [P, 2] of the plane z = 1 in front of the camera appear."""
        points = directions.reshape(1, -1, 2)
        if self.fisheye:
            distorted = cv2.fisheye.distortPoints(points, self._matrix(), np.array(self.distortion))[0]
        else:
            at_one = np.concatenate([points[0], np.ones((points.shape[1], 1))], -1)
            coefficients = np.array(self.distortion or (0.0,) * 4)
            none = np.zeros(3)  # no rotation, no translation
            distorted = cv2.projectPoints(at_one, none, none, self._matrix(), coefficients)[0][:, 0]
        return np.asarray(distorted + 0.5, np.float64)

    def undistorted(self, image: NDArray[np.float32], *, fill: bool) -> tuple[NDArray[np.float32], Lens]:
        """The picture that a pinhole camera would have taken, and that camera's lens.

        Args:
            image: [H, W, C], H and W as the lens states them.
            fill: parts that the lens did not see are 0; with `fill` the focal lengths, which are kept
                otherwise, are enlarged (at most twice) until there are no such parts.

        Returns:
            The picture [H, W, C] and its lens, without distortion.
        """
        if self.is_pinhole:
            return image, self
        zoom = self._zoom() if fill else 1.0
        pinhole = replace(self, fx=self.fx * zoom, fy=self.fy * zoom, distortion=(), fisheye=False)
        arguments = (
            self._matrix(),
            np.array(self.distortion),
            np.eye(3),
            pinhole._matrix(),
            (self.width, self.height),
            cv2.CV_32FC1,
        )
        x, y = (cv2.fisheye if self.fisheye else cv2).initUndistortRectifyMap(*arguments)
        border = cv2.BORDER_REPLICATE if fill else cv2.BORDER_CONSTANT
        return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=border), np.float32), pinhole

    def _matrix(self) -> NDArray[np.float64]:
        """K in OpenCV's pixels, whose first centre is (0, 0)."""
        return np.array([[self.fx, 0, self.cx - 0.5], [0, self.fy, self.cy - 0.5], [0, 0, 1]], np.float64)

    def _zoom(self) -> float:
        """The least factor on the focal lengths for which the whole rim of the pinhole's image was seen."""
        x, y = np.linspace(0, self.width, 65), np.linspace(0, self.height, 65)
        rim = np.concatenate(
            [np.stack([x, np.full_like(x, v)], -1) for v in (0, self.height)]
            + [np.stack([np.full_like(y, u), y], -1) for u in (0, self.width)]
        )
        plane = (rim - (self.cx, self.cy)) / (self.fx, self.fy)

        def unseen(zoom: float) -> bool:
            u, v = self.pixels(plane / zoom).T
            return bool(((u < -0.5) | (v < -0.5) | (u > self.width + 0.5) | (v > self.height + 0.5)).any())

        low, high = 1.0, _MAX_ZOOM
        if not unseen(low):
            return low
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if unseen(middle) else (low, middle)
        return high
