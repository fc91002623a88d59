"""Photos with known cameras, before their pixels are read: what every format of posed photos becomes.

`v3d.capture.transforms`, `colmap`, `co3d`, `polycam`, `record3d` and `sfm` each read one description of a
capture and return a `Capture` of `PosedPhoto`s; `v3d.capture.readers` chooses among them and reads pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.capture.images import check_size, image_size, read_image
from v3d.capture.lens import Lens
from v3d.errors import V3DError

_FARTHEST = 1e15  # beyond it, not even double precision tells cameras of one capture apart


@dataclass(frozen=True)
class PosedPhoto:
    """An image file and the camera that took it.

    Attributes:
        file: the image; it exists.
        c2w: [4, 4] float64 rigid motion, camera to world, OpenCV axes.
        lens: the intrinsics and distortion, for the image size that the format states.
        mask: an image that says where the object is, if there is one (`v3d.capture.masks`); named by the
            format, it may be missing.
    """

    file: Path
    c2w: Tensor
    lens: Lens
    mask: Path | None = None

    def size(self) -> tuple[int, int]:
        """Width and height in pixels as `read` gives them without `max_side`, from the file's first bytes.

        Pixels are taken as they are stored: tools that find poses ignore a photo's orientation tag. Only
        where the stated size fits the turned photo alone is it turned. A photo that was enlarged or reduced
        as a whole is accepted.

        Raises:
            V3DError: the file is not an image, or its shape is not the stated one.
        """
        return self._size_and_turn()[0]

    def read(self, max_side: int | None = None) -> tuple[NDArray[np.float32], Lens]:
        """The pixels, straight RGBA [H, W, 4] float32 in [0, 1], and the lens for an image of their size.

        Args:
            max_side: larger images are reduced to this many pixels on the longer side while they are decoded.

        Raises:
            V3DError: the file is broken, or its shape is not the stated one.
        """
        image, _ = read_image(self.file, max_side, upright=self._size_and_turn()[1])
        height, width = image.shape[:2]
        return image, self.lens.resized(width, height)

    def _size_and_turn(self) -> tuple[tuple[int, int], bool]:
        """What `size` returns, and whether the photo is turned upright for it."""
        stated = (self.lens.width, self.lens.height)
        for upright in (False, True):
            size = image_size(self.file, upright=upright)
            check_size(self.file, size)
            if same_shape(size, stated):
                return size, upright
        raise V3DError(
            f"{self.file} has {size[0]} x {size[1]} pixels; its camera is for {stated[0]} x {stated[1]}."
        )


@dataclass(frozen=True)
class Capture:
    """The posed photos that one description (a transforms.json, a COLMAP model, a CO3D sequence) lists.

    Attributes:
        photos: those whose files exist, in the order of the format.
        missing: listed files that do not exist.
        remarks: how the description was understood where it left that open, one sentence each.
        points: [P, 3] float64 of what the photos show, in their world; None where the format has none.
    """

    photos: tuple[PosedPhoto, ...]
    missing: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()
    points: Tensor | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one sentence each: that photos were left out, and the remarks."""
        if not self.missing:
            return self.remarks
        listed = len(self.missing) + len(self.photos)
        return (
            f"{len(self.missing)} of the {listed} listed photos do not exist and are left out, "
            f"{self.missing[0].name} among them.",
            *self.remarks,
        )


def same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one size (width, height) is the other, scaled and rounded to whole pixels."""
    small, large = sorted((a, b))
    return abs(small[0] * large[1] / large[0] - small[1]) <= 1


def rigid_motion(matrix: Any, where: str) -> Tensor:
    """[4, 4] float64 from 3 or 4 rows of numbers.

    Args:
        where: begins the sentence of an error, for example "transforms.json, 3.png: the transform_matrix".

    Raises:
        V3DError: the numbers are not a rotation and a position, or the position is senselessly far away.
    """
    c2w = _matrix(matrix, where)
    R = c2w[:3, :3]
    orthogonal = bool((R.mT @ R - torch.eye(3).double()).abs().max() < 0.02)  # False where there is a NaN
    if not orthogonal or not bool(torch.isfinite(c2w).all()) or float(torch.linalg.det(R)) < 0:
        raise V3DError(f"{where} is not a rotation and a position.")
    farthest = float(c2w[:3, 3].abs().max())
    if farthest > _FARTHEST:
        raise V3DError(f"{where} puts a camera {farthest:.0e} units away from the origin.")
    return c2w


def rotation(quaternion: Sequence[float], where: str) -> Tensor:
    """[3, 3] float64 of a unit quaternion w, x, y, z.

    Args:
        where: begins the sentence of an error.

    Raises:
        V3DError: its length is not 1, to a hundredth.
    """
    q = torch.tensor(quaternion, dtype=torch.float64)
    if not abs(float(q.norm()) - 1) < 0.01:
        raise V3DError(f"{where} has no unit quaternion.")
    w, x, y, z = (q / q.norm()).tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def without_scale(matrix: Any, where: str) -> tuple[Tensor, float]:
    """A pose [4, 4] float64 whose axes are of length 1, and the one length that they had.

    Programs that export a scaled camera object (Blender) leave its scale in the matrix; the position does not
    depend on it.

    Raises:
        V3DError: as `rigid_motion`.
    """
    pose = _matrix(matrix, where)
    lengths = pose[:3, :3].norm(dim=0)
    scale = float(lengths.mean())
    uniform = 0 < scale < float("inf") and float((lengths / scale - 1).abs().max()) < 0.01
    if not uniform or abs(scale - 1) < 0.01:
        return rigid_motion(pose, where), 1.0
    pose[:3, :3] /= scale
    return rigid_motion(pose, where), scale


def _matrix(matrix: Any, where: str) -> Tensor:
    """[4, 4] float64 from 3 or 4 rows of 4 numbers; the last row is (0, 0, 0, 1).

    Raises:
        V3DError: these are not 3 or 4 rows of 4 numbers.
    """
    try:
        pose = torch.as_tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise V3DError(f"{where} has no 4 x 4 numbers.") from error
    if pose.shape not in ((3, 4), (4, 4)):
        raise V3DError(f"{where} is not 4 x 4.")
    out = torch.eye(4, dtype=torch.float64)
    out[:3] = pose[:3]
    return out
