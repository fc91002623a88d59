"""What is given with a photo to say where its object is: a mask that somebody saved, or the file's alpha."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from v3d.capture.cutout import Cutout, cut_off_at, main_part
from v3d.capture.images import read_image
from v3d.capture.masks import mask_values
from v3d.capture.matting import cut_out, salient
from v3d.errors import V3DError

Image = NDArray[np.float32]

_ASPECT = 0.02  # how much a mask's shape may differ from its photo's
_DUST = 0.001  # of the largest part's area: smaller parts are dust, and so are
_DUST_PIXELS = 16  # parts of fewer pixels, where the object is not that small itself
_RECTANGLE = 0.97  # of its own box that alpha fills, to say nothing but "a photo"
_WIDE = 0.8  # of the frame's width or height that such a box has


def read_mask(path: str | Path, width: int, height: int) -> tuple[Image, tuple[str, ...]]:
    """A mask file as coverage [height, width] in [0, 1].

    Any form that people save will do: alpha, white on black, black on white, 0 and 1, a palette; of any size
    in the photo's shape.

    Args:
        width, height: of the photo, in pixels.

    Returns:
        The mask, and warnings, one sentence each.

    Raises:
        V3DError: the file cannot be read, has another shape, or leaves nothing or everything.
    """
    image, warnings = read_image(path)
    name = Path(path).name
    high, wide = image.shape[:2]
    if abs(wide * height / (high * width) - 1) > max(_ASPECT, 2 / min(high, wide)):
        raise V3DError(
            f"The mask {name} ({wide} x {high} pixels) has another shape than its photo ({width} x {height})."
        )
    mask, turned = mask_of(image)
    if turned:
        warnings += (f"The mask {name} is black on white and was turned around.",)
    if (mask > 0.5).mean() < 1e-5:
        raise V3DError(f"The mask {name} is empty; paint the object white.")
    if (mask > 0.5).mean() > 0.9999:
        raise V3DError(f"The mask {name} is full: it leaves nothing out; paint what is not the object black.")
    if (wide, high) != (width, height):
        way = cv2.INTER_AREA if wide > width else cv2.INTER_LINEAR
        mask = np.asarray(cv2.resize(mask, (width, height), interpolation=way), np.float32)
    return mask, warnings


def mask_of(image: Image) -> tuple[Image, bool]:
    """What a mask's image [H, W, 4] says: coverage [H, W] in [0, 1], and whether it was black on white.

    What alpha says is never turned around: opaque is the object.
    """
    mask = mask_values(image)
    if image[..., 3].min() < 1:
        return mask, False
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    turned = bool((border > 0.5).mean() > 0.95 and (mask > 0.5).mean() < 0.9999)
    return (1 - mask if turned else mask), turned


def by_alpha(rgba: Image) -> Cutout | None:
    """The object by the alpha of its file [H, W, 4], or None where that says nothing about it.

    An opaque rectangle is a photo with a margin: the object is looked for in it. Where alpha is one around a
    hole that the network takes for the object, it is inverted. Specks are dust.
    """
    alpha = rgba[..., 3]
    mask = alpha > 0.5
    if (alpha < 0.5).mean() < 0.005:  # a hair-line frame or rounded corners say nothing about the object
        return None
    whole = Cutout(np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(alpha), "alpha of the file")
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    hidden = whole.rgb[~mask]
    painted = ((hidden.min(-1) > 0) & (hidden.max(-1) < 1) | (np.ptp(hidden, -1) > 0)).mean()
    if border.mean() > 0.9 and painted > 0.5:  # and not the black or white of what was erased
        seen = salient(whole.rgb) > 0.5
        if (seen & ~mask).sum() > max((seen & mask).sum(), 0.5 * (seen | ~mask).sum()):
            inverted = Cutout(whole.rgb, 1 - whole.alpha, "inverted alpha of the file")
            return inverted.noting(
                "The photo's alpha is inverted (its object is transparent); it was turned."
            )
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    box = mask[y, x]
    if box.mean() > _RECTANGLE and max(box.shape[0] / mask.shape[0], box.shape[1] / mask.shape[1]) > _WIDE:
        inner = _inside(whole.rgb[y, x])
        if inner is not None:
            rgb, found = whole.rgb.copy(), np.zeros_like(whole.alpha)
            rgb[y, x], found[y, x] = inner.rgb, inner.alpha
            note = "The photo's alpha is only a margin around an opaque photo."
            return Cutout(rgb, found, inner.method, (note, *inner.warnings))
    return _without_dust(whole)


def _inside(rgb: Image) -> Cutout | None:
    """The object in an opaque rectangle, if one clearly stands in it."""
    try:
        found = cut_out(np.ascontiguousarray(rgb))
    except V3DError:
        return None
    fills = (found.alpha > 0.5).mean() > 0.9
    return None if fills or cut_off_at(found.alpha) is not None else found


def _without_dust(cutout: Cutout) -> Cutout:
    """Without specks; what else there is to say about alpha that the user made."""
    _, label, stats, _ = cv2.connectedComponentsWithStats((cutout.alpha > 0.02).astype(np.uint8))
    solid = np.bincount(label.ravel(), (cutout.alpha > 0.5).ravel(), len(stats))
    solid[0] = 0
    largest = solid.max()
    dust = (solid > 0) & (solid < max(_DUST * largest, min(_DUST_PIXELS, 0.01 * largest)))
    if dust.any():
        what = "A speck" if dust.sum() == 1 else f"{dust.sum()} specks"
        alpha = np.where(dust[label], 0, cutout.alpha).astype(np.float32)
        cutout = Cutout(cutout.rgb, alpha, cutout.method, cutout.warnings).noting(
            f"{what} in the photo's alpha counted as dust."
        )
    others = main_part(cutout.alpha)[1]
    if others:
        cutout = cutout.noting(
            f"The photo's alpha shows {others + 1} separate parts; they become one object."
        )
    side = cut_off_at(cutout.alpha)
    if side is not None:
        cutout = cutout.noting(
            f"The object is cut off at the {side} of the photo; give one that shows all of it."
        )
    return cutout
