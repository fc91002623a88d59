"""Mesh files of other programs -> arrays of one mesh with one texture.

The scene graph is baked into the vertices; materials and plain colours become an atlas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from v3d.errors import V3DError
from v3d.meshes.folders import FORMATS, SCANNED_TEXTURES

_LARGEST_TILED = 4096  # pixels; textures that repeat further are wrapped vertex by vertex instead
_GUTTER = 2  # replicated texels around every image of an atlas

Array = np.ndarray
Part = tuple[Array, Array, Array, Array]
"""Vertices [P, 3], faces [F, 3], uv [P, 2] (v down) and texture [T, T', 3] uint8."""


def import_mesh(path: Path) -> tuple[Array, Array, Array | None, Array | None]:
    """Read a mesh file: vertices [P, 3], faces [F, 3], uv [P, 2] (v down) and texture [T, T', 3] uint8.

    Vertices have the file's axes. Where the file has no colours, uv and texture are None.

    Raises:
        V3DError: the file is missing, unreadable or holds no triangles.
    """
    if path.suffix.lower() not in FORMATS:
        raise V3DError(f"{path.name} is not a mesh file V3D reads; use one of {', '.join(FORMATS)}.")
    if not path.is_file():
        raise V3DError(f"There is no mesh file {path}.")
    try:
        scene: Any = trimesh.load(path, force="scene", process=False, resolver=_Beside(str(path)))
        geometries = [
            (scene.geometry[name], transform)
            for transform, name in (scene.graph[node] for node in scene.graph.nodes_geometry)
            if isinstance(scene.geometry[name], trimesh.Trimesh) and len(scene.geometry[name].faces)
        ]
        coloured = any(geometry.visual.defined for geometry, _ in geometries)
        # glTF stores plain colours as linear light; the other formats mean them as they look.
        linear = path.suffix.lower() in {".glb", ".gltf"}
        parts = [_part(geometry, transform, linear) for geometry, transform in geometries]
    except Exception as error:  # parsers of broken files fail in every imaginable way
        raise V3DError(f"{path.name} is broken or not a mesh file ({error}).") from error
    if not parts:
        raise V3DError(f"{path.name} holds no triangles.")
    vertices, faces, uv, texture = parts[0] if len(parts) == 1 else _atlas(parts)
    if not np.isfinite(vertices).all():
        raise V3DError(f"{path.name} has vertices that are not finite numbers.")
    return (vertices, faces, uv, texture) if coloured else (vertices, faces, None, None)


class _Beside(trimesh.resolvers.FilePathResolver):
    """Finds the files that a mesh names: beside it, or where scanned objects keep their textures."""

    def get(self, name: str) -> bytes:
        try:
            return bytes(super().get(name))
        except (OSError, ValueError):
            return (Path(self.parent).parent / SCANNED_TEXTURES / Path(name.strip()).name).read_bytes()


def _part(geometry: Any, transform: Array, linear: bool) -> Part:
    """One geometry of the scene graph, placed in the world."""
    vertices, faces = np.asarray(geometry.vertices), np.asarray(geometry.faces)
    vertices, faces, uv, texture = _colour(geometry.visual, vertices, faces, linear)
    if not np.array_equal(transform, np.eye(4)):
        vertices = vertices @ transform[:3, :3].T + transform[:3, 3]
        if np.linalg.det(transform[:3, :3]) < 0:
            faces = faces[:, ::-1]  # a mirror turns triangles inside out
    return vertices, faces, *_untile(uv, texture)


def _colour(visual: Any, vertices: Array, faces: Array, linear: bool) -> Part:
    """The geometry with a uv and a texture, whatever its colours were made of."""
    material = getattr(visual, "material", None)
    if material is None:
        colours = np.asarray(visual.face_colors)[:, :3]
        if linear:
            colours = _encode(colours / 255.0)
        return _palette(vertices, faces, colours)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    factor = getattr(material, "baseColorFactor", None)
    diffuse = getattr(material, "diffuse", None)
    if image is None or visual.uv is None:
        if factor is not None:
            colour = _encode(np.asarray(factor)[:3] / 255.0)
        else:
            colour = np.asarray([255, 255, 255] if diffuse is None else diffuse)[:3]
        return _palette(vertices, faces, np.broadcast_to(colour, (len(faces), 3)))
    texture = np.asarray(image.convert("RGB"))
    if factor is not None and not np.all(np.asarray(factor)[:3] == 255):
        texture = _encode(_decode(texture) * (np.asarray(factor)[:3] / 255.0))
    uv = np.asarray(visual.uv, dtype=np.float64)[:, :2]
    return vertices, faces, np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1), texture


