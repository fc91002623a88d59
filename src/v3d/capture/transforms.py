"""transforms.json (nerfstudio's, instant-ngp's, V3D's) -> `Capture`.

Its poses are camera-to-world matrices with OpenGL axes; focal lengths and distortion stand in each frame or,
for all frames, in the file's own keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from v3d.cameras import OPENCV_OPENGL
from v3d.capture.images import image_size
from v3d.capture.lens import Lens
from v3d.capture.posed import Capture, PosedPhoto, rigid_motion
from v3d.errors import V3DError

_PINHOLE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_SUFFIXES = ("", ".png", ".jpg", ".jpeg")


def find_transforms(path: Path) -> Path | None:
    """The transforms.json (or transforms_train.json) that `path` is or holds."""
    if path.is_file():
        return path
    names = ("transforms.json", "transforms_train.json")
    return next((path / name for name in names if (path / name).is_file()), None)


def read_transforms(path: Path) -> Capture:
    """The posed photos of a transforms.json, in the order of its frames.

    Raises:
        V3DError: the file is broken, a pose is not a rigid motion, a camera model is not known.
    """
    photos, missing = [], []
    for frame in transforms_frames(path):
        name = frame.get("file_path")
        if not isinstance(name, str):
            raise V3DError(f"A frame of {path} has no file_path.")
        file = next((f for suffix in _SUFFIXES if (f := path.parent / (name + suffix)).is_file()), None)
        where = f"{path.name}, {name}"
        c2w = frame_pose(frame, where)
        if file is None:
            missing.append(path.parent / name)
            continue
        lens = frame_lens(frame, image_size(file, upright=False), where)
        mask = frame.get("mask_path")
        photos.append(PosedPhoto(file, c2w, lens, path.parent / mask if isinstance(mask, str) else None))
    return Capture(tuple(photos), tuple(missing))


def transforms_frames(path: Path) -> list[dict[str, Any]]:
    """The frames of a transforms.json, each with the file's own keys added where it has none of that name.

    Raises:
        V3DError: the file is not one, or lists no frames.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        frames = [meta | frame for frame in meta["frames"]]
    except (ValueError, KeyError, TypeError) as error:
        raise V3DError(f"{path} is not a transforms.json with a list of frames ({error}).") from error
    if not frames:
        raise V3DError(f"{path} lists no frames.")
    return frames


def frame_pose(frame: Mapping[str, Any], where: str) -> Tensor:
    """Camera to world [4, 4] float64, OpenCV axes, from a frame's transform_matrix, which has OpenGL axes.

    Args:
        where: begins the sentence of an error.

    Raises:
        V3DError: the matrix is missing or is not a rigid motion.
    """
    return rigid_motion(frame.get("transform_matrix"), f"{where}: the transform_matrix") @ OPENCV_OPENGL


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
        raise V3DError(f"{where}: the camera model {model} is not known; undistort the photos first.")
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
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise V3DError(f"{where}: there is no usable camera ({error}).") from error
