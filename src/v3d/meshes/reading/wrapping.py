"""Textures that repeat, end or are mirrored beyond their borders -> uv inside [0, 1]."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from v3d.meshes.reading.parts import Array, Layer, Part, decode
from v3d.meshes.reading.pieces import Pieces, cut_part, joined, split, whole

_MOST_CELLS = 1024  # repeats within one face; beyond it only the texture's mean colour is seen
_MOST_PIECES = 300_000
_MOST_ROUNDS = 12  # of cutting in half, which end a face of so many repeats
_SLACK = 1e-4  # uv this far outside of [0, 1] is rounding


def wrap_part(part: Part) -> tuple[list[Part], int]:
    """A part of one layer with an image -> parts whose uv is in [0, 1], and how many faces became plain.

    Faces are cut along the borders of the texture, so nothing is tiled. Where a face repeats its texture
    more than a thousand times it takes the texture's mean colour.
    """
    (layer,) = part.layers
    assert layer.uv is not None
    low, high = layer.uv.min((0, 1)), layer.uv.max((0, 1))
    if low.min() >= -_SLACK and high.max() <= 1 + _SLACK:
        return [replace(part, layers=(replace(layer, uv=layer.uv.clip(0, 1)),))], 0
    part, layer = _near_origin(part, layer)
    uv = layer.uv
    assert uv is not None
    spans = np.floor(uv.max(1)) - np.floor(uv.min(1)) + 1
    cells = np.prod(np.where(np.array(layer.wrap) == "clamp", 1, spans), axis=1)
    order = np.argsort(cells, kind="stable")
    fits = np.zeros(len(cells), bool)
    fits[order] = (cells[order] <= _MOST_CELLS) & (np.cumsum(cells[order]) <= _MOST_PIECES + len(cells))
    parts = []
    if fits.any():
        parts.append(_folded(cut_part(part, cut_at_borders(uv, layer.wrap, np.flatnonzero(fits)))))
    if not fits.all():
        far = cut_part(part, whole(np.flatnonzero(~fits)))
        parts.append(replace(far, layers=(_mean(layer),)))
    return parts, int((~fits).sum())


def _near_origin(part: Part, layer: Layer) -> tuple[Part, Layer]:
    """The part with every face's uv moved by whole textures to where numbers are precise."""
    assert layer.uv is not None
    moved = np.floor(layer.uv.min(1, keepdims=True) / 2) * 2  # mirrored textures repeat after two
    layer = replace(layer, uv=layer.uv - np.where(np.array(layer.wrap) == "clamp", 0, moved))
    return replace(part, layers=(layer,)), layer


def cut_at_borders(uv: Array, wrap: tuple[str, str], faces: Array) -> Pieces:
    """These faces, cut where u or v is at a border of the texture: a whole number; if clamped, 0 or 1."""
    pieces = whole(faces)
    for axis in (0, 1):
        if wrap[axis] == "clamp":
            for line in (0.0, 1.0):
                pieces = joined(list(split(pieces, pieces.values(uv)[..., axis] - line)))
            continue
        done: list[Pieces] = []
        for _ in range(_MOST_ROUNDS):
            at = pieces.values(uv)[..., axis]
            low, high = at.min(1) + _SLACK, at.max(1) - _SLACK
            line = np.round((low + high) / 2)
            line = np.where(line <= low, np.floor(low) + 1, line)
            crossed = (line > low) & (line < high)
            done.append(pieces[~crossed])
            pieces = joined(list(split(pieces[crossed], at[crossed] - line[crossed, None])))
        pieces = joined([*done, pieces])
    return pieces


def _folded(part: Part) -> Part:
    """Every face lies between whole numbers: move it into [0, 1] of a texture with a border of one texel."""
    (layer,) = part.layers
    assert layer.uv is not None and layer.image is not None
    uv = layer.uv.copy()
    cell = np.floor(uv.mean(1))[:, None]
    for axis, wrap in enumerate(layer.wrap):
        within = uv[..., axis] - cell[..., axis]
        if wrap == "mirror":
            within = np.where(cell[..., axis] % 2 == 1, 1 - within, within)
        uv[..., axis] = (uv[..., axis] if wrap == "clamp" else within).clip(0, 1)
    image = layer.image
    for axis, wrap in ((1, layer.wrap[0]), (0, layer.wrap[1])):
        if wrap == "repeat":  # elsewhere the texel beyond the border is the one at the border
            border = [(1, 1) if k == axis else (0, 0) for k in range(3)]
            size = image.shape[axis]
            image = np.pad(image, border, mode="wrap")
            uv[..., 1 - axis] = (uv[..., 1 - axis] * size + 1) / (size + 2)
    return replace(part, layers=(replace(layer, uv=uv, image=image, wrap=("clamp", "clamp")),))


def _mean(layer: Layer) -> Layer:
    assert layer.image is not None
    light = decode(layer.image[..., :3]).mean((0, 1), dtype=np.float64)
    rgba = np.append(light, layer.image[..., 3].mean() / 255)
    return Layer(layer.factor * rgba)
