"""The colour of a part at any point of its surface."""

from __future__ import annotations

import numpy as np

from v3d.meshes.reading.parts import Array, Layer, Part, decode


def shade(part: Part, face: Array, weights: Array) -> Array:
    """Linear RGBA float32 [N, 4] at points given by their face [N] and barycentric weights [N, 3].

    Points a little outside of their face are welcome: textures go on, colours are extrapolated and clipped.
    """
    total = np.zeros((len(face), 4), np.float32)
    for i, layer in enumerate(part.layers):
        rgba = layer_colour(layer, face, weights)
        if i == 0 and part.colours is not None:
            rgba = rgba * np.einsum("nk,nkc->nc", weights, part.colours[face]).clip(0, 1)
        total += rgba if i == 0 else rgba * (1, 1, 1, 0)
    return total.clip(0, 1)


def layer_colour(layer: Layer, face: Array, weights: Array) -> Array:
    """Linear RGBA float32 [N, 4] of one layer."""
    if layer.image is None or layer.uv is None:
        return np.broadcast_to(layer.factor.astype(np.float32), (len(face), 4))
    uv = np.einsum("nk,nkc->nc", weights, layer.uv[face])
    colour: Array = _bilinear(layer.image, uv, layer.wrap) * layer.factor.astype(np.float32)
    return colour


def _bilinear(image: Array, uv: Array, wrap: tuple[str, str]) -> Array:
    height, width = image.shape[:2]
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(x), np.floor(y)
    columns = [_wrapped(left + i, width, wrap[0]) for i in (0, 1)]
    rows = [_wrapped(top + i, height, wrap[1]) for i in (0, 1)]
    right, low = (x - left)[:, None].astype(np.float32), (y - top)[:, None].astype(np.float32)

    def texel(row: Array, column: Array) -> Array:
        rgba = image[row, column]
        return np.concatenate([decode(rgba[:, :3]), rgba[:, 3:].astype(np.float32) / 255], 1)

    upper = texel(rows[0], columns[0]) * (1 - right) + texel(rows[0], columns[1]) * right
    lower = texel(rows[1], columns[0]) * (1 - right) + texel(rows[1], columns[1]) * right
    colour: Array = upper * (1 - low) + lower * low
    return colour


def _wrapped(index: Array, size: int, wrap: str) -> Array:
    """Texel numbers of any size, as floats -> those that stand for them in the image."""
    if wrap == "mirror":
        index = np.mod(index, 2 * size)
        index = np.minimum(index, 2 * size - 1 - index)
    elif wrap == "repeat":
        index = np.mod(index, size)
    inside: Array = index.clip(0, size - 1).astype(np.int64)
    return inside
