"""Masks of an object: where they lie beside its photos, and what their values mean.

People save them with values 0 and 1 or 0 and 255, as grey, colours of a palette, or alpha; beside photos that
were reduced; as NAME.png or, for COLMAP, NAME.jpg.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from v3d.callbacks import Warn
from v3d.capture.images import check_size, image_size, read_image
from v3d.capture.photo_files import SUFFIXES
from v3d.capture.posed import PosedPhoto, same_shape
from v3d.errors import V3DError
from v3d.text_files import regular_file

_FOLDERS = ("masks", "mask", "images_masks", "images_mask", "object_masks")
_LEVELS = 3  # folders above a photo in which one with masks may lie
_LARGER = 16  # times its photo's side: more is no mask of it
_INVERTED_BORDER, _INVERTED_INSIDE = 0.98, 0.01
_TWO_VALUES = 0.98  # share of the pixels that are 0 or the largest value in a mask of two

Mask = NDArray[np.float32]


def with_masks(photos: Sequence[PosedPhoto], warn: Warn) -> list[PosedPhoto]:
    """The photos, with the masks that lie beside them where their format names none.

    A folder `masks`, `mask`, `images_masks`, ... beside the photos or the folder that they are in. Where it
    has masks for some photos, it should have them for all: the others' names are those that are missing.

    Args:
        photos: of one capture.
        warn: told where masks were found.
    """
    if any(photo.mask is not None for photo in photos):
        return list(photos)
    found = [_beside(photo.file) for photo in photos]
    folder = next((mask.parent for mask in found if mask is not None), None)
    if folder is None:
        return list(photos)
    warn(f"The masks in {folder} say where the object is.")
    return [
        replace(photo, mask=folder / f"{photo.file.stem}.png" if mask is None else mask)
        for photo, mask in zip(photos, found, strict=True)
    ]


def read_mask(photo: PosedPhoto, width: int, height: int, max_side: int) -> Mask:
    """The mask of a photo [height, width] in [0, 1], 1 where it is white (or opaque).

    Args:
        photo: that has a mask.
        width, height: of the photo as it was read.
        max_side: larger masks are reduced to about this many pixels as they are decoded.

    Raises:
        V3DError: the mask is missing or broken, has another shape than the photo, or is far larger.
    """
    file = photo.mask
    assert file is not None
    if not file.exists():
        raise V3DError(f"The mask {file} of the photo {photo.file.name} does not exist.")
    size = image_size(regular_file(file), upright=False)
    check_size(file, size)
    if not same_shape(size, (width, height)):
        raise V3DError(f"The mask {file.name} and {photo.file} differ in shape.")
    if max(size) > _LARGER * max(photo.size()):
        raise V3DError(f"The mask {file.name} is more than {_LARGER} times as large as {photo.file}.")
    mask = mask_values(read_image(file, max_side, upright=False)[0])
    if mask.shape != (height, width):
        larger = mask.shape[0] > height or mask.shape[1] > width
        interpolation = cv2.INTER_AREA if larger else cv2.INTER_LINEAR
        mask = np.asarray(cv2.resize(mask, (width, height), interpolation=interpolation), np.float32)
    return mask


def upright_masks(masks: Sequence[Mask], warn: Warn) -> list[Mask]:
    """Masks that show the object in white: all are inverted where they show it in black without doubt.

    Without doubt: every mask is white along its whole border and black inside.

    Args:
        masks: of one capture.
        warn: told that they were inverted, or that they may have to be.
    """
    borders = [_border(mask) for mask in masks]
    inside = [float((mask < 0.5).mean()) for mask in masks]
    if min(borders) >= _INVERTED_BORDER and min(inside) >= _INVERTED_INSIDE:
        warn("The masks show the object in black on white; they were inverted.")
        return [1 - mask for mask in masks]
    if float(np.mean(borders)) > 0.5:
        warn(
            "The masks are white along most of the photos' borders; if they show the object in black, invert "
            "them."
        )
    return list(masks)


def _beside(photo: Path) -> Path | None:
    """The mask of a photo in one of the usual folders."""
    names = [f"{photo.name}.png", *(photo.stem + suffix for suffix in SUFFIXES), f"{photo.stem}_mask.png"]
    for top in photo.parents[:_LEVELS]:
        within = photo.parent.relative_to(top).parts  # from the folder above down to the photo
        folders = [*_FOLDERS, *(f"{within[0]}_{word}" for word in ("masks", "mask") if within)]
        for folder in folders:
            if not (top / folder).is_dir():
                continue
            for place in (within[1:], within):
                for name in names:
                    mask = top.joinpath(folder, *place, name)
                    if mask.is_file() and mask != photo:
                        return mask
    return None


def mask_values(rgba: NDArray[np.float32]) -> Mask:
    """What an image [H, W, 4] says as a mask [H, W]: its alpha if that says anything, else its brightness.

    Masks of two values are stretched: 1 of 255 means as much as 255, and so does a palette's dark red.
    """
    alpha = rgba[..., 3]
    mask = alpha if alpha.max() > 0 and alpha.min() < 1 else rgba[..., :3].max(-1)
    top = float(mask.max())
    if not 0 < top < 1:
        return mask
    outer = (mask < 1 / 255) | (mask > top - 1 / 255)
    if top < 1.5 / 255 or float(outer.mean()) > _TWO_VALUES:
        return (mask / np.float32(top)).astype(np.float32)
    return mask


def _border(mask: Mask) -> float:
    """Share of the outermost pixels that are white."""
    rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return float((rim > 0.5).mean())
