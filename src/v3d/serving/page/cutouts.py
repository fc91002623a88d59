"""The cut-out of a photo as the page shows it, and what its user corrects in it.

The cut-out is found as a run finds it. A user moves its threshold and paints what to keep and what to remove;
the corrected mask goes with the job.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from v3d.errors import V3DError

KEEP, REMOVE = "#00a550", "#e0245e"
"""Colours of the two brushes."""
SIDE = 640
"""Pixels of the longer side of the picture that is painted on."""
_NONE, _KEPT, _REMOVED = 0, 1, 2

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Correction:
    """A photo's cut-out, and what was corrected in it.

    Attributes:
        path: of the photo.
        rgb: [H, W, 3], the photo on white.
        alpha: [H, W], the cut-out that was found: 255 is the object.
        note: what the user should know of it.
        threshold: in (0, 1): how sure a pixel must be, to be of the object.
        strokes: [h, w] of what was painted: 0 nothing, 1 keep, 2 remove; in the photo's shape.
    """

    path: str
    rgb: Bytes
    alpha: Bytes
    note: str = ""
    threshold: float = 0.5
    strokes: Bytes | None = None

    @property
    def changes(self) -> bool:
        """Whether the user corrected anything."""
        return self.threshold != 0.5 or (self.strokes is not None and bool(self.strokes.any()))

    @property
    def mask(self) -> Bytes:
        """The corrected cut-out [H, W]; its soft edge is where the threshold is, as wide as it was."""
        levels = np.interp(np.arange(256), [0, 255 * self.threshold, 255], [0, 127.5, 255])
        mask = levels.round().astype(np.uint8)[self.alpha]
        if self.strokes is not None:
            height, width = mask.shape
            painted = cv2.resize(self.strokes, (width, height), interpolation=cv2.INTER_NEAREST)
            mask = np.where(painted == _KEPT, 255, np.where(painted == _REMOVED, 0, mask)).astype(np.uint8)
        return mask

    @property
    def png(self) -> bytes:
        """The corrected cut-out as the file of a mask."""
        file = io.BytesIO()
        Image.fromarray(self.mask).save(file, "PNG")
        return file.getvalue()

    @property
    def picture(self) -> Bytes:
        """What is painted on, [h, w, 3]: the photo, with what is cut away faded into a chequered ground."""
        height, width = self.alpha.shape
        scale = min(1.0, SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = cv2.resize(self.rgb, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(self.mask, size, interpolation=cv2.INTER_AREA)[..., None] / 255
        y, x = np.indices(mask.shape[:2]) // 10
        ground = np.where((x + y) % 2 == 0, 150, 190)[..., None]
        return np.asarray((rgb * mask + (0.2 * rgb + 0.8 * ground) * (1 - mask)).round(), np.uint8)

    def painted(self, layers: Any) -> Correction:
        """With the strokes of the editor's layers, RGBA images [h, w, 4], added to earlier ones."""
        strokes = self.strokes
        for layer in layers or ():
            if layer is None or layer.ndim != 3 or not (layer[..., 3] > 100).any():
                continue
            size = (layer.shape[1], layer.shape[0])
            earlier = np.zeros((1, 1), np.uint8) if strokes is None else strokes
            earlier = np.asarray(cv2.resize(earlier, size, interpolation=cv2.INTER_NEAREST), np.uint8)
            colour = np.where(layer[..., 1].astype(int) > layer[..., 0], _KEPT, _REMOVED)
            strokes = np.where(layer[..., 3] > 100, colour, earlier).astype(np.uint8)
        return replace(self, strokes=strokes)


def find(path: str) -> Correction:
    """The cut-out of a photo as a run finds it; an empty one to paint on where nothing stands out.

    Raises:
        V3DError: the file is no photo.
    """
    from v3d.capture.images import read_image
    from v3d.capture.photo import load_photo

    rgba = read_image(path)[0]
    rgb = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    try:
        photo = load_photo(path, recentre=False)
        alpha, note = photo.cutout[..., 3].numpy(), " ".join(photo.warnings)
    except V3DError as error:
        alpha, note = np.zeros(rgb.shape[:2], np.float32), f"{error} Or paint it here."
    return Correction(path, _bytes(rgb), _bytes(alpha), note)


def _bytes(values: NDArray[np.float32]) -> Bytes:
    return np.asarray((values * 255).round(), np.uint8)
