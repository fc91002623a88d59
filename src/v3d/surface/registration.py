"""Photos of one object, each framed on its own, brought to one scale by their outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from v3d.framing import BORDER_RATIO, MAX_FILL, visible_box, window


@dataclass(frozen=True)
class Registered:
    """Photos of one scale.

    Attributes:
        photos: [S, S, 4] each, straight alpha, in [0, 1]: framed as views of a training orbit are.
        notes: what the user should know, one sentence each.
    """

    photos: tuple[Tensor, ...]
    notes: tuple[str, ...] = ()


def register_photos(
    photos: Sequence[Tensor], azimuths: Sequence[float], *, elevation: float = 0.0
) -> Registered:
    """Frame the photos so that the object is of one height in all, in the middle of each."""
    if len(photos) == 1:
        return Registered(tuple(photos))
    boxes = [visible_box(photo[..., 3]) for photo in photos]
    heights = [bottom - top for _, top, _, bottom in boxes]
    fills = [max(1.0, (right - left) / (bottom - top)) for left, top, right, bottom in boxes]
    side = max(fills[0] / (1 - BORDER_RATIO), max(fills) / MAX_FILL)  # in heights of the object
    framed = []
    for photo, (left, top, right, bottom), height in zip(photos, boxes, heights, strict=True):
        size = round(side * height)
        framed.append(window(photo, (left + right - size) // 2, (top + bottom - size) // 2, size))
    return Registered(tuple(framed))
