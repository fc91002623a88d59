"""Image files of any kind -> sRGB with straight alpha, in bounded memory."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from v3d.distribution import install_hint
from v3d.errors import V3DError
from v3d.framing import MAX_SIZE
from v3d.text_files import shown

MAX_PIXELS = 450_000_000  # of a file; decoding takes up to 4 bytes each
_MOST_OF_MANY = 120_000_000  # pixels of each photo of a capture: under a gigabyte while it is decoded
# The decoders that are tried, whatever a file's name says. Pillow has others, and one runs scripts (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
_ORIENTATION = 0x0112


def existing(path: str | Path) -> Path:
    """The path of a photo, if it is a file.

    Raises:
        V3DError: there is no such file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise V3DError(f"{path} is a folder; name its photos: {path / '*.png'}.")
        found = path.is_file()
    except (OSError, ValueError):  # no file can have such a name
        found = False
    if not found:
        raise V3DError(f"There is no photo {shown(path)}.")
    return path


def image_size(path: str | Path, *, upright: bool = True) -> tuple[int, int]:
    """Width and height in pixels as `read_image` returns them without `max_side`, from a file's first bytes.

    Args:
        upright: of the photo turned as its orientation tag says; otherwise as it is stored.

    Raises:
        V3DError: the file is missing or not an image.
    """
    path = existing(path)
    try:
        with _bomb_check_off(), Image.open(path, formats=_formats(path)) as file:
            turned = upright and _orientation(file) >= 5  # by a quarter
            return file.size[::-1] if turned else file.size
    except V3DError:
        raise
    except Exception as error:  # decoders raise whatever they like on broken files
        raise _no_image(path) from error


def check_size(path: Path, size: tuple[int, int]) -> None:
    """Refuse a photo or mask of a capture that is larger than those that cameras take.

    Raises:
        V3DError: it has more than 120 million pixels.
    """
    if size[0] * size[1] > _MOST_OF_MANY:
        raise V3DError(
            f"{path} has {size[0]} x {size[1]} pixels, more than the {_MOST_OF_MANY // 10**6} million that a "
            "photo of a capture may have; make it smaller first."
        )


