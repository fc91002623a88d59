"""Surfaces that are transparent in places -> the geometry of what can be seen."""

from __future__ import annotations

import numpy as np

from v3d.meshes.reading.parts import Array, Layer, Part
from v3d.meshes.reading.pieces import Pieces, cut_part, joined, quartered, split, whole
from v3d.meshes.reading.sampling import shade

_FINEST = 4.0  # texels; smaller pieces are cut along the outline as it runs between their corners
_MOST_PIECES = 200_000


def cut_out(part: Part) -> Part | None:
    """The part without what is less opaque than its `cutoff`; None where nothing is left.

    The part has one layer with uv in [0, 1], or none with an image. Outlines follow the texture to about a
    texel, or more coarsely once there are 200,000 pieces.
    """
    if part.cutoff is None:
        return part
    pieces, kept = whole(np.arange(len(part.faces))), []
    bounds = _Bounds(part)
    while True:
        low, high, texels = bounds(pieces)
        kept.append(pieces[low >= part.cutoff])
        mixed = (low < part.cutoff) & (high >= part.cutoff)
        pieces, small = pieces[mixed], texels[mixed] <= _FINEST
        if small.all() or sum(len(k.face) for k in kept) + 4 * len(pieces.face) > _MOST_PIECES:
            break
        kept.append(_outline(part, pieces[small]))
        pieces = quartered(pieces[~small])
    pieces = joined([*kept, _outline(part, pieces)])
    untouched = len(pieces.face) == len(part.faces) and bool((pieces.weights.max(2) == 1).all())
    if len(pieces.face) == 0:
        return None
    return part if untouched else cut_part(part, pieces)


def _outline(part: Part, pieces: Pieces) -> Pieces:
    """The opaque side of pieces, cut straight between their corners."""
    alpha = shade(part, np.repeat(pieces.face, 3), pieces.weights.reshape(-1, 3))[:, 3].reshape(-1, 3)
    return split(pieces, alpha - float(part.cutoff or 0))[1]


class _Bounds:
    """Least and greatest alpha in a piece, never narrower than the truth, from a pyramid of the image."""

    def __init__(self, part: Part) -> None:
        self._part, self._layer = part, part.layers[0]
        self._pyramid = _pyramid(self._layer)

    def __call__(self, pieces: Pieces) -> tuple[Array, Array, Array]:
        factor = float(self._layer.factor[3])
        low = high = np.full(len(pieces.face), factor)
        texels = np.zeros(len(pieces.face))
        if self._layer.uv is not None and self._pyramid:
            size = np.array(self._pyramid[0][0].shape[::-1])
            xy = pieces.values(self._layer.uv) * size
            first = np.floor(xy.min(1) - 0.5).clip(0, size - 1).astype(int)
            last = np.floor(xy.max(1) + 0.5).clip(0, size - 1).astype(int)
            texels = (xy.max(1) - xy.min(1)).max(1)
            level = np.ceil(np.log2(np.maximum((last - first).max(1), 1))).astype(int)
            least, most = np.zeros(len(level)), np.zeros(len(level))
            for k in np.unique(level):
                chosen, (small, large) = level == k, self._pyramid[min(k, len(self._pyramid) - 1)]
                (x0, y0), (x1, y1) = (first[chosen] >> k).T, (last[chosen] >> k).T
                places = [(y, x) for y in (y0, y1) for x in (x0, x1)]
                least[chosen] = np.min([small[place] for place in places], 0)
                most[chosen] = np.max([large[place] for place in places], 0)
            low, high = low * least, high * most
        if self._part.colours is not None:
            own = pieces.values(self._part.colours)[..., 3]
            low, high = low * own.min(1), high * own.max(1)
            texels = np.maximum(texels, np.where(own.max(1) > own.min(1), 4 * _FINEST, 0))
            texels = np.where(
                np.abs(np.linalg.det(pieces.weights)) < 1e-3, np.minimum(texels, _FINEST), texels
            )
        return low, high, texels


def _pyramid(layer: Layer) -> list[tuple[Array, Array]]:
    """Least and greatest alpha in [0, 1] over blocks of 1, 2, 4, ... texels a side."""
    if layer.image is None:
        return []
    alpha = layer.image[..., 3].astype(np.float32) / 255
    levels = [(alpha, alpha)]
    while max(levels[-1][0].shape) > 1:
        small, large = levels[-1]
        grow = [(0, side % 2) for side in small.shape]
        blocks = [np.pad(a, grow, mode="edge") for a in (small, large)]
        shape = (blocks[0].shape[0] // 2, 2, blocks[0].shape[1] // 2, 2)
        levels.append((blocks[0].reshape(shape).min((1, 3)), blocks[1].reshape(shape).max((1, 3))))
    return levels
