"""Photos with known cameras, before their pixels are read: `Lens`, `PosedPhoto`, and transforms.json.

Every format of posed photos (transforms.json here; COLMAP and CO3D in `v3d.scene`) becomes a list of
`PosedPhoto`; what a lens does to a picture has one home, `Lens`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.cameras import Cameras
from v3d.errors import V3DError
from v3d.photo import image_size, read_image

# The same camera in OpenGL axes (x right, y up, z backward), as transforms.json has them, and back.
OPENCV_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
_PINHOLE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_SUFFIXES = ("", ".png", ".jpg", ".jpeg")
_MAX_ZOOM = 2.0


@dataclass(frozen=True)
class Lens:
    """How a photo's pixels map to directions.

    Attributes:
        width, height: of the photo that the numbers are for, in pixels.
        fx, fy, cx, cy: in pixels; the centre of the first pixel is (0.5, 0.5).
        distortion: OpenCV's coefficients: k1 k2 p1 p2 [k3 [k4 k5 k6]], or k1 k2 k3 k4 of its fisheye model.
        fisheye: which of the two.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    fisheye: bool = False

    def camera(self, c2w: Tensor) -> Cameras:
        """A batch of one: the pinhole camera with these focal lengths at `c2w` [4, 4], float32."""
        K = torch.tensor([[[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]]])
        return Cameras(c2w[None].float(), K, self.width, self.height)

    @property
    def straight(self) -> bool:
        """Whether this is a pinhole camera."""
        return not self.fisheye and not any(self.distortion)

    def resized(self, width: int, height: int) -> Lens:
        """The same lens in front of an image of another size."""
        x, y = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y
        )

    def cropped(self, left: int, top: int, width: int, height: int) -> Lens:
        """The same lens where only a part of the image is kept."""
        return replace(self, width=width, height=height, cx=self.cx - left, cy=self.cy - top)

    def pixels(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points (x, y) [P, 2] of the plane z = 1 are seen [P, 2], in pixels."""
        points = directions.reshape(1, -1, 2)
        if self.fisheye:
            seen = cv2.fisheye.distortPoints(points, self._matrix(), np.array(self.distortion))[0]
        else:
            at_one = np.concatenate([points[0], np.ones((points.shape[1], 1))], -1)
            coefficients = np.array(self.distortion or (0.0,) * 4)
            seen = cv2.projectPoints(at_one, np.zeros(3), np.zeros(3), self._matrix(), coefficients)[0][:, 0]
        return seen + 0.5

    def undistorted(self, image: NDArray[np.float32], *, fill: bool) -> tuple[NDArray[np.float32], Lens]:
        """The picture [H, W, C] that a pinhole camera would have taken, and that camera.

        Focal lengths and centre are kept. Parts that the lens did not see are 0; with `fill` the focal lengths
        are enlarged (at most twice) until there are none.
        """
        if self.straight:
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


@dataclass(frozen=True)
class PosedPhoto:
    """An image file and the camera that took it.

    Attributes:
        file: exists.
        c2w: [4, 4] float64 rigid motion, OpenCV axes.
        lens: for the size that the format states.
        mask: a file that says where the object is, if the format names one.
    """

    file: Path
    c2w: Tensor
    lens: Lens
    mask: Path | None = None

    def size(self) -> tuple[int, int]:
        """Width and height as `read` gives them without `max_side`, from the file's first bytes.

        Pixels are taken as they are stored: tools that find poses ignore a photo's orientation tag. Only where
        the stated size fits the turned photo alone is it turned. A photo that was enlarged or reduced as a
        whole is accepted.

        Raises:
            V3DError: the file is not an image, or its shape is not the stated one.
        """
        return self._size()[0]

    def _size(self) -> tuple[tuple[int, int], bool]:
        """What `size` says, and whether the photo is turned upright for it."""
        stated = (self.lens.width, self.lens.height)
        for upright in (False, True):
            size = image_size(self.file, upright=upright)
            if _same_shape(size, stated):
                return size, upright
        raise V3DError(
            f"{self.file} has {size[0]} x {size[1]} pixels; its camera is for {stated[0]} x {stated[1]}."
        )

    def read(self, max_side: int | None = None) -> tuple[NDArray[np.float32], Lens]:
        """Straight RGBA [H, W, 4] float32 in [0, 1] and the lens for it; larger images are reduced to `max_side`.

        Raises:
            V3DError: the file is broken, or its shape is not the stated one (see `size`).
        """
        image, _ = read_image(self.file, max_side, upright=self._size()[1])
        height, width = image.shape[:2]
        return image, self.lens.resized(width, height)


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one size is the other, scaled and rounded to whole pixels."""
    small, large = sorted((a, b))
    return abs(small[0] * large[1] / large[0] - small[1]) <= 1


def rigid(matrix: Any, where: str) -> Tensor:
    """[4, 4] float64 from 3 or 4 rows of numbers.

    Raises:
        V3DError: it is not a rotation and a position; the sentence starts with `where`.
    """
    try:
        pose = torch.as_tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise V3DError(f"{where} has no 4 x 4 numbers.") from error
    if pose.shape not in ((3, 4), (4, 4)):
        raise V3DError(f"{where} is not 4 x 4.")
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3] = pose[:3]
    R = c2w[:3, :3]
    orthogonal = bool((R.mT @ R - torch.eye(3).double()).abs().max() < 0.02)  # False where there is a NaN
    if not orthogonal or not bool(torch.isfinite(c2w).all()) or float(torch.linalg.det(R)) < 0:
        raise V3DError(f"{where} is not a rotation and a position.")
    return c2w