def read_image(
    path: str | Path, max_side: int | None = MAX_SIZE, *, upright: bool = True
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Read an image file as sRGB [H, W, 4] float32 in [0, 1] (straight alpha).

    Args:
        path: the image file.
        max_side: larger images are reduced by a whole factor, while they are decoded, so that memory stays
            bounded; None keeps every pixel.
        upright: turn the photo as its orientation tag says; otherwise leave it as it is stored.

    Returns:
        The image, and warnings, one sentence each.

    Raises:
        V3DError: the file is missing, not an image, broken, or has more than 450 million pixels.
    """
    path = existing(path)
    try:
        with _bomb_check_off(), Image.open(path, formats=_formats(path)) as file:
            image: Image.Image = file
            if max_side is not None:
                file.draft(None, (max_side, max_side))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise V3DError(
                    f"{path.name} has {width} x {height} pixels, more than the {MAX_PIXELS // 10**6} million "
                    "that can be read; make it smaller first."
                )
            orientation = _orientation(file) if upright else 1
            profile = image.info.get("icc_profile")
            image.load()
            image = image if max_side is None else _reduced(image, max_side)
            image, notes = _eight_bit(image)
            image, warnings = _srgb(image, profile)
    except V3DError:
        raise
    except UnidentifiedImageError as error:
        raise _no_image(path) from error
    except MemoryError as error:
        raise V3DError(
            f"{path.name} is too large for this computer's memory; make it smaller first."
        ) from error
    except PermissionError as error:
        raise V3DError(f"{path} cannot be read: permission denied.") from error
    except Exception as error:  # decoders raise whatever they like on broken files
        raise V3DError(f"{path.name} is damaged or cut short ({error}); save it again.") from error
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    image.info["exif"] = exif.tobytes()
    image = ImageOps.exif_transpose(image)
    return np.asarray(image, np.float32) / np.float32(255), notes + warnings


def _formats(path: Path) -> tuple[str, ...]:
    """The decoders for a file: `FORMATS`, AVIF where Pillow has it, HEIC where pillow-heif is installed.

    Raises:
        V3DError: the file needs a decoder that is not installed.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if start[4:8] != b"ftyp":
        return FORMATS
    if start[8:12] in (b"avif", b"avis"):
        if "AVIF" in Image.registered_extensions().values():
            return ("AVIF",)
        raise V3DError(f"{path.name} is an AVIF photo: update Pillow, or save it as JPEG or PNG.")
    if find_spec("pillow_heif") is None:
        raise V3DError(f"{path.name} is a HEIC photo: run {install_hint('heif')}, or save it as JPEG or PNG.")
    import pillow_heif  # optional

    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _no_image(path: Path) -> V3DError:
    return V3DError(
        f"{path.name} is not an image that can be read; give a PNG, JPEG, WebP, HEIC, AVIF, TIFF or GIF file."
    )


def _orientation(file: Image.Image) -> int:
    """The orientation tag, 1 to 8; 1, upright as stored, where it is none of these."""
    tag = file.getexif().get(_ORIENTATION, 1)
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def _reduced(image: Image.Image, max_side: int) -> Image.Image:
    """The image at no more than `max_side` pixels a side; colours are weighted with alpha where there is any.

    Whole factors are taken strip by strip, so that memory stays bounded.
    """
    factor = max(image.size) // max_side
    convert = {"P": "RGBA", "PA": "RGBA", "1": "L", "I;16": "I", "I;16L": "I", "I;16B": "I"}
    if factor >= 2:
        width, height = image.size
        starts = range(0, height, 256 * factor)
        strips = [image.crop((0, top, width, min(top + 256 * factor, height))) for top in starts]
        strips = [strip.convert(convert.get(strip.mode, strip.mode)).reduce(factor) for strip in strips]
        image = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
        for i, strip in enumerate(strips):
            image.paste(strip, (0, 256 * i))
    if max(image.size) > max_side:
        image = image.convert(convert.get(image.mode, image.mode))
        image.thumbnail((max_side, max_side))
    return image


def _eight_bit(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Integer and float images of more than 8 bits as L, palettes as RGBA, any other mode as it is; warnings.

    Cameras and scanners keep 10, 12 or 14 bits in 16, so the smallest of these that holds an image's values
    is taken for its range.
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, np.float32))
        top = float(values.max(initial=0))
        # What lies above full scale was scaled some other way.
        ranges = (1.0, 255.0) if image.mode == "F" else (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
        scale = next((s for s in ranges if top <= s), top)
        bits = round(math.log2(scale + 1))
        note = (f"The photo's values end at {top:.0f} of 65535, so they were taken for {bits} bits.",)
        grey = Image.fromarray((values.clip(0) / scale * 255).round().astype(np.uint8))
        return grey, note if image.mode != "F" and scale < 65535 else ()
    if image.mode in ("P", "PA") or "transparency" in image.info:
        return image.convert("RGBA"), ()
    return (image.convert("L") if image.mode == "1" else image), ()


def _srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, tuple[str, ...]]:
    """The image as RGBA in sRGB, and warnings: a profile that cannot be applied is left out with one."""
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colour = image.convert({"RGBA": "RGB", "LA": "L", "RGBX": "RGB"}.get(image.mode, image.mode))
    warnings: tuple[str, ...] = ()
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                colour, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            assert converted is not None
            colour = converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            warnings = ("The photo's colour profile cannot be used; its colours were taken as sRGB.",)
    colour = colour.convert("RGB").convert("RGBA")
    if alpha is not None:
        colour.putalpha(alpha)
    return colour, warnings


_LOCK = threading.Lock()


@contextmanager
def _bomb_check_off() -> Iterator[None]:
    """Pillow refuses some sizes that we can reduce safely; `MAX_PIXELS` takes the place of its limit."""
    with _LOCK:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
