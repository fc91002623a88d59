"""Camera paths from JSON files: nerfstudio's camera_path.json, or a transforms.json without images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from v3d.cameras import OPENCV_OPENGL, Cameras, cat_cameras
from v3d.capture.lens import Lens
from v3d.capture.posed import rigid_motion
from v3d.capture.transforms import frame_lens, frame_pose, transforms_frames
from v3d.errors import V3DError, in_words
from v3d.text_files import read_json, shortened


def read_path(file: str | Path) -> Cameras:
    """The cameras of a path in float64, in the world of the file and with its image size.

    nerfstudio's viewer exports paths in its own, normalised world. Where the `dataparser_transforms.json` of
    that training run lies beside the path, this is undone: the path then stands in the world of the COLMAP
    model, or of the transforms.json that lies there too.

    Args:
        file: nerfstudio's camera_path.json, or a transforms.json whose images need not exist.

    Raises:
        V3DError: the file is missing or broken, a pose is not a rigid motion, images differ in size.
    """
    file = Path(file)
    meta = _json(file)
    if "camera_path" in meta:
        cameras = _viewer_cameras(file, meta)
        return _out_of_nerfstudio(cameras, file.parent)
    out = []
    for i, frame in enumerate(transforms_frames(file)):
        where = f"{file.name}, frame {i}"
        if not (frame.get("w") and frame.get("h")):
            raise V3DError(f"{where}: a path needs the image size w and h.")
        lens = frame_lens(frame, (1, 1), where)
        if not lens.is_pinhole:
            raise V3DError(f"{where}: a path needs pinhole cameras, without distortion.")
        out.append(lens.camera(frame_pose(frame, where)))
    return _one_size(file, out)


def _viewer_cameras(file: Path, meta: dict[str, Any]) -> Cameras:
    """Poses with OpenGL axes, row by row; the field of view is the vertical one in degrees."""
    kind = shortened(str(meta.get("camera_type", "perspective")))
    if kind != "perspective":
        raise V3DError(f"{file} is a path of {kind} cameras; only perspective ones can be used.")
    out = []
    try:
        width, height = int(meta["render_width"]), int(meta["render_height"])
        for i, frame in enumerate(meta["camera_path"]):
            focal = 0.5 * height / math.tan(math.radians(float(frame["fov"])) / 2)
            lens = Lens(width, height, focal, focal, width / 2, height / 2).validated()
            pose = torch.tensor(frame["camera_to_world"], dtype=torch.float64).reshape(4, 4)
            c2w = rigid_motion(pose, f"{file.name}, camera {i}: camera_to_world") @ OPENCV_OPENGL
            out.append(lens.camera(c2w))
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise V3DError(f"{file} is not a usable camera path ({in_words(error)}).") from error
    return _one_size(file, out)


def _out_of_nerfstudio(cameras: Cameras, folder: Path) -> Cameras:
    """Cameras in the world of the COLMAP model or transforms.json that nerfstudio was trained on.

    The viewer's positions are scale * (transform @ COLMAP's); a transforms.json has applied_transform @
    COLMAP's.
    """
    beside = folder / "dataparser_transforms.json"
    if not beside.is_file():
        return cameras
    meta = _json(beside)
    transform = rigid_motion(meta.get("transform"), f"{beside.name}: the transform")
    try:
        scale = float(meta["scale"])
    except (KeyError, TypeError, ValueError) as error:
        raise V3DError(f"{beside} has no usable scale.") from error
    if not scale > 0:
        raise V3DError(f"{beside} has no usable scale.")
    back = torch.linalg.inv(transform)
    transforms = folder / "transforms.json"
    applied = _json(transforms).get("applied_transform") if transforms.is_file() else None
    if applied is not None:
        back = rigid_motion(applied, f"{transforms.name}: the applied_transform") @ back
    c2w = cameras.c2w.double()
    c2w[:, :3, 3] /= scale
    return Cameras((back @ c2w).to(cameras.c2w), cameras.K, cameras.width, cameras.height)


def _one_size(file: Path, cameras: list[Cameras]) -> Cameras:
    """One batch of all cameras of the path."""
    if not cameras:
        raise V3DError(f"{file} has no cameras.")
    try:
        return cat_cameras(cameras)
    except ValueError as error:
        raise V3DError(f"The cameras of {file} differ in image size.") from error


def _json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    meta = read_json(file)
    if not isinstance(meta, dict):
        raise V3DError(f"{file} is not a camera path.")
    return meta
