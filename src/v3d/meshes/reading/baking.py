"""Colours that are no plain image -> an image with a patch for every face."""

from __future__ import annotations

import numpy as np

from v3d.meshes.reading.parts import Array, Part, encode
from v3d.meshes.reading.sampling import shade

_LARGEST_PATCH, _LARGEST_SIDE = 1024, 4096  # texels
_ROOMY = 128  # texels a side; few faces get patches that fill so much
_AT_ONCE = 1 << 19  # texels shaded at a time


def bake(part: Part) -> tuple[Array, Array]:
    """Uv [F, 3, 2] in [0, 1] and a texture [T, T', 3] uint8 that show the part's colours.

    A face's patch is as fine as the images it shows. Its corners are centres of texels, so that colours
    that run evenly between the corners come out exactly.
    """
    sizes = _patch_sizes(part)
    width = 1
    while width < sizes.max() or width * width < int((sizes.astype(np.int64) ** 2).sum()):
        width *= 2
    corner, height = _places(sizes, width)
    texture = np.zeros((height, width, 3), np.uint8)
    for n in np.unique(sizes):
        faces = np.flatnonzero(sizes == n)
        rows, columns = np.divmod(np.arange(n * n), n)
        b, c = columns / (n - 1), rows / (n - 1)
        weights = np.stack([1 - b - c, b, c], 1)
        for chosen in np.array_split(faces, max(1, len(faces) * n * n // _AT_ONCE)):
            light = shade(part, np.repeat(chosen, n * n), np.tile(weights, (len(chosen), 1)))
            y = corner[chosen, 1, None] + rows
            texture[y, corner[chosen, 0, None] + columns] = encode(light[:, :3]).reshape(
                len(chosen), n * n, 3
            )
    span = np.array([[0, 0], [1, 0], [0, 1]]) * (sizes[:, None, None] - 1)
    return (corner[:, None] + 0.5 + span) / np.array([width, height]), texture


def _patch_sizes(part: Part) -> Array:
    """Texels along a side of every face's patch [F]: a power of two, 2 or more."""
    sizes = np.full(len(part.faces), np.clip(_ROOMY / np.sqrt(len(part.faces)), 2, 32))
    for layer in part.layers:
        if layer.image is not None and layer.uv is not None:
            edges = (layer.uv - np.roll(layer.uv, 1, 1)) * layer.image.shape[1::-1]
            sizes = np.maximum(sizes, np.linalg.norm(edges, axis=-1).max(1) + 1)
    powers: Array = 2 ** np.ceil(np.log2(sizes.clip(2, _LARGEST_PATCH)) - 0.25).clip(1).astype(np.int64)
    while (powers**2).sum() > _LARGEST_SIDE**2 and powers.max() > 2:
        powers = np.maximum(powers // 2, 2)
    return powers


def _places(sizes: Array, width: int) -> tuple[Array, int]:
    """Upper left corners [F, 2] of square patches in rows of `width`, the largest first, and the height."""
    corner = np.zeros((len(sizes), 2), np.int64)
    top = 0
    for n in np.unique(sizes)[::-1]:
        faces = np.flatnonzero(sizes == n)
        row, column = np.divmod(np.arange(len(faces)), width // n)
        corner[faces] = np.stack([column * n, top + row * n], 1)
        top += int(row[-1] + 1) * int(n)
    return corner, top
