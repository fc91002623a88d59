"""`Cutout`: an object cut out of a photo, and what the user should know about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from v3d.errors import V3DError

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_TINY = 48  # pixels of the longer side, of an object that also is small in its photo
_SMALL_SHARE = 0.03  # of the photo's longer side
_LARGE_HOLE = 0.05  # of the object's area with its holes
_ANOTHER = 0.4  # of the main object's area: a separate part of this size is another object
_CONTRAST_SIDE = 512  # pixels at which the outline's contrast is measured
_FAINT = 0.08  # difference of colours across an outline, in [0, 1]
_CUT_OFF = 0.12  # of the object's width or height that lies on the photo's border


@dataclass(frozen=True)
class Cutout:
    """A photo's foreground.

    Attributes:
        rgb: [H, W, 3] in [0, 1], sRGB: colours with the background taken out of the edges.
        alpha: [H, W] in [0, 1].
        method: what found it.
        warnings: what the user should know, one sentence each.
    """

    rgb: Image
    alpha: Image
    method: str
    warnings: tuple[str, ...] = ()

    @property
    def rgba(self) -> Image:
        """[H, W, 4], straight alpha."""
        return np.dstack([self.rgb, self.alpha])

    def noting(self, *warnings: str) -> Cutout:
        """The same with more warnings."""
        return replace(self, warnings=self.warnings + warnings)


def check_size(alpha: Image, scale: float = 1.0) -> None:
    """See that there is an object, and enough of it to work with.

    Args:
        alpha: [H, W] in [0, 1].
        scale: of the file's pixels to those of `alpha`, to speak of the file's.

    Raises:
        V3DError: nothing is there, or it is tiny.
    """
    rows, columns = (np.nonzero((alpha > 0.5).any(axis))[0] for axis in (1, 0))
    if len(rows) == 0:
        raise V3DError(
            "No object stands out in the photo; cut it out first (a PNG with a transparent background)."
        )
    size = (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    if max(size) < min(_TINY, _SMALL_SHARE * max(alpha.shape)):
        (width, height), (of_width, of_height) = (
            (round(scale * x), round(scale * y)) for x, y in (size, alpha.shape[::-1])
        )
        raise V3DError(
            f"The object is only {width} x {height} pixels large in a photo of {of_width} x {of_height}; "
            "give a photo from nearer by."
        )


def main_part(alpha: Image) -> tuple[Image, int]:
    """The mask [H, W] of one object, and how many other objects were left out of it.

    Another object is a separate part of 40 % of the main one's area or more. The main one is large and near
    the middle of the photo.
    """
    label, area, middle = _parts(alpha > 0.3)
    if len(area) < 2:
        return alpha, 0
    height, width = alpha.shape
    away = np.hypot(middle[:, 0] / width - 0.5, middle[:, 1] / height - 0.5)
    main = int(np.argmax(area * np.exp(-((away / 0.3) ** 2))))
    others = [i for i in range(len(area)) if i != main and area[i] > _ANOTHER * area[main]]
    if not others:
        return alpha, 0
    # What is nearer to another object than to the main one goes with it.
    distances = [
        cv2.distanceTransform(1 - np.isin(label, parts).astype(np.uint8), cv2.DIST_L2, 3)
        for parts in ([main + 1], [i + 1 for i in others])
    ]
    return np.where(distances[0] <= distances[1], alpha, 0).astype(np.float32), len(others)


def cut_off_at(alpha: Image) -> str | None:
    """The side of the photo that cuts the object off: "left", "right", "top", "bottom" or None.

    An object that reaches all four sides was cropped on purpose.
    """
    mask = alpha > 0.5
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    if len(rows) == 0:
        return None
    wide, high = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    edges = {"bottom": mask[-1], "top": mask[0], "left": mask[:, 0], "right": mask[:, -1]}
    if all(edge.any() for edge in edges.values()):
        return None
    shares = {
        side: edge.sum() / (wide if side in ("bottom", "top") else high) for side, edge in edges.items()
    }
    side = max(shares, key=lambda name: shares[name])
    return side if shares[side] > _CUT_OFF else None


def remarks(photo: Image, cutout: Cutout) -> tuple[str, ...]:
    """What the user should know about a cut-out that was made here, one sentence each.

    Args:
        photo: [H, W, 3], from which it was cut.
    """
    out = []
    hole = _largest_hole(cutout.alpha)
    if hole > _LARGE_HOLE:
        out.append(
            f"The cut-out has a hole of {hole:.0%} of its area; if the object has none, give a mask of it."
        )
    if _contrast(photo, cutout.alpha) < _FAINT:
        out.append(
            "The object hardly differs from its background, so its outline is unsure; give a mask of it, or "
            "a photo on another background."
        )
    return tuple(out)


def _largest_hole(alpha: Image) -> float:
    """Area of the largest hole as a share of the object's with its holes."""
    mask = alpha > 0.5
    label, area, _ = _parts(~np.pad(mask, 1), connectivity=4)
    if len(area) < 2:
        return 0.0
    outside = label[0, 0] - 1
    holes = np.delete(area, outside)
    return float(holes.max() / (mask.sum() + holes.sum()))


def _contrast(photo: Image, alpha: Image) -> float:
    """Median difference of colours, in [0, 1], between both sides of the outline."""
    scale = min(1.0, _CONTRAST_SIDE / max(alpha.shape))
    size = (max(1, round(alpha.shape[1] * scale)), max(1, round(alpha.shape[0] * scale)))
    photo, alpha = (
        np.asarray(cv2.resize(x, size, interpolation=cv2.INTER_AREA), np.float32) for x in (photo, alpha)
    )
    mask = (alpha > 0.5).astype(np.uint8)
    width = max(2, round(max(mask.shape) / 150))
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # Mean colours of what is surely inside and surely outside, near every pixel of the outline.
    inner, outer = cv2.erode(mask, np.ones((3, 3), np.uint8)), 1 - cv2.dilate(mask, np.ones((3, 3), np.uint8))
    window = (4 * width + 1, 4 * width + 1)
    sides = [
        np.asarray(cv2.blur(photo * side[..., None], window))
        / np.maximum(cv2.blur(side.astype(np.float32), window), 1e-3)[..., None]
        for side in (inner, outer)
    ]
    outline = (cv2.dilate(mask, kernel) > 0) & (cv2.erode(mask, kernel) == 0)
    if not outline.any():
        return 1.0
    return float(np.median(np.abs(sides[0] - sides[1]).max(-1)[outline]))


def _parts(mask: Mask, connectivity: int = 8) -> tuple[NDArray[np.int32], NDArray[np.int32], Image]:
    """Labels [H, W] from 1, areas [N] and centroids [N, 2] (x, y) of connected parts."""
    _, label, stats, middle = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity
    )
    area = np.asarray(stats[1:, cv2.CC_STAT_AREA], np.int32)
    return np.asarray(label, np.int32), area, np.asarray(middle[1:], np.float32)
