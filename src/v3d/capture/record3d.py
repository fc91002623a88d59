"""Record3D's raw exports -> `Capture`.

A folder has `metadata.json`, or `metadata` where it is an unpacked .r3d file, and `rgb/` or `rgbd/` with one
.jpg a frame, named by its number. `poses` has a row a frame, camera to world: a quaternion x y z w and a
position. Camera axes are OpenGL's, the world is ARKit's, y up. `K` lists its columns, in pixels of images of
`w` x `h`; some versions add `perFrameIntrinsicCoeffs`: fx fy cx cy of every frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v3d.cameras import OPENCV_OPENGL
from v3d.capture.lens import Lens
from v3d.capture.photo_files import SUFFIXES
from v3d.capture.posed import Capture, PosedPhoto, rigid_motion, rotation
from v3d.errors import V3DError
from v3d.text_files import read_json

_Z_UP = torch.tensor([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
_IMAGES = ("rgb", "rgbd", "images")


def find_metadata(folder: Path) -> Path | None:
    """The metadata of a Record3D export at `folder`, if frames lie beside it."""
    if not any((folder / name).is_dir() for name in _IMAGES):
        return None
    return next((f for n in ("metadata.json", "metadata") if (f := folder / n).is_file()), None)


def read_record3d(metadata: Path) -> Capture:
    """The posed photos, in the order of their numbers, in a world that is z up.

    Raises:
        V3DError: the metadata are broken, a pose is not a rigid motion, a lens is senseless.
    """
    meta = read_json(metadata)
    images = next(metadata.parent / name for name in _IMAGES if (metadata.parent / name).is_dir())
    files = (file for file in images.iterdir() if file.suffix.lower() in SUFFIXES)
    numbered = {int(file.stem): file for file in files if file.stem.isdecimal()}
    photos, missing = [], []
    try:
        poses = [[float(value) for value in pose] for pose in meta["poses"]]
    except (KeyError, TypeError, ValueError) as error:
        raise V3DError(f"{metadata} is not Record3D's metadata with poses ({error}).") from error
    for i, pose in enumerate(poses):
        c2w, lens = _c2w(pose, f"{metadata}: pose {i}"), _lens(meta, i, metadata)
        photo = numbered.get(i)
        if photo is None:
            missing.append(images / f"{i}.jpg")
        else:
            photos.append(PosedPhoto(photo, c2w, lens))
    return Capture(tuple(photos), tuple(missing))


def _c2w(pose: list[float], where: str) -> Tensor:
    if len(pose) != 7:
        raise V3DError(f"{where} is not a quaternion and a position: 7 numbers.")
    x, y, z, w, *position = pose
    R = rotation([w, x, y, z], where)
    t = torch.tensor(position, dtype=torch.float64)
    return _Z_UP @ rigid_motion(torch.cat([R, t[:, None]], 1), where) @ OPENCV_OPENGL


def _lens(meta: dict[str, Any], frame: int, metadata: Path) -> Lens:
    try:
        width, height = int(meta["w"]), int(meta["h"])
        of_frames = meta.get("perFrameIntrinsicCoeffs")
        if of_frames:
            fx, fy, cx, cy = (float(value) for value in of_frames[frame])
        else:
            K = [float(value) for value in meta["K"]]
            fx, fy, cx, cy = K[0], K[4], K[6], K[7]
        return Lens(width, height, fx, fy, cx, cy).validated()
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        raise V3DError(f"{metadata} has no usable lens of frame {frame} ({error}).") from error
