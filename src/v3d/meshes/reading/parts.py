"""What every reader makes of a file: parts, each one piece of geometry with one material."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from v3d.errors import V3DError

Array = np.ndarray

MOST_ELEMENTS = 12_000_000
"""Vertices or triangles of one mesh; a file that claims more is refused before memory is asked for."""


@dataclass(frozen=True)
class Layer:
    """A colour of a surface: an image times a factor.

    Attributes:
        factor: [4] linear RGBA in [0, 1].
        image: [T, T', 4] uint8, sRGB-encoded with straight alpha, or None for the factor alone.
        uv: [F, 3, 2] place of every face's corners in the image, v down; None without an image.
        wrap: what is left and right, above and below of the image: "repeat", "clamp" or "mirror".
    """

    factor: Array
    image: Array | None = None
    uv: Array | None = None
    wrap: tuple[str, str] = ("repeat", "repeat")


@dataclass(frozen=True)
class Part:
    """Triangles of one material.

    Attributes:
        vertices: [P, 3] float64.
        faces: [F, 3] int64.
        layers: the base colour, and the light that the surface gives off, which is added.
        colours: [F, 3, 4] float32 linear RGBA of the faces' corners, which multiplies the base; or None.
        cutoff: least alpha of what is surface; None where all is.
        coloured: the file says what colour this is.
        uv: [F, 3, 2] the file's (first) texture coordinates of the faces' corners, v down, whether a texture
            uses them or not; None where it has none.
        material: number of the material in its file; -1 for none.
    """

    vertices: Array
    faces: Array
    layers: tuple[Layer, ...]
    colours: Array | None = None
    cutoff: float | None = None
    coloured: bool = True
    uv: Array | None = None
    material: int = -1

    @property
    def corners(self) -> Array:
        """[F, 3, 3] positions of the faces' corners."""
        corners: Array = self.vertices[self.faces]
        return corners


def check_triangles(vertices: Array, faces: Array) -> None:
    """Refuse what is no list of triangles in space.

    Raises:
        V3DError: vertices are not [P, 3], faces not [F, 3], or a face names a vertex that is not there.
    """
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise V3DError("its vertices do not have three coordinates")
    if len(faces) and (faces.ndim != 2 or faces.shape[1] != 3):
        raise V3DError("its faces are no triangles")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        wrong = faces.min() if faces.min() < 0 else faces.max()
        raise V3DError(f"a face names vertex {wrong} of {len(vertices)}")


def fans(corners: Array, sizes: Array) -> tuple[Array, Array]:
    """Polygons -> the triangles that fan out from each one's first corner.

    Args:
        corners: [C, ...] something of every corner, polygon by polygon.
        sizes: [N] how many corners each polygon has.

    Returns:
        the same of the triangles' corners [F, 3, ...], and the polygon of each triangle [F].
    """
    triangles = np.maximum(sizes - 2, 0)
    first = np.repeat(np.cumsum(sizes) - sizes, triangles)
    step = np.arange(triangles.sum()) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    fanned = corners[np.stack([first, first + step + 1, first + step + 2], 1)]
    return fanned, np.repeat(np.arange(len(sizes)), triangles)


def plain(colour: Array | tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> Layer:
    """One linear colour, RGB or RGBA."""
    rgba = np.ones(4)
    rgba[: len(colour)] = colour
    return Layer(rgba.clip(0, 1))


def decode(srgb: Array) -> Array:
    """sRGB bytes -> linear light in [0, 1], float32."""
    light: Array = _LIGHT[srgb]
    return light


def encode(light: Array) -> Array:
    """Linear light -> sRGB bytes; what is outside [0, 1] is clipped."""
    x = np.asarray(light, np.float64).clip(0, 1)
    srgb = np.where(x <= 0.0031308, x * 12.92, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
    encoded: Array = (srgb * 255).round().astype(np.uint8)
    return encoded


def linear(srgb: Array) -> Array:
    """sRGB values in [0, 1] -> linear light."""
    x = np.asarray(srgb, np.float64).clip(0, 1)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


_LIGHT = linear(np.arange(256) / 255).astype(np.float32)
