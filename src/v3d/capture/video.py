"""A video that goes around an object -> `Views`."""

from __future__ import annotations

from pathlib import Path

import torch

from v3d.cameras import ORBIT_VIEWS, Cameras, orbit
from v3d.capture.matting import cut_out_plain
from v3d.compositing import over_white
from v3d.errors import V3DError
from v3d.video import load_video
from v3d.views import Views


def views_from_video(
    path: str | Path, cameras: Cameras | None = None, *, views: int = 2 * ORBIT_VIEWS
) -> Views:
    """Read a video that goes once around an object.

    The object is cut out by colour if all backgrounds are plain; otherwise alpha is 1 everywhere.

    Args:
        path: a video file of any format FFmpeg reads.
        cameras: one for each frame of the video; by default the paper's orbit, closed by the step after the
            last frame, with frames padded to squares.
        views: use at most this many frames, evenly spread.

    Raises:
        V3DError: the video cannot be read, or the number of cameras does not fit.
    """
    frames = load_video(path)
    count, height, width = frames.shape[:3]
    if cameras is None:
        size = max(height, width)
        x0, y0 = (size - width) // 2, (size - height) // 2
        padding = (0, 0, x0, size - width - x0, y0, size - height - y0)
        frames = torch.nn.functional.pad(frames, padding, value=1.0)
        cameras = orbit(count, size=size)
    if len(cameras) != count or (cameras.width, cameras.height) != (frames.shape[2], frames.shape[1]):
        raise V3DError(
            f"{path} has {count} frames of {width} x {height} pixels, which the cameras do not fit."
        )
    chosen = [i * count // min(views, count) for i in range(min(views, count))]
    opaque = torch.cat([frames[chosen], torch.ones_like(frames[chosen][..., :1])], -1)
    rgba = torch.stack([torch.from_numpy(image) for image in cut_out_plain(list(opaque.numpy()))])
    return Views(over_white(rgba[..., :3], rgba[..., 3]), rgba[..., 3], cameras[chosen])
