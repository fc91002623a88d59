"""Polycam's raw data -> `Capture`.

`keyframes/` has `images/`, `cameras/` and, once the app has optimised the session, `corrected_images/` and
`corrected_cameras/`: one .json a photo with fx fy cx cy width height in pixels and t_00 ... t_23, the rows of
the camera-to-world matrix, whose camera axes are OpenGL's and whose world is ARKit's, y up.
"""

from __future__ import annotations

from pathlib import Path

import torch

from v3d.cameras import OPENCV_OPENGL
from v3d.capture.lens import Lens
from v3d.capture.photo_files import PhotoFiles
from v3d.capture.posed import Capture, PosedPhoto, rigid_motion
from v3d.errors import V3DError
from v3d.text_files import read_json

# The axes' cyclic exchange that makes y up z up, as nerfstudio reads these files.
_Z_UP = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
_KINDS = (("corrected_cameras", "corrected_images"), ("cameras", "images"))


def find_keyframes(folder: Path) -> tuple[Path, Path] | None:
    """The folders of cameras and of images of Polycam's raw data at `folder`, the corrected ones if there."""
    for keyframes in (folder / "keyframes", folder):
        for cameras, images in _KINDS:
            if (keyframes / images).is_dir() and any((keyframes / cameras).glob("*.json")):
                return keyframes / cameras, keyframes / images
    return None


def read_polycam(cameras: Path, images: Path) -> Capture:
    """The posed photos, in the order of their names, in a world that is z up.

    Args:
        cameras: the folder of .json files, one a photo.
        images: the folder of the photos.

    Raises:
        V3DError: a file is broken, a pose is not a rigid motion.
    """
    files = PhotoFiles([images])
    photos, missing = [], []
    for file in sorted(cameras.glob("*.json")):
        meta = read_json(file)
        try:
            rows = [[float(meta[f"t_{row}{column}"]) for column in range(4)] for row in range(3)]
            width, height = int(meta["width"]), int(meta["height"])
            fx, fy, cx, cy = (float(meta[name]) for name in ("fx", "fy", "cx", "cy"))
            lens = Lens(width, height, fx, fy, cx, cy).validated()
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise V3DError(f"{file} is not a usable camera of Polycam ({error}).") from error
        c2w = _Z_UP @ rigid_motion(rows, f"{file}: the matrix t_00 ... t_23") @ OPENCV_OPENGL
        photo = files.find(file.stem)
        if photo is None:
            missing.append(images / f"{file.stem}.jpg")
        else:
            photos.append(PosedPhoto(photo, c2w, lens))
    return Capture(tuple(photos), tuple(missing), files.notes)
