"""Objects on plain grounds: the ground is fitted, its shadows with it, and coverage follows from colour."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

_SHADE_SIDE = 512  # pixels at which shadows are looked for
_DARKEST = 0.3  # share of the ground's light that a shadow leaves
_TINT = 0.045  # colour that a shadow may have, in [0, 1]
_SOFT = 0.03  # shadows change by less than this from one pixel to the next, as a share of the ground's light


def layers_on_plain(rgb: Image, object_: NDArray[np.bool_] | None = None) -> tuple[Image, Image] | None:
    """Colour [H, W, 3] and alpha [H, W] of an object on a plain background, or None if it is not plain.

    Soft shadows count as background.

    Args:
        object_: [H, W], what is known to be no shadow.
    """
    background = plain_background(rgb)
    if background is None:
        return None
    background = with_shadows(rgb, background, object_)
    alpha = tidy(soft_alpha(rgb, background))
    return unmix(rgb, alpha, background), alpha


def with_shadows(rgb: Image, background: Image, object_: NDArray[np.bool_] | None = None) -> Image:
    """The ground [H, W, 3] with the soft shadows that lie on it in the photo [H, W, 3].

    A shadow darkens the ground without changing its hue, and it begins softly: from the lit ground it can be
    reached without crossing an edge. So a dark or grey object, which has an edge, is no shadow. Under the
    object its shadows go on as they are beside it.

    Args:
        object_: [H, W], what is known to be no shadow.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, _SHADE_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photo, ground = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (rgb, background))
    if float(ground.mean()) < 0.15:  # too dark to tell a shadow from noise
        return background
    photo = cv2.GaussianBlur(photo, (0, 0), 1.0)
    light = photo.mean(-1) / np.maximum(ground.mean(-1), 0.02)
    tint = np.abs(photo - light[..., None] * ground).max(-1)
    steps = [cv2.Sobel(light, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))]
    soft = np.hypot(*steps) < _SOFT
    shade = (soft & (tint < _TINT) & (light > _DARKEST) & (light < 1.1)).astype(np.uint8)
    if object_ is not None:
        shade &= cv2.resize(object_.astype(np.uint8), size, interpolation=cv2.INTER_AREA) == 0
    shade = cv2.morphologyEx(shade, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, part = cv2.connectedComponents(shade, connectivity=4)
    border = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    reached = np.isin(part, np.unique(border[border > 0]))
    light = _continued(np.minimum(light, 1), reached)
    light[light > 0.985] = 1
    shadow = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(background * shadow[..., None], np.float32)


def _continued(values: Image, known: NDArray[np.bool_]) -> Image:
    """An image [H, W] with what is not known filled from what is known nearby, and 1 far from it."""
    filled, missing = np.where(known, values, 0).astype(np.float32), ~known
    weight = known.astype(np.float32)
    for sigma in (1.5, 4.0, 12.0):
        near = cv2.GaussianBlur(weight, (0, 0), sigma)
        mean = cv2.GaussianBlur(values * weight, (0, 0), sigma) / np.maximum(near, 1e-6)
        now = missing & (near > 0.05)
        filled[now] = mean[now]
        missing &= ~now
    filled[missing] = 1
    return filled


def plain_background(rgb: Image) -> Image | None:
    """The plain background [H, W, 3] of a photo [H, W, 3], or None if it is not plain.

    It is a quadratic in x and y, so smooth studio gradients count as plain. It is fitted to the border of the
    photo; parts of the object that touch the border are left out as outliers as long as they are less than
    30 % of it.
    """
    height, width = rgb.shape[:2]
    strip = max(2, round(0.02 * min(height, width)))
    border = np.zeros((height, width), bool)
    border[:strip] = border[-strip:] = border[:, :strip] = border[:, -strip:] = True
    y, x = np.nonzero(border)
    keep = slice(None, None, max(1, len(x) // 20_000))
    terms = _quadratic(x[keep] / width, y[keep] / height)
    colour = rgb[y[keep], x[keep]]

    good = np.abs(colour - np.median(colour, 0)).max(-1) < 0.2
    for tolerance in (0.1, 0.06, 0.05):
        if good.mean() < 0.7:
            return None
        fit, *_ = np.linalg.lstsq(terms[good], colour[good], rcond=None)
        good = np.abs(colour - terms @ fit).max(-1) < tolerance
    if good.mean() < 0.7:
        return None
    x, y = (np.arange(side, dtype=np.float32) / side for side in (width, height))
    fit = fit.astype(np.float32)
    along_x = _quadratic(x, np.zeros_like(x)) @ fit
    along_y = _quadratic(np.zeros_like(y), y) @ fit - fit[0]
    background = fit[3] * y[:, None, None] * x[:, None]
    background += along_x
    background += along_y[:, None]
    return np.asarray(np.clip(background, 0, 1, out=background), np.float32)


def soft_alpha(rgb: Image, background: Image | float = 1.0) -> Image:
    """Coverage [H, W] of an object [H, W, 3] in front of a known background (default: white).

    At an edge the distance d from the background falls from the object's own to zero in proportion to the
    coverage: alpha = d / (largest d nearby). Pixels with foreground all around are inside: alpha = 1.

    Args:
        background: a colour [3], or an image [H, W, 3] or value that broadcasts.
    """
    difference = np.abs(rgb - np.asarray(background, np.float32))
    d = np.maximum(difference[..., 0], np.maximum(difference[..., 1], difference[..., 2])) - 0.03
    d = np.maximum(d, 0).astype(np.float32)
    reach = _odd(7 * max(rgb.shape[:2]) / 256, 7, 25)
    peak = cv2.dilate(cv2.GaussianBlur(d, (0, 0), 0.7), np.ones((reach, reach), np.uint8))
    alpha = np.clip(d / np.maximum(peak, 0.05), 0, 1).astype(np.float32)
    inside = cv2.erode((d > 0.03).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    inside &= cv2.erode((d > 0.02).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    alpha[inside] = 1
    return alpha


def unmix(rgb: Image, alpha: Image, background: Image | float) -> Image:
    """The object's own colour F [H, W, 3] from rgb = alpha F + (1 - alpha) background.

    Where alpha [H, W] is near zero, `rgb` is kept.
    """
    edge = (alpha > 0.02) & (alpha < 1)
    a = alpha[edge][:, None]
    own = rgb.copy()
    own[edge] = np.clip((rgb[edge] - (1 - a) * np.broadcast_to(background, rgb.shape)[edge]) / a, 0, 1)
    return own


def tidy(alpha: Image, speck: float = 0.04) -> Image:
    """Drop specks from a mask [H, W] and close pinholes, both relative to the object's own area.

    Args:
        speck: parts smaller than this share of the largest go.
    """
    count, label, stats, _ = cv2.connectedComponentsWithStats((alpha > 0.3).astype(np.uint8), connectivity=8)
    if count <= 1:
        return alpha
    area = stats[:, cv2.CC_STAT_AREA]
    largest = area[1:].max()
    keep = np.r_[True, area[1:] >= speck * largest][label]
    # A speck goes with its soft rim: what is closer to a dropped part than to a kept one.
    dropped = cv2.dilate((~keep).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    near_kept = cv2.dilate((keep & (label > 0)).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    alpha = np.where(dropped & ~near_kept, 0, alpha).astype(np.float32)

    holes, label, stats, _ = cv2.connectedComponentsWithStats((alpha < 0.7).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < 0.002 * largest
    small[0] = False
    return np.where(small[label], 1, alpha).astype(np.float32) if holes > 1 else alpha


def _quadratic(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1)


def _odd(value: float, low: int, high: int) -> int:
    return int(np.clip(round(value), low, high)) | 1
