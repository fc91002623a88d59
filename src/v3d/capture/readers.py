"""Posed photos of a scene -> `Views`: the source views of the paper's scene-level synthesis.

`find_photos` knows where the cameras stand before a pixel is read, so that a caller can choose among hundreds
of photos; `read_photos` brings the chosen ones to one size. `read_scene` is both.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.cameras import Cameras, cat_cameras
from v3d.capture import matting
from v3d.capture.co3d import find_annotations, read_co3d
from v3d.capture.colmap import find_model, read_colmap
from v3d.capture.images import read_image
from v3d.capture.lens import Lens
from v3d.capture.posed import PosedPhoto
from v3d.capture.sfm import list_photos, pose_photos
from v3d.capture.transforms import read_transforms, transforms_file
from v3d.compositing import resize_rgba
from v3d.errors import V3DError
from v3d.views import Views

ASPECT_TOLERANCE = 1.15  # the widest shape over the narrowest; more would lose much of the pictures


def read_scene(path: str | Path, *, max_size: int | None) -> Views:
    """Read the posed photos of a scene, in any known format, as pinhole views of one size.

    transforms.json (nerfstudio, instant-ngp, ours), COLMAP and MVImgNet folders, CO3D sequences; folders of
    raw photos where pycolmap is installed.

    Alpha is the files' own and 1 where they have none; masks are ignored: a scene has no outside.

    Args:
        path: a folder, or a transforms.json.
        max_size: longer side of the views at most, in pixels; photos are reduced while they are read.

    Raises:
        V3DError: nothing known is there, or a file is broken; see `find_photos` and `read_photos`.
    """
    return read_photos(find_photos(path), max_size=max_size)


def find_photos(path: str | Path) -> list[PosedPhoto]:
    """The photos of a scene and their cameras, in the order of the file (transforms.json) or of their names.

    Photos that do not exist are left out with a warning: a few photos of a large capture are a common way to
    give a scene.

    Raises:
        V3DError: nothing known is there, a file is broken, no photo exists, a camera model is not known, a pose is not
            a rigid motion.
    """
    path = Path(path)
    if not path.exists():
        raise V3DError(f"{path} does not exist.")
    missing: list[Path] = []
    photos = _read_cameras(path, missing)
    if missing and not photos:
        raise V3DError(
            f"None of the {len(missing)} photos of {path} exists; the first would be {missing[0]}."
        )
    if missing:
        warnings.warn(
            f"{len(missing)} of the {len(missing) + len(photos)} photos of {path} do not exist and are left out, "
            f"{missing[0].name} among them.",
            stacklevel=2,
        )
    return photos


def _read_cameras(path: Path, missing: list[Path]) -> list[PosedPhoto]:
    """The photos by whatever describes them; those that do not exist go into `missing`."""
    transforms = transforms_file(path)
    if transforms is not None:
        return read_transforms(transforms, missing)
    model = find_model(path)
    if model is not None:
        return read_colmap(model, missing=missing)
    if find_annotations(path) is not None:
        return read_co3d(path, missing)
    if list_photos(path):
        return pose_photos(path)
    raise V3DError(
        f"{path} has no posed photos: give a folder with transforms.json, a COLMAP model (cameras and images, .bin "
        "or .txt, there or in sparse/0), or a CO3D sequence."
    )


def read_photos(photos: Sequence[PosedPhoto], *, max_size: int | None) -> Views:
    """Read photos as views of one size, without distortion.

    Photos that differ in size are cropped around their middle to the median shape and reduced to the smallest
    one; nothing is enlarged.

    Raises:
        V3DError: a photo is broken, or the shapes differ by more than 15 %.
    """
    if not photos:
        raise V3DError("There are no photos to read.")
    sizes = [photo.size() for photo in photos]
    width, height = common_size(sizes, max_size)
    rgb, alpha = torch.empty(len(photos), height, width, 3), torch.empty(len(photos), height, width)
    cameras: list[Cameras] = []
    for i, (photo, size) in enumerate(zip(photos, sizes, strict=True)):
        rgba, lens = photo.read(math.ceil(max(width / size[0], height / size[1]) * max(size)))
        opacity = rgba[..., 3:]  # on white from here on, so that filters may mix pixels
        layers = np.concatenate([rgba[..., :3] * opacity + (1 - opacity), opacity], -1)
        layers, lens = _cropped(*lens.undistorted(layers, fill=True), width, height)
        rgb[i], alpha[i] = torch.from_numpy(layers[..., :3]), torch.from_numpy(layers[..., 3])
        cameras.append(lens.camera(photo.c2w))
    return Views(rgb.clamp_(0, 1), alpha.clamp_(0, 1), cat_cameras(cameras))


def common_size(sizes: Sequence[tuple[int, int]], max_size: int | None) -> tuple[int, int]:
    """Width and height that every photo can be cropped and reduced to.

    Raises:
        V3DError: the shapes differ too much.
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


