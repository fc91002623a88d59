"""How much memory a reconstruction takes, known before it begins, so that it is refused and not killed."""

from __future__ import annotations

from math import sqrt

from v3d.errors import V3DError
from v3d.objects.presets import Preset
from v3d.runtime import memory_bytes

_PROGRAM = 700e6  # bytes of libraries, compiled kernels and the stages that do not grow with the views
_PER_PIXEL = 52  # bytes of views as they are read, placed and looked up
_PER_REFINED_PIXEL = 100  # the refinement keeps which texels the rays read that hit; up to 0.4 of them do
_PER_REFINED_TEXEL = 4  # and how much of every texel each view sees

_MOST = 3e9  # bytes that a reconstruction may take before its views are reduced further
_USUAL_PIXELS = 18 * 1024**2  # of all views of an orbit at the largest size; these are never reduced further


def affordable_side(views: int, width: int, height: int, preset: Preset) -> tuple[int, tuple[str, ...]]:
    """Pixels of the longer side at which so many views are read, so that memory does not grow with them.

    Usually `preset.largest_view`. Many views share what 3 GB hold, or an orbit's 18 views of 1024 x 1024
    where that is more: the more there are, the smaller each is read.

    Args:
        views: how many.
        width, height: of each as `preset.largest_view` leaves them, in pixels.
        preset: what the quality means.

    Returns:
        The longer side, and a note for the user where it is less than the preset's.
    """
    pixels = max(_USUAL_PIXELS, (_MOST - _PROGRAM) / _bytes_per_pixel(preset))
    scale = sqrt(pixels / (views * width * height))
    if scale >= 1:
        return preset.largest_view, ()
    side = max(1, int(max(width, height) * scale))
    note = f"The {views} views were reduced to {side} pixels along their longer side, to save memory."
    return side, (note,)


def estimate_bytes(views: int, width: int, height: int, preset: Preset) -> float:
    """Bytes of memory that a reconstruction takes at its peak, roughly: measured, and rounded up.

    Args:
        views: how many.
        width, height: of each as it is read, in pixels.
        preset: what the quality means.
    """
    texels = 0 if preset.refine is None else views * preset.texture_size**2
    return _PROGRAM + views * width * height * _bytes_per_pixel(preset) + texels * _PER_REFINED_TEXEL


def _bytes_per_pixel(preset: Preset) -> float:
    return _PER_PIXEL + (0 if preset.refine is None else _PER_REFINED_PIXEL)


def reserve(views: int, width: int, height: int, preset: Preset) -> int:
    """The MB that a reconstruction will take, see `estimate_bytes`, if there are so many.

    Raises:
        V3DError: this machine, or the container, has less memory.
    """
    needed, here = estimate_bytes(views, width, height, preset), memory_bytes()
    if here is not None and needed > here:
        lower = "" if preset.refine is None else " or choose --quality draft"
        raise V3DError(
            f"{views} views of {width} x {height} pixels take about {needed / 1e9:.1f} GB of memory; "
            f"{here / 1e9:.1f} GB are here: give fewer or smaller views,{lower} or use a larger machine."
        )
    return round(needed / 1e6)
