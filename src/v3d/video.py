"""Videos that V3D writes (H.264 in .mp4, through PyAV's bundled FFmpeg)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
from torch import Tensor

from v3d.errors import V3DError
from v3d.files import atomic


def save_video(frames: Tensor, path: str | Path, fps: float = 18.0) -> None:
    """Write frames as H.264, yuv420p, which every player opens.

    Sides must be even for that format: an odd one loses its last row or column.

    Args:
        frames: [N, H, W, 3] in [0, 1], sRGB-encoded.
        path: of the .mp4 file; missing folders are made.
        fps: frames a second.

    Raises:
        V3DError: there are no frames, or the file cannot be written.
    """
    n, height, width = frames.shape[0], frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2
    if min(n, height, width) == 0:
        raise V3DError("A video needs at least one frame of at least 2 x 2 pixels.")
    with atomic(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "16", "preset": "medium", "movflags": "+faststart"}
        # Without the tags players guess the matrix from the size, and colours shift.
        stream.codec_context.colorspace = 1  # BT.709
        stream.codec_context.color_primaries = 1
        stream.codec_context.color_trc = 1
        stream.codec_context.color_range = 1  # limited
        for rgb in frames[:, :height, :width]:  # one by one: all of them as bytes would not be small
            image = (rgb.clamp(0, 1) * 255).round().byte().cpu().contiguous().numpy()
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
