"""A picture of Gaussians while they are fitted, for whoever waits: one small file that changes."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from PIL import Image

from v3d.cameras import Cameras
from v3d.files import atomic
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import splat_renderer

LIVE = ".stages/fit.jpg"
"""The picture's name in a run's folder; it is gone when the fit has ended."""
_SIDE = 256
_EVERY = 2.0  # seconds; a picture takes about 0.03


class LivePicture:
    """Writes what one camera sees of the Gaussians it is called with, every two seconds.

    Use it in a `with` statement, at whose end the file is removed.
    """

    def __init__(self, path: Path, camera: Cameras) -> None:
        """`path`: of the JPEG file; `camera`: one, which is reduced to 256 pixels."""
        self._path, self._camera = path, camera.reduced(_SIDE)
        self._next = time.monotonic() + _EVERY

    def __call__(self, splats: Splats) -> None:
        """Draw the Gaussians, if the last picture is old enough."""
        if time.monotonic() < self._next:
            return
        frame = (splat_renderer(splats)(self._camera)[0] * 255).to(torch.uint8).cpu().numpy()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(self._path) as temporary:
            Image.fromarray(frame).save(temporary, "JPEG", quality=85)
        self._next = time.monotonic() + _EVERY

    def __enter__(self) -> LivePicture:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
