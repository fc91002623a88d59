"""Parts of many materials -> one mesh with one texture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from v3d.meshes.reading.baking import bake
from v3d.meshes.reading.cutouts import cut_out
from v3d.meshes.reading.parts import Array, Layer, Part, decode, encode
from v3d.meshes.reading.sampling import layer_colour, shade
from v3d.meshes.reading.wrapping import wrap_part

_GUTTER = 2  # replicated texels around every image of an atlas
_LARGEST_ATLAS = 1 << 25  # texels; beyond it images are halved
_BLOCK = 4  # texels a side of a plain colour


@dataclass(frozen=True)
class Textured:
    """Geometry with a texture.

    Attributes:
        vertices: [P, 3] float64.
        faces: [F, 3] int64.
        uv: [P, 2] in [0, 1], v down.
        texture: [T, T', 3] uint8.
    """

    vertices: Array
    faces: Array
    uv: Array
    texture: Array


def one_mesh(parts: list[Part]) -> tuple[Textured | None, list[str]]:
    """All parts in one mesh (None where all of them are transparent), and what came out otherwise."""
    shown: list[Part] = []
    plain_faces = 0
    for part in parts:
        pieces, n = _one_layer(part)
        plain_faces += n
        shown += [seen for piece in pieces if (seen := cut_out(piece)) is not None]
    notes = []
    if plain_faces:
        notes.append(f"{plain_faces} faces repeat their texture too often to show; they have its mean colour")
    textured = [_textured(part) for part in shown]
    texels = sum(t.texture.shape[0] * t.texture.shape[1] for t in textured)
    if texels > _LARGEST_ATLAS:
        notes.append("its textures are shown smaller than they are, so that they fit in one")
    while sum(t.texture.shape[0] * t.texture.shape[1] for t in textured) > _LARGEST_ATLAS:
        textured = [replace(t, texture=_halved(t.texture)) for t in textured]
    if not textured:
        return None, notes
    return (textured[0] if len(textured) == 1 else _atlas(textured)), notes


def _one_layer(part: Part) -> tuple[list[Part], int]:
    """The part with one layer at most that has an image with uv in [0, 1], in so many parts as it takes."""
    part = replace(part, layers=part.layers[:1] + tuple(x for x in part.layers[1:] if x.factor[:3].any()))
    images = [layer for layer in part.layers if layer.image is not None]
    if not images:
        return [part], 0
    if len(part.layers) > 1:
        base = part.layers[0]
        if part.colours is None and part.cutoff is None and not base.factor[:3].any():
            part = replace(part, layers=part.layers[1:])  # black: only the added light is seen
        else:
            same = _summed(part) if part.colours is None else None
            part = _baked(part) if same is None else replace(part, layers=(same,))
    return wrap_part(part)


def _summed(part: Part) -> Layer | None:
    """Two layers whose images lie alike on the surface, as one."""
    base, light = part.layers
    alike = (
        base.image is not None
        and light.image is not None
        and base.uv is not None
        and light.uv is not None
        and base.wrap == light.wrap
        and np.array_equal(base.uv, light.uv)
    )
    if not alike or base.image is None:
        return None
    rows, columns = np.indices(base.image.shape[:2]).reshape(2, -1)
    uv = (np.stack([columns, rows], 1) + 0.5) / base.image.shape[1::-1]
    points, one = np.arange(len(uv)), np.array([[1.0, 0.0, 0.0]]).repeat(len(uv), 0)
    corners = uv[:, None].repeat(3, 1)
    both = [layer_colour(replace(layer, uv=corners), points, one) for layer in (base, light)]
    rgb = encode(both[0][:, :3] + both[1][:, :3])
    alpha = (both[0][:, 3:] * 255).round().astype(np.uint8)
    image = np.concatenate([rgb, alpha], 1).reshape(base.image.shape)
    return replace(base, image=image, factor=np.ones(4))


def _baked(part: Part) -> Part:
    """The part with all its layers and colours in one image."""
    uv, texture = bake(part)
    layer = Layer(np.ones(4), np.dstack([texture, np.full(texture.shape[:2], 255, np.uint8)]), uv)
    return replace(part, layers=(layer,), colours=None)


def _textured(part: Part) -> Textured:
    """A part of one layer, as it is seen."""
    (layer, *more) = part.layers
    varied = part.colours is not None and bool((part.colours != part.colours[:1, :1]).any())
    if layer.image is None or layer.uv is None:
        of_faces = part.colours is None or bool((part.colours == part.colours[:, :1]).all())
        if of_faces:
            light = shade(
                part, np.arange(len(part.faces)), np.array([[1.0, 0, 0]]).repeat(len(part.faces), 0)
            )
            return _palette(part, encode(light[:, :3]))
    if varied or more or layer.image is None or layer.uv is None:
        uv, texture = bake(part)
    else:
        factor = layer.factor[:3] if part.colours is None else layer.factor[:3] * part.colours[0, 0, :3]
        texture, uv = layer.image[..., :3], layer.uv
        if (np.abs(factor - 1) > 1e-6).any():
            texture = encode(decode(texture) * factor.astype(np.float32))
    return welded(part, uv, np.ascontiguousarray(texture))


def _palette(part: Part, colours: Array) -> Textured:
    """Faces of one colour each [F, 3] -> a texture of blocks."""
    key = colours.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    values, index = np.unique(key, return_inverse=True)
    side = int(np.ceil(np.sqrt(len(values))))
    texture = np.zeros((side * side, 3), np.uint8)
    texture[: len(values)] = np.stack([values >> 16, values >> 8 & 255, values & 255], 1)
    block = _BLOCK if side < 1024 else 2
    texture = texture.reshape(side, side, 3).repeat(block, axis=0).repeat(block, axis=1)
    uv = (np.stack([index % side, index // side], axis=-1).reshape(-1, 1, 2) + 0.5) / side
    return welded(part, uv.repeat(3, 1), texture)


def welded(part: Part, uv: Array, texture: Array) -> Textured:
    """Uv of corners [F, 3, 2] -> uv of vertices; vertices with several are repeated, unused ones left out."""
    corners = part.faces.reshape(-1)
    own = np.full((len(part.vertices), 2), np.nan)
    own[corners] = uv.reshape(-1, 2)
    if np.array_equal(own[part.faces], uv):
        used = ~np.isnan(own[:, 0])
        if used.all():
            return Textured(part.vertices, part.faces, own, texture)
        return Textured(part.vertices[used], (np.cumsum(used) - 1)[part.faces], own[used], texture)
    rows = np.concatenate([corners[:, None], uv.reshape(-1, 2)], 1)
    unique, index = np.unique(rows, axis=0, return_inverse=True)
    return Textured(
        part.vertices[unique[:, 0].astype(np.int64)], index.reshape(-1, 3), unique[:, 1:], texture
    )


def _halved(texture: Array) -> Array:
    """Half as large; light, not its code, is averaged."""
    height, width = texture.shape[0] // 2 * 2, texture.shape[1] // 2 * 2
    if min(height, width) < 2:
        return texture[::2, ::2]
    even = decode(texture[:height, :width])
    return encode(even.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3)))


def _atlas(parts: list[Textured]) -> Textured:
    """Several textures -> one; images stand in shelves, each in a gutter of its own edge texels."""
    border = ((_GUTTER, _GUTTER), (_GUTTER, _GUTTER), (0, 0))
    padded = [np.pad(part.texture, border, mode="edge") for part in parts]
    area = sum(p.shape[0] * p.shape[1] for p in padded)
    width = max(max(p.shape[1] for p in padded), int(np.ceil(np.sqrt(area))))
    corners = np.zeros((len(parts), 2), int)
    x = y = shelf = 0
    for i in sorted(range(len(parts)), key=lambda i: -padded[i].shape[0]):
        if x + padded[i].shape[1] > width:
            x, y, shelf = 0, y + shelf, 0
        corners[i] = x, y
        x, shelf = x + padded[i].shape[1], max(shelf, padded[i].shape[0])
    atlas = np.zeros((y + shelf, width, 3), np.uint8)
    faces, uvs, first = [], [], 0
    for part, image, corner in zip(parts, padded, corners, strict=True):
        x, y = corner
        atlas[y : y + image.shape[0], x : x + image.shape[1]] = image
        faces.append(part.faces + first)
        uvs.append((corner + _GUTTER + part.uv * part.texture.shape[1::-1]) / (width, len(atlas)))
        first += len(part.vertices)
    vertices = np.concatenate([part.vertices for part in parts])
    return Textured(vertices, np.concatenate(faces), np.concatenate(uvs), atlas)
