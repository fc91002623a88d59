"""`PosedPhoto`: an image file and the camera that took it, before its pixels are read.

Every format of posed photos (`v3d.capture.transforms`, `colmap`, `co3d`, `sfm`) becomes a list of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.capture.images import image_size, read_image
from v3d.capture.lens import Lens
from v3d.errors import V3DError


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


def absent(photo: Path, listed: Path, missing: list[Path] | None) -> None:
    """Note a photo that does not exist in `missing`.

    Raises:
        V3DError: there is no such list.
    """
    if missing is None:
        raise V3DError(f"{photo}, listed in {listed.name}, does not exist.")
    missing.append(photo)
