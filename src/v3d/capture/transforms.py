"""transforms.json (nerfstudio's, instant-ngp's, Blender's synthetic scenes, V3D's) -> `Capture`.

Its poses are camera-to-world matrices with OpenGL axes; focal lengths and distortion stand in each frame or,
for all frames, in the file's own keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from v3d.cameras import OPENCV_OPENGL
from v3d.capture.images import image_size
from v3d.capture.lens import Lens
from v3d.capture.photo_files import PhotoFiles
from v3d.capture.posed import Capture, PosedPhoto, without_scale
from v3d.errors import V3DError
from v3d.text_files import read_json, shortened, usable_name

_PINHOLE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_NAMES = ("transforms.json", "transforms_train.json", "transforms_val.json", "transforms_test.json")


def find_transforms(path: Path) -> Path | None:
    """The transforms.json that `path` is or holds; of Blender's three that of the training views first."""
    if path.is_file():
        return path
    return next((path / name for name in _NAMES if (path / name).is_file()), None)


def read_transforms(path: Path) -> Capture:
    """The posed photos of a transforms.json, in the order of its frames.

    Names may have the case, the suffix or the folders of another machine (`v3d.capture.photo_files`), and
    matrices one scale in all axes, which is divided out: remarks say so.

    Raises:
        V3DError: the file is broken, a pose is not a rigid motion, a camera model is not known.
    """
    photos, missing = [], []
    remarks: list[str] = []
    files = PhotoFiles([path.parent])
    for i, frame in enumerate(transforms_frames(path)):
        name = usable_name(frame.get("file_path"), f"{path}, frame {i}")
        where = f"{path.name}, {name}"
        c2w = frame_pose(frame, where)
        scale = frame_scale(frame, where)
        if scale != 1 and not remarks:
            remarks.append(
                f"The matrices of {path.name} are scaled (by {scale:.3g}); the scale was divided out, "
                "positions were kept."
            )
        file = files.find(name)
        if file is None:
            missing.append(path.parent / name)
            continue
        lens = frame_lens(frame, image_size(file, upright=False), where)
        mask = frame.get("mask_path")
        if mask is not None:
            mask = usable_name(mask, f"{where}: mask_path")
            found = files.find(mask)
            mask = path.parent / mask if found in (None, file) else found  # no photo is its own mask
        photos.append(PosedPhoto(file, c2w, lens, mask))
    others = [name for name in _NAMES[1:] if name != path.name and (path.parent / name).is_file()]
    if path.name in _NAMES[1:] and others:
        remarks.append(f"Only the photos of {path.name} are read, not those of {' and '.join(others)}.")
    return Capture(tuple(photos), tuple(missing), (*files.notes, *remarks))


def transforms_frames(path: Path) -> list[dict[str, Any]]:
    """The frames of a transforms.json, each with the file's own keys added where it has none of that name.

    Raises:
        V3DError: the file is not one, or lists no frames.
    """
    meta = read_json(path)
    try:
        frames = [meta | frame for frame in meta["frames"]]
    except (KeyError, TypeError) as error:
        raise V3DError(f"{path} is not a transforms.json with a list of frames ({error}).") from error
    if not frames:
        raise V3DError(f"{path} lists no frames.")
    return frames


def frame_pose(frame: Mapping[str, Any], where: str) -> Tensor:
    """Camera to world [4, 4] float64, OpenCV axes, from a frame's transform_matrix, which has OpenGL axes.

    Args:
        where: begins the sentence of an error.

    Raises:
        V3DError: the matrix is missing or is not a rigid motion, up to one scale of its axes.
    """
    return _pose(frame, where)[0] @ OPENCV_OPENGL


def frame_scale(frame: Mapping[str, Any], where: str) -> float:
    """The scale of the axes in a frame's transform_matrix; 1 where it is a rigid motion."""
    return _pose(frame, where)[1]


def _pose(frame: Mapping[str, Any], where: str) -> tuple[Tensor, float]:
    return without_scale(frame.get("transform_matrix"), f"{where}: the transform_matrix")


def frame_lens(frame: Mapping[str, Any], size: tuple[int, int], where: str) -> Lens:
    """The lens of a frame, from its focal lengths or its full angles of view.

    Args:
        size: width and height in pixels for frames that state none.
        where: begins the sentence of an error.

    Raises:
        V3DError: a number is missing or senseless, or the camera model is not known.
    """
    model = frame.get("camera_model", "OPENCV")
    fisheye = model == "OPENCV_FISHEYE" or bool(frame.get("is_fisheye"))
    if not fisheye and model not in _PINHOLE:
        raise V3DError(
            f"{where}: the camera model {shortened(str(model))} is not known; undistort the photos first."
        )
    try:
        width, height = int(frame.get("w") or size[0]), int(frame.get("h") or size[1])
        names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")
        distortion = tuple(float(frame.get(name, 0)) for name in names)
        if "fl_x" in frame:
            fx = float(frame["fl_x"])
        elif "camera_angle_x" in frame:
            fx = 0.5 * width / math.tan(0.5 * float(frame["camera_angle_x"]))
        else:
            raise ValueError("neither fl_x nor camera_angle_x is given")
        fy = float(frame.get("fl_y", fx))
        if "fl_y" not in frame and "camera_angle_y" in frame:
            fy = 0.5 * height / math.tan(0.5 * float(frame["camera_angle_y"]))
        cx, cy = float(frame.get("cx", width / 2)), float(frame.get("cy", height / 2))
        return Lens(width, height, fx, fy, cx, cy, distortion, fisheye).validated()
    except (ValueError, TypeError, ArithmeticError) as error:
        raise V3DError(f"{where}: there is no usable camera ({error}).") from error
