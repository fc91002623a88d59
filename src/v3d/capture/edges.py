"""Edges of a cut-out: a rough mask follows the photo's own edges, and colours lose the background's light."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

_EPSILON = 3e-4  # of the guided filter: variance of colour that counts as an edge
_MOST_PIXELS = 400_000  # the filter's coefficients are smooth: found on at most so many pixels


def follow_edges(rgb: Image, mask: Image, radius: float) -> Image:
    """Alpha [H, W] in [0, 1] of a rough soft mask [H, W] whose outline follows the photo's [H, W, 3] edges.

    A guided filter (He et al. 2013): in every window alpha is affine in colour, alpha = a . rgb + b, by least
    squares to the mask. Farther than `radius` from the mask's outline alpha is 0 or 1.

    Args:
        rgb: the photo.
        mask: in [0, 1]; object where it is above one half.
        radius: pixels that the outline may be off by.
    """
    (photo, rough), scale = _small(rgb, mask)
    slope, offset = (_at_size(x, mask.shape) for x in _affine(photo, rough, max(1, round(radius * scale))))
    alpha = np.einsum("hwc,hwc->hw", slope, rgb) + offset
    alpha = np.clip((alpha - 0.5) * 1.6 + 0.5, 0, 1)  # the filter blurs: full and none lie inside its range
    reach = 2 * round(radius) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    inside = (mask > 0.5).astype(np.uint8)
    alpha[cv2.erode(inside, kernel) > 0] = 1
    alpha[cv2.dilate(inside, kernel) == 0] = 0
    return np.asarray(alpha, np.float32)


def _affine(guide: Image, mask: Image, radius: int) -> tuple[Image, Image]:
    """Smoothed coefficients a [H, W, 3], b [H, W] of the guided filter, in windows of `radius`."""

    def mean(x: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray(cv2.blur(x, (2 * radius + 1, 2 * radius + 1)))

    middle, level = mean(guide), mean(mask)
    across = mean(guide * mask[..., None]) - middle * level[..., None]
    products = mean(np.dstack([guide[..., i] * guide[..., j] for i in range(3) for j in range(3)]))
    covariance = products.reshape(*mask.shape, 3, 3) - middle[..., :, None] * middle[..., None, :]
    covariance += _EPSILON * np.eye(3, dtype=np.float32)
    a = np.linalg.solve(covariance, across[..., None])[..., 0]
    b = level - (a * middle).sum(-1)
    return np.asarray(mean(a), np.float32), np.asarray(mean(b), np.float32)


def own_colours(rgb: Image, alpha: Image) -> Image:
    """The object's own colours [H, W, 3] at its edges, where a photo mixes them with the background's.

    Blur fusion (Forte 2021): object and background colours are averages of what surely is one or the other
    nearby; what they leave unexplained is given to the object.

    Args:
        alpha: [H, W] in [0, 1].
    """
    (photo, cover), _ = _small(rgb, alpha)
    window = (max(7, round(max(cover.shape) / 50)) | 1,) * 2

    def nearby(weight: Image) -> Image:
        share = np.asarray(cv2.blur(weight, window))[..., None]
        mean = np.asarray(cv2.blur(photo * weight[..., None], window)) / np.maximum(share, 1e-6)
        return _at_size(np.asarray(mean, np.float32), alpha.shape)[edge]

    edge = (alpha > 0.002) & (alpha < 0.998)
    a = alpha[edge][:, None]
    front, back = nearby(cover**6 + 1e-5 * cover), nearby((1 - cover) ** 6 + 1e-5 * (1 - cover))
    own = rgb.copy()
    own[edge] = np.clip(front + a * (rgb[edge] - a * front - (1 - a) * back), 0, 1)
    return own


def _small(*images: Image) -> tuple[list[Image], float]:
    """Images of one size with at most `_MOST_PIXELS` pixels, and the scale: what is smooth needs no more."""
    height, width = images[0].shape[:2]
    scale = min(1.0, (_MOST_PIXELS / (height * width)) ** 0.5)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
    return [np.asarray(image, np.float32) for image in small], scale


def _at_size(image: Image, shape: tuple[int, ...]) -> Image:
    return np.asarray(cv2.resize(image, shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)
