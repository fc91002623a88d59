"""Frames of videos that the test writes: which, how large, which way up, when."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from v3d.capture.video import read_frames
from v3d.errors import V3DError

Image = NDArray[np.uint8]


def write(path: Path, frames: Iterable[Image], stamps: Sequence[int] | None = None, **options: str) -> Path:
    """H.264 at 10 frames a second, or at the given milliseconds."""
    with av.open(str(path), "w", container_options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "10", **options}
        if stamps is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(frames):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def grey(i: int, height: int = 48, width: int = 64) -> Image:
    """Frame i: its number in its brightness, and a bright corner at the top left."""
    image = np.full((height, width, 3), 3 * i, np.uint8)
    image[: height // 4, : width // 4] = 255
    return image


def numbers(images: Image) -> list[int]:
    return [round(float(image[-8:, -8:].mean()) / 3) for image in images]


def test_all_frames_of_a_short_video(tmp_path: Path) -> None:
    frames = read_frames(write(tmp_path / "a.mp4", map(grey, range(21))), 21)
    assert numbers(frames.images) == list(range(21))
    np.testing.assert_allclose(frames.times, np.arange(21) / 10, atol=1e-6)


def test_frames_are_spread_over_the_time_of_a_long_one(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = write(tmp_path / "a.mp4", map(grey, range(61)))
    frames = read_frames(path, 7, on_step=lambda done, total: seen.append((done, total)))
    assert numbers(frames.images) == [0, 10, 20, 30, 40, 50, 60]
    np.testing.assert_allclose(frames.times, np.arange(7), atol=1e-6)
    assert seen == [(i + 1, 7) for i in range(7)]


def test_frames_far_apart_are_found_by_key_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", (grey(i % 80) for i in range(400)), g="20", bf="2")
    frames = read_frames(path, 5)
    np.testing.assert_allclose(frames.times, np.linspace(0, 39.9, 5), atol=0.11)
    assert numbers(frames.images) == [round(10 * t) % 80 for t in frames.times]


def test_times_are_those_at_which_frames_are_shown(tmp_path: Path) -> None:
    stamps = np.cumsum(np.random.default_rng(0).choice([16, 33, 66, 120], 40)).tolist()
    frames = read_frames(write(tmp_path / "a.mp4", map(grey, range(40)), stamps), 40)
    assert numbers(frames.images) == list(range(40))
    np.testing.assert_allclose(np.diff(frames.times), np.diff(stamps) / 1000, atol=2e-3)


def test_memory_holds_the_frames_that_are_kept_and_no_more(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", (grey(i % 80, 1080, 1920) for i in range(60)), preset="ultrafast")
    tracemalloc.start()
    frames = read_frames(path, 6, max_size=320)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames.images.shape == (6, 180, 320, 3)
    assert peak < 20e6  # all frames take 373 MB
    assert (frames.images[0, :40, :70] > 250).all() and (frames.images[0, 50:] < 5).all()


def test_rotated_videos_come_upright(tmp_path: Path) -> None:
    """Phones store frames on their side, with a matrix that turns them by 90 degrees clockwise."""
    path = write(tmp_path / "a.mp4", (np.rot90(grey(i)) for i in range(4)))
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 28 + 16
    assert struct.unpack(">9i", data[at : at + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames = read_frames(path, 4)
    assert frames.images.shape == (4, 48, 64, 3)
    assert (frames.images[:, 2:9, 2:12] > 245).all() and (frames.images[:, 15:] < 15).all()


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    images = [PIL.Image.fromarray(grey(10 * i, 120, 160)) for i in range(6)]
    path = tmp_path / f"a{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=200, lossless=True)
    frames = read_frames(path, 3, max_size=80)
    assert frames.images.shape == (3, 60, 80, 3)
    np.testing.assert_allclose(frames.times, [0, 0.4, 1.0], atol=0.21)
    assert numbers(frames.images) == pytest.approx([50 * t for t in frames.times], abs=2)


def test_playlists_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "part.ts", map(grey, range(8)))
    for name, line in (("local.m3u8", "part.ts"), ("live.m3u8", "http://127.0.0.1:9/part.ts")):
        path = tmp_path / name
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{line}\n")
        with pytest.raises(V3DError, match="not a video"):
            read_frames(path, 4)
    with pytest.raises(V3DError, match="no video file"):
        read_frames("http://127.0.0.1:9/live.m3u8", 4)


@pytest.mark.parametrize("content", [b"", b"junk" * 300, 700])
def test_broken_files_are_named(tmp_path: Path, content: bytes | int) -> None:
    path = write(tmp_path / "broken.mp4", map(grey, range(6)))
    path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    with pytest.raises(V3DError, match=r"broken\.mp4"):
        read_frames(path, 4)


def test_a_video_cut_short_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    path = write(tmp_path / "cut.mp4", noise)
    whole = path.read_bytes()
    assert whole.find(b"moov") < whole.find(b"mdat")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(V3DError, match=r"cut\.mp4 is (cut short|damaged)"):
        read_frames(path, 40)
