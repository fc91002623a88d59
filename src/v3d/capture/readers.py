"""Posed photos of an object or of a scene -> `Views`: the one way in for `reconstruct` and `scene`.

`find_photos` knows where the cameras stand before a pixel is read, so that a caller can choose among hundreds
of photos. Two functions read the chosen ones: `read_object_views` keeps what is outside of the object empty,
`read_scene_views` fills every pixel. Their cameras are float64, for `v3d.placement.place` and
`v3d.scene.normalise` to centre. `load_views` and `load_scene_views` do both steps for a whole folder, in
float32.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from v3d.callbacks import Warn, ignore
from v3d.cameras import Cameras, cat_cameras
from v3d.capture.co3d import find_annotations, read_co3d
from v3d.capture.colmap import find_model, read_colmap
from v3d.capture.lens import Lens
from v3d.capture.masks import Mask, read_mask, upright_masks, with_masks
from v3d.capture.matting import cut_out_plain
from v3d.capture.polycam import find_keyframes, read_polycam
from v3d.capture.posed import Capture, PosedPhoto
from v3d.capture.record3d import find_metadata, read_record3d
from v3d.capture.sfm import list_photos, pose_photos
from v3d.capture.transforms import find_transforms, read_transforms
from v3d.errors import V3DError
from v3d.placement import single_precision
from v3d.text_files import shown
from v3d.views import Views

ASPECT_TOLERANCE = 1.15  # the widest shape over the narrowest; more would lose much of the pictures


def load_views(folder: str | Path, *, max_size: int | None = None) -> Views:
    """Read all posed photos of an object as pinhole views of one size.

    Reads the formats of `find_photos`; `read_object_views` says what becomes of pixels.

    Args:
        folder: the capture's folder, or the path of a transforms.json itself.
        max_size: longer side of the views at most, in pixels; photos are reduced while they are read.

    Raises:
        V3DError: nothing known is there, a file is missing or broken, the photos differ in shape by more than
            15 %, a pose is not a rigid motion, or the cameras stand too far from their origin for float32.
    """
    views = read_object_views(_all_photos(folder), max_size=max_size)
    return replace(views, cameras=single_precision(views.cameras))


def load_scene_views(folder: str | Path, *, max_size: int | None = None) -> Views:
    """Read all posed photos of a scene as pinhole views of one size.

    Reads the formats of `load_views`. See `read_scene_views` for what becomes of the pixels.

    Args:
        folder: the capture's folder, or the path of a transforms.json itself.
        max_size: longer side of the views at most, in pixels; photos are reduced while they are read.

    Raises:
        V3DError: nothing known is there, a file is missing or broken, the photos differ in shape by more than
            15 %, a pose is not a rigid motion, or the cameras stand too far from their origin for float32.
    """
    views = read_scene_views(_all_photos(folder), max_size=max_size)
    return replace(views, cameras=single_precision(views.cameras))


def find_photos(path: str | Path) -> Capture:
    """The posed photos of a capture; no pixel is read.

    The first of these that is there is read: transforms.json (nerfstudio's, instant-ngp's, Blender's, V3D's),
    a COLMAP model (also MVImgNet's, and exports of Metashape and RealityCapture), a CO3D sequence, raw data
    of Polycam or Record3D, raw photos (their cameras are found by structure from motion).

    Args:
        path: the capture's folder, or the path of a transforms.json itself.

    Returns:
        The photos in the order of the file (transforms.json) or of their names. Listed photos that do not
        exist are left out, which `Capture.notes` says: large captures are often given with few photos. The
        notes also say where files were found under other names, and what else was guessed.

    Raises:
        V3DError: nothing known is there, a file is broken, no photo exists, a camera model is not known, a
            pose is not a rigid motion.
    """
    path = Path(path)
    try:
        found = path.exists()
    except (OSError, ValueError):
        found = False
    if not found:
        raise V3DError(f"{shown(path)} does not exist.")
    if not path.is_dir() and path.suffix.lower() != ".json":
        raise V3DError(
            f"{path} is not a folder; give the folder of a capture (unpack an archive first) or a "
            "transforms.json, and with a video the option --orbit."
        )
    capture = _read_cameras(path)
    if not capture.photos and not capture.missing:
        raise V3DError(f"{path} lists no photos.")
    if not capture.photos:
        raise V3DError(
            f"None of the {len(capture.missing)} photos of {path} exists; "
            f"the first would be {capture.missing[0]}."
        )
    return capture


def read_object_views(
    photos: Sequence[PosedPhoto], *, max_size: int | None = None, warn: Warn = ignore
) -> Views:
    """Read photos of an object as views of one size, without lens distortion.

    Alpha is that of the photos' masks where there are any, also in a folder beside them
    (`v3d.capture.masks`), else the files' own. Where no photo has either and all backgrounds are plain, the
    object is cut out of them; opaque photos in front of anything else keep alpha 1. Parts that a lens did not
    see are empty. Photos that differ in size are cropped around their middle to the median shape and reduced
    to the smallest one; nothing is enlarged.

    Args:
        max_size: longer side of the views at most, in pixels; photos are reduced while they are read.
        warn: told what was guessed, one sentence each.

    Returns:
        The views; their cameras are float64.

    Raises:
        V3DError: a photo or mask is missing, broken or shows nothing, a mask has another shape than its
            photo, the photos differ in shape by more than 15 %.
    """
    photos = with_masks(photos, warn)
    width, height, sides = _reading_sizes(photos, max_size, warn)
    images, lenses = [], []
    for photo, side in zip(photos, sides, strict=True):
        image, lens = photo.read(side)
        images.append((image * 255).round().astype(np.uint8))  # as the file has it: a quarter of the memory
        lenses.append(lens)
    masks = _masks([image.shape[:2] for image in images], photos, sides, warn)
    cut = None if masks else cut_out_plain(images)
    rgb, alpha = torch.empty(len(photos), height, width, 3), torch.empty(len(photos), height, width)
    cameras: list[Cameras] = []
    for i, (photo, lens) in enumerate(zip(photos, lenses, strict=True)):
        rgba = images[i].astype(np.float32) / np.float32(255) if cut is None else cut[i]
        images[i] = np.empty(0, np.uint8)  # freed one by one
        if cut is not None:
            cut[i] = np.empty(0, np.float32)
        if i in masks:
            rgba[..., 3] = masks.pop(i)
        if float(rgba[..., 3].max()) <= 0.5:
            raise V3DError(f"{photo.mask or photo.file} shows no object; correct it, or leave the photo out.")
        # Premultiplied from here on, so that filters may mix pixels.
        layers = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
        layers, pinhole = _pinhole(layers, lens, width, height, fill=False)
        premultiplied, alpha[i] = torch.from_numpy(layers[..., :3]), torch.from_numpy(layers[..., 3])
        rgb[i] = premultiplied + 1 - alpha[i, ..., None]
        cameras.append(pinhole.camera(photo.c2w))
    return Views(rgb, alpha, cat_cameras(cameras))


def read_scene_views(
    photos: Sequence[PosedPhoto], *, max_size: int | None = None, warn: Warn = ignore
) -> Views:
    """Read photos of a scene as views of one size, without lens distortion.

    A scene has no outside: masks are ignored, backgrounds are kept, and focal lengths are enlarged until
    every pixel was seen by the lens. Alpha is the files' own, and 1 where they have none. Photos that differ
    in size are cropped around their middle to the median shape and reduced to the smallest one; nothing is
    enlarged.

    Args:
        max_size: longer side of the views at most, in pixels; photos are reduced while they are read.
        warn: told what was guessed, one sentence each.

    Returns:
        The views; their cameras are float64.

    Raises:
        V3DError: a photo is missing or broken, or the photos differ in shape by more than 15 %.
    """
    width, height, sides = _reading_sizes(photos, max_size, warn)
    rgb, alpha = torch.empty(len(photos), height, width, 3), torch.empty(len(photos), height, width)
    cameras: list[Cameras] = []
    for i, (photo, side) in enumerate(zip(photos, sides, strict=True)):
        rgba, lens = photo.read(side)
        opacity = rgba[..., 3:]  # on white from here on, so that filters may mix pixels
        layers = np.concatenate([rgba[..., :3] * opacity + (1 - opacity), opacity], -1)
        layers, pinhole = _pinhole(layers, lens, width, height, fill=True)
        rgb[i], alpha[i] = torch.from_numpy(layers[..., :3]), torch.from_numpy(layers[..., 3])
        cameras.append(pinhole.camera(photo.c2w))
    return Views(rgb, alpha, cat_cameras(cameras))


def common_size(sizes: Sequence[tuple[int, int]], max_size: int | None) -> tuple[int, int]:
    """Width and height that every photo can be cropped and reduced to.

    Args:
        sizes: width and height of each photo, in pixels.
        max_size: the longer side at most; None for no limit.

    Raises:
        V3DError: the shapes differ by more than 15 %.
    """
    aspects = [width / height for width, height in sizes]
    if max(aspects) > ASPECT_TOLERANCE * min(aspects):
        wide, narrow = (sizes[aspects.index(extreme(aspects))] for extreme in (max, min))
        raise V3DError(
            f"The photos differ in shape ({wide[0]} x {wide[1]} and {narrow[0]} x {narrow[1]} pixels); "
            "crop them to one shape before their cameras are found, or give only those of one shape."
        )
    aspect = statistics.median(aspects)
    width = min(min(width, height * aspect) for width, height in sizes)
    limit = math.inf if max_size is None else max_size
    scale = min(1.0, limit / max(width, width / aspect))
    return max(1, round(width * scale)), max(1, round(width / aspect * scale))


def _all_photos(path: str | Path) -> tuple[PosedPhoto, ...]:
    """Every listed photo.

    Raises:
        V3DError: one of them does not exist.
    """
    capture = find_photos(path)
    if capture.missing:
        raise V3DError(f"{capture.missing[0]}, listed among the photos of {path}, does not exist.")
    return capture.photos


def _read_cameras(path: Path) -> Capture:
    """The capture by whatever describes it."""
    transforms = find_transforms(path)
    if transforms is not None:
        return read_transforms(transforms)
    if (model := find_model(path)) is not None:
        return read_colmap(model[0], remarks=model[1])
    if find_annotations(path) is not None:
        return read_co3d(path)
    if (keyframes := find_keyframes(path)) is not None:
        return read_polycam(*keyframes)
    if (metadata := find_metadata(path)) is not None:
        return read_record3d(metadata)
    if list_photos(path):
        return pose_photos(path)
    raise V3DError(
        f"{path} has no posed photos: give a folder with transforms.json, a COLMAP model (cameras and "
        "images, .bin or .txt, there or in sparse/0), a CO3D sequence, or raw data of Polycam or Record3D."
    )


def _reading_sizes(
    photos: Sequence[PosedPhoto], max_size: int | None, warn: Warn
) -> tuple[int, int, list[int]]:
    """Width and height of the views, and the longer side at which each photo still covers them."""
    if not photos:
        raise V3DError("There are no photos to read.")
    sizes = [photo.size() for photo in photos]
    width, height = common_size(sizes, max_size)
    if len(set(sizes)) > 1:
        warn(f"The photos have {len(set(sizes))} sizes; all are cropped and reduced to {width} x {height}.")
    return width, height, [math.ceil(max(width / w, height / h) * max(w, h)) for w, h in sizes]


def _masks(
    shapes: Sequence[tuple[int, ...]], photos: Sequence[PosedPhoto], sides: Sequence[int], warn: Warn
) -> dict[int, Mask]:
    """Number of a photo that has a mask -> its mask, of the shape (height, width) in which it was read."""
    masked = [i for i, photo in enumerate(photos) if photo.mask is not None]
    masks = [read_mask(photos[i], shapes[i][1], shapes[i][0], sides[i]) for i in masked]
    return dict(zip(masked, upright_masks(masks, warn), strict=True)) if masked else {}


def _pinhole(
    layers: NDArray[np.float32], lens: Lens, width: int, height: int, *, fill: bool
) -> tuple[NDArray[np.float32], Lens]:
    """Undistort layers [H, W, C] in [0, 1], resize them to cover `width` x `height` and crop them to these.

    Returns:
        The layers [height, width, C] in [0, 1] and their lens, without distortion.
    """
    layers, lens = lens.undistorted(layers, fill=fill)
    scale = max(width / lens.width, height / lens.height)
    w, h = max(width, round(lens.width * scale)), max(height, round(lens.height * scale))
    if (w, h) != (lens.width, lens.height):
        layers = np.asarray(cv2.resize(layers, (w, h), interpolation=cv2.INTER_AREA), np.float32)
    left, top = (w - width) // 2, (h - height) // 2
    part = layers[top : top + height, left : left + width]
    return part.clip(0, 1), lens.resized(w, h).cropped(left, top, width, height)
