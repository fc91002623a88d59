"""`Photo`: an object, cut out of any image file and framed as the training orbits are.

The framing law (`v3d.framing`): the box around alpha > 0.5 stands in the middle of a square and its longer
side is `1 - BORDER_RATIO` of the square's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.capture.cutout import Cutout, check_size
from v3d.capture.edges import own_colours
from v3d.capture.foreground import by_alpha, read_mask
from v3d.capture.images import image_size, read_image
from v3d.capture.matting import cut_out
from v3d.compositing import resize_rgba
from v3d.errors import V3DError
from v3d.framing import MIN_SIDE, frame_photo, pad_square


@dataclass(frozen=True)
class Photo:
    """An object, cut out of a photo and framed.

    Attributes:
        rgba: [S, S, 4] float32 in [0, 1], sRGB, straight alpha, at the photo's own resolution (S <= 2048).
        cutout: [H, W, 4], the same before it was framed: the whole photo.
        warnings: what the user should know, one sentence each.
        foreground: how the object was found.
    """

    rgba: Tensor
    cutout: Tensor
    warnings: tuple[str, ...] = ()
    foreground: str = "alpha of the file"

    def resized(self, size: int) -> Tensor:
        """The photo at `size` x `size` pixels: straight RGBA [size, size, 4], antialiased."""
        return resize_rgba(self.rgba, size, size)


def load_photo(path: str | Path, *, mask: str | Path | None = None, recentre: bool = True) -> Photo:
    """Read any common image file and frame its object.

    Orientation and colour profile are applied. The foreground is the mask, else the file's alpha if that says
    something about the object, else it is found by `v3d.capture.matting.cut_out`.

    Args:
        path: the image file.
        mask: an image of the photo's shape that says where the object is, in any form (see
            `v3d.capture.foreground.read_mask`).
        recentre: apply the framing law; otherwise keep the photo's framing, padded to a square.

    Raises:
        V3DError: a file is missing, broken, not an image, too large or too small, or shows no object.
    """
    rgba, warnings = read_image(path)
    name = Path(path).name
    height, width = rgba.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise V3DError(
            f"{name} is too small or too thin ({width} x {height} pixels where {MIN_SIDE} are needed each "
            "way); give another photo."
        )
    if mask is not None:
        cutout = _masked(rgba, mask)
    else:
        if (rgba[..., 3] > 0.5).sum() < MIN_SIDE:
            raise V3DError(f"{name} is transparent everywhere: its alpha channel shows no object.")
        try:
            cutout = by_alpha(rgba) or cut_out(np.ascontiguousarray(rgba[..., :3]))
            check_size(cutout.alpha, image_size(path)[0] / width)
        except V3DError as error:
            raise V3DError(f"{name}: {error}") from error
    image = torch.from_numpy(cutout.rgba)
    framed = frame_photo(image) if recentre else pad_square(image)
    return Photo(framed, image, warnings + cutout.warnings, cutout.method)


def _masked(rgba: NDArray[np.float32], mask: str | Path) -> Cutout:
    """The object where a mask file says it is."""
    alpha, warnings = read_mask(mask, rgba.shape[1], rgba.shape[0])
    return Cutout(own_colours(np.ascontiguousarray(rgba[..., :3]), alpha), alpha, "mask", warnings)