def transforms_file(path: Path) -> Path | None:
    """The transforms.json that `path` is or holds."""
    if path.is_file():
        return path
    names = ("transforms.json", "transforms_train.json")
    return next((path / name for name in names if (path / name).is_file()), None)


def transforms_frames(path: Path) -> list[dict[str, Any]]:
    """The frames of a transforms.json, each with the file's own keys added.

    Raises:
        V3DError: the file is not one, or lists no frames.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        frames = [meta | frame for frame in meta["frames"]]
    except (ValueError, KeyError, TypeError) as error:
        raise V3DError(f"{path} is not a transforms.json with a list of frames ({error}).") from error
    if not frames:
        raise V3DError(f"{path} lists no frames.")
    return frames


def read_transforms(path: Path, missing: list[Path] | None = None) -> list[PosedPhoto]:
    """The photos of a transforms.json: ours, nerfstudio's or instant-ngp's.

    Args:
        missing: takes the files that do not exist, whose frames are then left out.

    Raises:
        V3DError: the file is broken, a pose is not a rigid motion, a camera is unknown; an image does not
            exist and `missing` is not given.
    """
    photos = []
    for frame in transforms_frames(path):
        name = frame.get("file_path")
        if not isinstance(name, str):
            raise V3DError(f"A frame of {path} has no file_path.")
        file = next((f for suffix in _SUFFIXES if (f := path.parent / (name + suffix)).is_file()), None)
        where = f"{path.name}, {name}"
        c2w = frame_pose(frame, where)
        if file is not None:
            lens = frame_lens(frame, image_size(file, upright=False), where)
            mask = frame.get("mask_path")
            photos.append(PosedPhoto(file, c2w, lens, path.parent / mask if isinstance(mask, str) else None))
        else:
            absent(path.parent / name, path, missing)
    return photos


def absent(photo: Path, listed: Path, missing: list[Path] | None) -> None:
    """Note a photo that does not exist in `missing`.

    Raises:
        V3DError: there is no such list.
    """
    if missing is None:
        raise V3DError(f"{photo}, listed in {listed.name}, does not exist.")
    missing.append(photo)


def frame_pose(frame: Mapping[str, Any], where: str) -> Tensor:
    """c2w [4, 4] float64 with OpenCV axes from a frame's transform_matrix, which has OpenGL axes."""
    return rigid(frame.get("transform_matrix"), f"{where}: the transform_matrix") @ OPENCV_OPENGL


def frame_lens(frame: Mapping[str, Any], size: tuple[int, int], where: str) -> Lens:
    """The lens from focal lengths, or from the full angles of view; `size` where the frame states none.

    Raises:
        V3DError: a number is missing or senseless, or the camera model is unknown.
    """
    model = frame.get("camera_model", "OPENCV")
    fisheye = model == "OPENCV_FISHEYE" or bool(frame.get("is_fisheye"))
    if not fisheye and model not in _PINHOLE:
        raise V3DError(f"{where}: the camera model {model} is not known; undistort the photos first.")
    try:
        width, height = int(frame.get("w") or size[0]), int(frame.get("h") or size[1])
        names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")
        distortion = tuple(float(frame.get(name, 0)) for name in names)
        if "fl_x" in frame:
            fx = float(frame["fl_x"])
        elif "camera_angle_x" in frame:
            fx = 0.5 * width / math.tan(0.5 * float(frame["camera_angle_x"]))
        else:
            raise ValueError("neither fl_x nor camera_angle_x is given")
        fy = float(frame.get("fl_y", fx))
        if "fl_y" not in frame and "camera_angle_y" in frame:
            fy = 0.5 * height / math.tan(0.5 * float(frame["camera_angle_y"]))
        cx, cy = float(frame.get("cx", width / 2)), float(frame.get("cy", height / 2))
        return checked(Lens(width, height, fx, fy, cx, cy, distortion, fisheye))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise V3DError(f"{where}: there is no usable camera ({error}).") from error


def checked(lens: Lens) -> Lens:
    """The lens, if its numbers make sense.

    Raises:
        ValueError: they do not.
    """
    numbers: Sequence[float] = (lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion)
    if not all(math.isfinite(value) for value in numbers) or min(lens.fx, lens.fy) <= 0:
        raise ValueError("a focal length is not a positive number, or another number is not finite")
    if min(lens.width, lens.height) < 1:
        raise ValueError("the image has no pixels")
    return lens
