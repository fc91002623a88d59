"""Materials of OBJ files (.mtl) -> the colours they show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from v3d.errors import V3DError
from v3d.meshes.reading.named_files import find_named, read_bytes, read_image
from v3d.meshes.reading.parts import Array, linear

_WORDS = r"blendu|blendv|cc|clamp|imfchan|type"
_OPTION = re.compile(rf"-(?:({_WORDS})\s+(\S+)|([a-z]+)((?:\s+[-+.\d][-+.\deE]*)+))\s+", re.IGNORECASE)
_CUT = 0.5


@dataclass(frozen=True)
class ObjMaterial:
    """A material.

    Attributes:
        colour: [3] linear, or None where the file says none.
        image: [T, T', 4] uint8, or None.
        scale, offset: uv of the image are uv * scale + offset, v up.
        clamp: beyond its borders the image does not repeat.
        cutoff: least alpha of what is surface, None where all is.
    """

    colour: Array | None = None
    image: Array | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clamp: bool = False
    cutoff: float | None = None


def read_mtl(path: Path, folder: Path, notes: dict[str, None]) -> dict[str, ObjMaterial]:
    """The materials of a file by name; what is missing goes into `notes`.

    Args:
        path: the .mtl.
        folder: of the OBJ, where textures are looked for too.
        notes: sentences in order.
    """
    entries: dict[str, dict[str, str]] = {}
    entry: dict[str, str] = {}
    for line in read_bytes(path).decode("utf-8-sig", "replace").splitlines():
        key, _, value = line.strip().partition(" " if " " in line.strip() else "\t")
        if key.lower() == "newmtl":
            entry = entries.setdefault(value.strip(), {})
        else:
            entry[key.lower()] = value.strip()
    images: dict[str, Array | None] = {}

    def image(name: str) -> Array | None:
        if name not in images:
            images[name] = _image(name, path.parent, folder, notes)
        return images[name]

    return {name: _material(entry, image, notes) for name, entry in entries.items()}


def _material(entry: dict[str, str], image: object, notes: dict[str, None]) -> ObjMaterial:
    assert callable(image)
    texture, scale, offset, clamp = _map(entry.get("map_kd", ""))
    pixels: Array | None = image(texture) if texture else None
    colour = _colour(entry["kd"]) if "kd" in entry else None
    cutoff = None
    if "map_d" in entry:
        mask = image(_map(entry["map_d"])[0])
        if mask is not None and pixels is not None:
            pixels, cutoff = _masked(pixels, mask), _CUT
        elif mask is not None:
            notes["a map of transparency without a texture is left out"] = None
    opaque = _number(entry.get("d", "1")) if "d" in entry else 1 - _number(entry.get("tr", "0"))
    if opaque < 1:
        notes["what is half transparent is shown as solid"] = None
    if texture and pixels is None and colour is not None and np.ptp(colour) < 0.01:
        colour = None  # the grey that stands beside every texture says nothing
    return ObjMaterial(colour, pixels, scale, offset, clamp, cutoff)


def _map(value: str) -> tuple[str, tuple[float, float], tuple[float, float], bool]:
    """`-s 2 2 1 -o .5 0 0 -clamp on file name.png` -> the name, scale, offset, clamp."""
    scale, offset, clamp = (1.0, 1.0), (0.0, 0.0), False
    while match := _OPTION.match(value):
        word, said, option, numbers = match.groups()
        values = [_number(x) for x in (numbers or "").split()]
        if word and word.lower() == "clamp":
            clamp = said.lower() == "on"
        elif option and option.lower() == "s":
            scale = (values[0], values[1] if len(values) > 1 else 1.0)
        elif option and option.lower() == "o":
            offset = (values[0], values[1] if len(values) > 1 else 0.0)
        value = value[match.end() :]
    return value.strip(), scale, offset, clamp


def _image(name: str, beside: Path, folder: Path, notes: dict[str, None]) -> Array | None:
    path = find_named(name, beside) or find_named(name, folder)
    if path is None:
        notes[f"the texture {name[-80:]} is missing"] = None
        return None
    try:
        return read_image(read_bytes(path))
    except V3DError as error:
        notes[f"the texture {path.name} is left out: {error}"] = None
        return None


def _masked(pixels: Array, mask: Array) -> Array:
    """The pixels with the mask's alpha, or its brightness where it has none."""
    alpha = mask[..., 3] if mask[..., 3].min() < 255 else mask[..., :3].mean(-1).astype(np.uint8)
    rows = np.arange(pixels.shape[0]) * alpha.shape[0] // pixels.shape[0]
    columns = np.arange(pixels.shape[1]) * alpha.shape[1] // pixels.shape[1]
    return np.dstack([pixels[..., :3], alpha[rows][:, columns]])


def _colour(value: str) -> Array | None:
    numbers = [_number(x) for x in value.split()[:3]]
    if len(numbers) == 1:
        numbers *= 3
    return linear(np.array(numbers)) if len(numbers) == 3 else None  # `spectral` and `xyz` are rare


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 1.0
    return number if np.isfinite(number) and abs(number) < 1e6 else 1.0