def _palette(vertices: Array, faces: Array, colours: Array) -> Part:
    """Faces of one colour each -> a texture of 4 x 4 blocks; vertices between colours are repeated."""
    palette, index = np.unique(colours.astype(np.uint8), axis=0, return_inverse=True)
    index = index.reshape(-1)
    side = int(np.ceil(np.sqrt(len(palette))))
    texture = np.zeros((side * side, 3), np.uint8)
    texture[: len(palette)] = palette
    texture = texture.reshape(side, side, 3).repeat(4, axis=0).repeat(4, axis=1)
    key, corner = np.unique(faces * len(palette) + index[:, None], return_inverse=True)
    vertex, colour = np.divmod(key, len(palette))
    uv = (np.stack([colour % side, colour // side], axis=1) + 0.5) / side
    return vertices[vertex], corner.reshape(-1, 3), uv, texture


def _untile(uv: Array, texture: Array) -> tuple[Array, Array]:
    """Repeat the texture as often as the uv asks for, so that uv stays in [0, 1]."""
    if len(uv) == 0 or (uv.min() >= -1e-4 and uv.max() <= 1 + 1e-4):
        return uv.clip(0, 1), texture
    uv = uv - np.floor(uv.min(0) + 1e-4)
    columns, rows = np.maximum(np.ceil(uv.max(0) - 1e-4).astype(int), 1)
    if max(columns * texture.shape[1], rows * texture.shape[0]) > _LARGEST_TILED:
        return uv % 1, texture
    return (uv / (columns, rows)).clip(0, 1), np.tile(texture, (rows, columns, 1))


def _atlas(parts: list[Part]) -> Part:
    """Several textured parts -> one; images stand in shelves, each in a gutter of its own edge texels."""
    padded = [np.pad(t, ((_GUTTER, _GUTTER), (_GUTTER, _GUTTER), (0, 0)), mode="edge") for *_, t in parts]
    width = max(
        max(p.shape[1] for p in padded), int(np.ceil(np.sqrt(sum(p.shape[0] * p.shape[1] for p in padded))))
    )
    corners = np.zeros((len(parts), 2), int)
    x = y = shelf = 0
    for i in sorted(range(len(parts)), key=lambda i: -padded[i].shape[0]):
        if x + padded[i].shape[1] > width:
            x, y, shelf = 0, y + shelf, 0
        corners[i] = x, y
        x, shelf = x + padded[i].shape[1], max(shelf, padded[i].shape[0])
    atlas = np.zeros((y + shelf, width, 3), np.uint8)
    size = np.array([width, y + shelf])
    vertices, faces, uvs, first = [], [], [], 0
    for (v, f, uv, texture), image, (x, y) in zip(parts, padded, corners, strict=True):
        atlas[y : y + image.shape[0], x : x + image.shape[1]] = image
        vertices.append(v)
        faces.append(f + first)
        uvs.append((np.array([x, y]) + _GUTTER + uv * texture.shape[1::-1]) / size)
        first += len(v)
    return np.concatenate(vertices), np.concatenate(faces), np.concatenate(uvs), atlas


def _decode(srgb: Array) -> Array:
    """sRGB bytes -> linear light in [0, 1]."""
    x = srgb / 255.0
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def _encode(light: Array) -> Array:
    """Linear light in [0, 1] -> sRGB bytes."""
    x = np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    return (x.clip(0, 1) * 255).round().astype(np.uint8)
