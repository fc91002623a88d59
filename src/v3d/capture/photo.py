"""`Photo`: an object, cut out of any image file and framed as the training orbits are.

The framing law (`v3d.framing`): the box around alpha > 0.5 stands in the middle of a square and its longer
side is `1 - BORDER_RATIO` of the square's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v3d.capture.images import read_image
from v3d.capture.matting import cut_out
from v3d.compositing import resize_rgba
from v3d.errors import V3DError
from v3d.framing import MIN_SIDE, frame_photo, pad_square


@dataclass(frozen=True)
class Photo:
    """An object, cut out of a photo and framed.

    Attributes:
        rgba: [S, S, 4] float32 in [0, 1], sRGB, straight alpha, at the photo's own resolution (S <= 2048).
        warnings: what the user should know, one sentence each.
        foreground: how the object was found.
    """

    rgba: Tensor
    warnings: tuple[str, ...] = ()
    foreground: str = "alpha of the file"

    def resized(self, size: int) -> Tensor:
        """The photo at `size` x `size` pixels: straight RGBA [size, size, 4], antialiased."""
        return resize_rgba(self.rgba, size, size)


def load_photo(path: str | Path, *, recentre: bool = True) -> Photo:
    """Read any common image file and frame its object.

    Orientation and colour profile are applied. The foreground is the file's alpha if that leaves anything
    out, else it is found by `v3d.capture.matting.cut_out`.

    Args:
        path: the image file.
        recentre: apply the framing law; otherwise keep the photo's framing, padded to a square.

    Raises:
        V3DError: the file is missing, broken, not an image, too large or too small, or shows no object.
    """
    rgba, warnings = read_image(path)
    name = Path(path).name
    if min(rgba.shape[:2]) < MIN_SIDE:
        height, width = rgba.shape[:2]
        raise V3DError(
            f"{name} is too small or too thin ({width} x {height} pixels where {MIN_SIDE} are needed each "
            "way); give another photo."
        )
    foreground = "alpha of the file"
    alpha = rgba[..., 3]
    if (alpha > 0.5).sum() < MIN_SIDE:
        raise V3DError(f"{name} is transparent everywhere: its alpha channel shows no object.")
    if (alpha < 0.5).mean() < 0.005:  # a hair-line frame or rounded corners say nothing about the object
        try:
            cutout = cut_out(np.ascontiguousarray(rgba[..., :3]))
        except V3DError as error:
            raise V3DError(f"{name}: {error}") from error
        rgba = np.concatenate([cutout.rgb, cutout.alpha[..., None]], -1)
        foreground, warnings = cutout.method, warnings + cutout.warnings
    image = torch.from_numpy(np.ascontiguousarray(rgba, np.float32))
    return Photo(frame_photo(image) if recentre else pad_square(image), warnings, foreground)
