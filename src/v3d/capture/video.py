"""Frames of a video or an animation, chosen and reduced while they are decoded.

However long a video is and however large its pictures, no more is kept than the frames that are asked for.
Only files are opened: playlists, which name other places, are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import PIL.ImageSequence
from numpy.typing import NDArray

from v3d.callbacks import OnStep
from v3d.errors import V3DError

_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,h264,hevc,m4v,ivf"
_ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG", ".png": "PNG"}
_MAX_PIXELS = 120_000_000  # of a frame; 8K has 33 million
_MOST_LOST = 0.05  # share of a video's frames that may be damaged
_SKIP = 2.0  # seconds; to come to a frame farther ahead, the frames between are passed over undecoded


@dataclass(frozen=True)
class Frames:
    """Frames of a video.

    Attributes:
        images: uint8 [N, H, W, 3], sRGB, turned upright as the file's metadata says.
        times: float64 [N] seconds at which they are shown, increasing.
    """

    images: NDArray[np.uint8]
    times: NDArray[np.float64]

    def __len__(self) -> int:
        """N, the number of frames."""
        return len(self.images)


def read_frames(
    path: str | Path, count: int, *, max_size: int = 1024, on_step: OnStep | None = None
) -> Frames:
    """At most `count` frames of a video file or an animation (GIF, WebP, APNG), evenly spread over its time.

    All frames of a video that has no more than `count`.

    Args:
        path: a file of any common format and codec that FFmpeg reads.
        count: at least 1.
        max_size: frames are reduced to at most so many pixels along their longer side.
        on_step: called with the frames taken and the frames to take.

    Raises:
        V3DError: the file is missing, damaged, cut short, or has no pictures.
    """
    path = Path(path)
    if not path.is_file():
        raise V3DError(f"There is no video file {path}.")
    reader = _animation if path.suffix.lower() in _ANIMATIONS else _video
    images = np.empty((0, 0, 0, 3), np.uint8)
    times: list[float] = []
    try:
        total, frames = reader(path, count, max_size)
        for time, image in frames:
            if not times:
                images = np.empty((total, *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                raise V3DError(f"{path.name} changes its size on the way; cut it where it does.")
            if len(times) < total:
                images[len(times)] = image
                times.append(time)
                if on_step is not None:
                    on_step(len(times), total)
    except V3DError:
        raise
    except Exception as error:  # decoders raise whatever they like on broken files
        raise V3DError(f"{path.name} is damaged, or not a video that can be read ({error}).") from error
    if not times:
        raise V3DError(f"{path.name} has no pictures.")
    return Frames(images[: len(times)], np.asarray(times, np.float64))


_Stream = tuple[int, Iterator[tuple[float, NDArray[np.uint8]]]]  # how many frames, and they, with their times


def _video(path: Path, count: int, max_size: int) -> _Stream:
    """Frames by FFmpeg: one pass over the packets to know their times, one to decode."""
    stamps: list[int] = []
    keys: list[int] = []
    with _opened(path) as (container, stream):
        stated, unit = stream.frames, stream.time_base or Fraction(1, 1000)
        pixels = stream.codec_context.width * stream.codec_context.height
        if pixels > _MAX_PIXELS:
            raise V3DError(f"{path.name} has frames of {pixels // 10**6} million pixels; make it smaller.")
        for packet in container.demux(stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if packet.size and stamp is not None and not packet.is_discard:
                stamps.append(stamp)
                if packet.is_keyframe:
                    keys.append(stamp)
    if len(stamps) < (1 - _MOST_LOST) * stated:
        raise V3DError(f"{path.name} is cut short: it has {len(stamps)} of {stated} frames.")
    wanted = _evenly(np.unique(stamps), count)
    return len(wanted), _decoded(path, wanted, len(stamps) <= count, sorted(keys), unit, max_size)


def _decoded(
    path: Path, wanted: list[int], every: bool, keys: list[int], unit: Fraction, max_size: int
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """The first frame at or after each wanted time, or every frame."""
    lost, decoded, i = 0, 0, 0
    last, sought = wanted[0] - 1, wanted[0]  # of the frame taken, and of the key frame gone to
    with _opened(path) as (container, stream):
        aspect = stream.sample_aspect_ratio
        going = True
        while going and i < len(wanted):
            going = False
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.InvalidDataError:
                    lost += 1
                    continue
                for frame in frames:
                    decoded += 1
                    stamp = frame.pts if frame.pts is not None else last + 1
                    if stamp > last and (every or (i < len(wanted) and stamp >= wanted[i])):
                        last, i = stamp, i + 1
                        while not every and i < len(wanted) and wanted[i] <= stamp:
                            i += 1
                        yield float(stamp * unit), _picture(frame, float(aspect or 1), max_size)
                if not every and i >= len(wanted):
                    break
                if every:
                    continue
                key = max((key for key in keys if key <= wanted[i]), default=sought)
                if (key - max(last, sought)) * unit > _SKIP:
                    container.seek(key, stream=stream)
                    sought, going = key, True
                    break
    if lost > _MOST_LOST * (lost + decoded):
        raise V3DError(f"{path.name} is damaged: {lost} of {lost + decoded} frames cannot be decoded.")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    with av.open(f"file:{path}", options=options) as container:
        if not container.streams.video:
            raise V3DError(f"{path.name} has no pictures.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _picture(frame: av.VideoFrame, aspect: float, max_size: int) -> NDArray[np.uint8]:
    """A decoded frame, whose pixels are `aspect` times as wide as high, as [H, W, 3]: reduced and upright."""
    width, height = frame.width * aspect, float(frame.height)
    scale = min(1.0, max_size / max(width, height))
    image = frame.to_ndarray(
        format="rgb24",
        width=max(round(width * scale), 1),
        height=max(round(height * scale), 1),
        interpolation="AREA" if scale < 1 else "BILINEAR",
    )
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def _animation(path: Path, count: int, max_size: int) -> _Stream:
    """Frames by Pillow; transparent places are white."""
    with PIL.Image.open(path, formats=[_ANIMATIONS[path.suffix.lower()]]) as file:
        total = getattr(file, "n_frames", 1)
        if file.width * file.height > _MAX_PIXELS:
            raise V3DError(f"{path.name} has frames of more than 120 million pixels; make it smaller.")
    wanted = set(_evenly(np.arange(total), count))

    def frames() -> Iterator[tuple[float, NDArray[np.uint8]]]:
        time = 0.0
        with PIL.Image.open(path, formats=[_ANIMATIONS[path.suffix.lower()]]) as file:
            for i, frame in enumerate(PIL.ImageSequence.Iterator(file)):
                frame.load()  # which also says how long it is shown
                if i in wanted:
                    image = frame.convert("RGBA")
                    image.thumbnail((max_size, max_size))
                    ground = PIL.Image.new("RGBA", image.size, "white")
                    yield time, np.asarray(PIL.Image.alpha_composite(ground, image).convert("RGB"))
                time += (frame.info.get("duration") or 100) / 1000

    return len(wanted), frames()


def _evenly(stamps: NDArray[np.int64], count: int) -> list[int]:
    """At most `count` of increasing times, evenly spread over the whole time; all if they are few."""
    if len(stamps) <= count:
        return [int(stamp) for stamp in stamps]
    ideal = np.linspace(stamps[0], stamps[-1], count)
    return sorted({int(stamps[np.abs(stamps - time).argmin()]) for time in ideal})
