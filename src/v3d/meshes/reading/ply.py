"""PLY, the scanner's format -> parts, one for every texture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from v3d.errors import V3DError
from v3d.meshes.reading.named_files import find_named, read_bytes, read_image
from v3d.meshes.reading.parts import Array, Layer, Part, check_triangles, fans, linear, plain
from v3d.meshes.reading.ply_table import Columns, Lists, read_table

_UV = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"))
_CHANNELS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))


def read_ply(path: Path) -> tuple[list[Part], list[str]]:
    """The parts of a PLY file with their textures, or the colours of its faces or vertices, and notes.

    Uv may belong to vertices or to faces' corners (`texcoord`), textures to faces (`texnumber`); polygons
    become fans.

    Raises:
        V3DError: the file is broken.
    """
    table, comments = read_table(read_bytes(path))
    vertex, face = table.get("vertex", {}), table.get("face", {})
    polygons = face.get("vertex_indices", face.get("vertex_index"))
    if not isinstance(polygons, Lists):
        return [], []
    vertices = np.stack([_numbers(vertex, name) for name in "xyz"], 1).astype(np.float64)
    corners = polygons.values.astype(np.int64)
    faces, polygon = fans(corners, polygons.sizes)
    check_triangles(vertices, faces)
    notes: list[str] = []
    images = [_image(name, path.parent, notes) for c in comments if (name := _texture_name(c))]
    uv = _uv(vertex, face, polygons, faces)
    if uv is not None and any(image is not None for image in images):
        number = np.zeros(len(polygons.sizes), np.int64)
        if "texnumber" in face and len(images) > 1:
            number = _numbers(face, "texnumber").astype(np.int64).clip(0, len(images) - 1)
        parts = []
        for k in np.unique(number[polygon]):
            chosen, image = number[polygon] == k, images[k]
            layer = plain() if image is None else Layer(np.ones(4), image, uv[chosen])
            coloured = image is not None
            parts.append(Part(vertices, faces[chosen], (layer,), None, None, coloured, uv[chosen], int(k)))
        return parts, notes
    colours = _colours(face)
    if colours is not None:
        colours = np.repeat(colours[polygon][:, None], 3, 1)
    elif (own := _colours(vertex)) is not None:
        colours = own[faces]
    return [Part(vertices, faces, (plain(),), colours, None, colours is not None, uv)], notes


def _numbers(columns: Columns, name: str) -> Array:
    values = columns.get(name)
    if values is None or isinstance(values, Lists):
        raise V3DError(f"its elements have no `{name}`")
    return values


def _uv(vertex: Columns, face: Columns, polygons: Lists, faces: Array) -> Array | None:
    """Uv of the triangles' corners [F, 3, 2], v down, or None."""
    wedges = face.get("texcoord")
    if isinstance(wedges, Lists) and np.array_equal(wedges.sizes, 2 * polygons.sizes):
        uv = fans(wedges.values.reshape(-1, 2).astype(np.float64), polygons.sizes)[0]
    else:
        names = next((pair for pair in _UV if set(pair) <= set(vertex)), None)
        if names is None:
            return None
        uv = np.stack([_numbers(vertex, name) for name in names], 1).astype(np.float64)[faces]
    return np.stack([uv[..., 0], 1 - uv[..., 1]], -1)


def _texture_name(comment: str) -> str:
    match = re.match(r"TextureFile\s+(.+)", comment, re.IGNORECASE)
    return match[1].strip() if match else ""


def _image(name: str, folder: Path, notes: list[str]) -> Array | None:
    path = find_named(name, folder)
    if path is None:
        notes.append(f"the texture {name[-80:]} is missing")
        return None
    try:
        return read_image(read_bytes(path))
    except V3DError as error:
        notes.append(f"the texture {path.name} is left out: {error}")
        return None


def _colours(columns: Columns) -> Array | None:
    """Colours as they look, of whole numbers or of floats to 1 or to 255 -> linear RGBA [N, 4]; or None."""
    names = next((three for three in _CHANNELS if set(three) <= set(columns)), None)
    if names is None:
        return None
    values = np.stack([_numbers(columns, name) for name in names], 1).astype(np.float64)
    if not np.isfinite(values).all():
        raise V3DError("it has colours that are not finite numbers")
    most = values.max(initial=0)
    whole = np.array_equal(values, values.round())
    values = values / (65535 if most > 255 else 255 if most > 1 or whole else 1)
    rgba = np.ones((len(values), 4), np.float32)
    rgba[:, :3] = linear(values)
    return rgba