def _cropped(
    image: NDArray[np.float32], lens: Lens, width: int, height: int
) -> tuple[NDArray[np.float32], Lens]:
    """The middle of [H, W, C] as it is when resized to cover `width` x `height`."""
    scale = max(width / lens.width, height / lens.height)
    w, h = max(width, round(lens.width * scale)), max(height, round(lens.height * scale))
    if (w, h) != (lens.width, lens.height):
        image = np.asarray(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA), np.float32)
    left, top = (w - width) // 2, (h - height) // 2
    part = image[top : top + height, left : left + width]
    return part, lens.resized(w, h).cropped(left, top, width, height)


def load_views(folder: str | Path, *, max_size: int | None = None) -> Views:
    """Read a folder with `transforms.json`: ours, nerfstudio's or instant-ngp's.

    Lens distortion is removed. Alpha is the images' own, or that of their `mask_path`; opaque images get soft
    alpha if all their backgrounds are plain, and alpha 1 otherwise.

    Args:
        folder: or the path of the .json file itself.
        max_size: images with a longer side are reduced to it, and their cameras with them.

    Raises:
        V3DError: a file is missing or broken, images differ in size, a pose is not a rigid motion.
    """
    path = transforms_file(Path(folder))
    if path is None:
        raise V3DError(f"{folder} has no transforms.json; give a folder of posed views.")
    images: list[Tensor] = []
    cameras: list[Cameras] = []
    for photo in read_transforms(path):
        image, camera = _read(photo)
        width, height = camera.width, camera.height
        if max_size is not None and max(width, height) > max_size:
            width, height = (max(1, round(side * max_size / max(width, height))) for side in (width, height))
            image, camera = resize_rgba(image, height, width), camera.resized(width, height)
        if images and image.shape != images[0].shape:
            raise V3DError(
                f"The images of {path} differ in size: {photo.file.name} does not match the first one."
            )
        images.append(image)
        cameras.append(camera)
    return views_on_white(torch.stack(images), cat_cameras(cameras))


def views_on_white(rgba: Tensor, cameras: Cameras) -> Views:
    """Views of straight-alpha images [V, H, W, 4]; opaque ones are cut out where all backgrounds are plain."""
    if bool((rgba[..., 3] == 1).all()):
        layers = [matting.layers_on_plain(view.numpy()) for view in rgba[..., :3]]
        if all(layer is not None for layer in layers):
            rgba = torch.stack([torch.from_numpy(np.dstack(layer)) for layer in layers if layer is not None])
    rgb, alpha = rgba[..., :3], rgba[..., 3]
    return Views(rgb * alpha[..., None] + 1 - alpha[..., None], alpha, cameras)


def _read(photo: PosedPhoto) -> tuple[Tensor, Cameras]:
    """Undistorted straight RGBA [H, W, 4] (alpha from the mask, if there is one) and its camera."""
    rgba, lens = photo.read()
    if photo.mask is not None:
        mask, _ = read_image(photo.mask, max_side=None, upright=False)
        if mask.shape != rgba.shape:
            raise V3DError(f"The mask {photo.mask.name} and {photo.file} differ in size.")
        rgba[..., 3] = mask[..., 0]
    image, lens = lens.undistorted(rgba, fill=False)
    return torch.from_numpy(image), lens.camera(photo.c2w)
