"""Files that a mesh file names: found where they lie, and read within bounds."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

from v3d.errors import V3DError
from v3d.meshes.folders import SCANNED_TEXTURES
from v3d.meshes.reading.parts import Array

MOST_BYTES = 1 << 30
"""A larger file is not read."""
_MOST_PIXELS = 1 << 27
_LARGEST_SIDE = 4096  # pixels; larger textures are reduced while they are read
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "TIFF", "GIF", "PPM")


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        V3DError: it is no ordinary file, too large, or cannot be read.
    """
    if not path.is_file():
        raise V3DError(f"There is no file {path}.")
    if path.stat().st_size > MOST_BYTES:
        raise V3DError(f"{path.name} is larger than {MOST_BYTES >> 30} GB; make a smaller one.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise V3DError(f"{path.name} cannot be read ({error.strerror}).") from None


def find_named(name: str, folder: Path) -> Path | None:
    """The file that a mesh file in `folder` calls `name`, wherever its maker's machine had it.

    Looked for as it is called, and by its last part beside the mesh file, in folders of textures there, and
    where scanned objects keep theirs; upper and lower case do not matter. None where there is none.
    """
    name = re.sub(r"[\0\r\n]", "", name).strip().strip('"').replace("\\", "/")
    for called in dict.fromkeys((name, unquote(name))):
        last = called.rsplit("/", 1)[-1].casefold()
        if not last:
            continue
        if os.path.isfile(folder / called):
            return folder / called
        places = (folder, folder / "textures", folder / "texture", folder.parent / SCANNED_TEXTURES)
        for place in places:
            if os.path.isdir(place):
                for file in sorted(place.iterdir()):
                    if file.name.casefold() == last and os.path.isfile(file):
                        return file
    return None


def read_image(data: bytes) -> Array:
    """An image file's bytes -> [H, W, 4] uint8, sRGB with straight alpha, at most 4096 pixels a side.

    Raises:
        V3DError: it is no image, broken, or too large.
    """
    if data.startswith(b"\xabKTX"):
        raise V3DError("it is compressed as KTX2 (Basis), which V3D does not read; convert it to PNG")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise V3DError(f"it has {opened.width} x {opened.height} pixels; make it smaller")
            opened.draft("RGB", (_LARGEST_SIDE, _LARGEST_SIDE))
            image: Image.Image = opened
            if image.mode.startswith("I"):  # 16 bits
                image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
            if max(image.size) > _LARGEST_SIDE:
                image = image if image.mode in {"RGB", "RGBA", "L"} else image.convert("RGBA")
                image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
            return np.asarray(image.convert("RGBA"))
    except V3DError:
        raise
    except Exception as error:  # decoders of broken files fail in every imaginable way
        raise V3DError(f"it is broken or no image ({type(error).__name__})") from None
