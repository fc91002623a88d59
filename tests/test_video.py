"""Videos survive the round trip; broken ones are refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from v3d.capture.video import read_frames
from v3d.errors import V3DError
from v3d.video import save_video


def clip(n: int = 6, height: int = 48, width: int = 64) -> torch.Tensor:
    """A coloured square that moves over a coloured ramp."""
    ramp = torch.linspace(0.1, 0.9, width)
    frames = torch.stack([ramp, 1 - ramp, torch.full((width,), 0.5)], -1).expand(n, height, width, 3).clone()
    for i in range(n):
        frames[i, 8:24, 8 + 4 * i : 24 + 4 * i] = torch.tensor([0.8, 0.2, 0.1])
    return frames


def load_video(path: Path) -> torch.Tensor:
    return torch.from_numpy(read_frames(path, 10**6).images).float() / 255


def test_round_trip_keeps_frames_and_colours(tmp_path: Path) -> None:
    frames = clip()
    save_video(frames, tmp_path / "a" / "clip.mp4")
    loaded = load_video(tmp_path / "a" / "clip.mp4")
    assert loaded.shape == frames.shape
    assert (loaded - frames).abs().mean() < 0.01
    # Flat colours come back to 2 steps of 8 bits: no wrong matrix, no wrong range.
    for i in range(len(frames)):
        assert (loaded[i, 12:20, 12 + 4 * i : 20 + 4 * i] - frames[i, 12, 12 + 4 * i]).abs().max() < 0.02
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["clip.mp4"]


def test_odd_sides_lose_a_line(tmp_path: Path) -> None:
    save_video(clip(2, 33, 47), tmp_path / "odd.mp4")
    assert load_video(tmp_path / "odd.mp4").shape == (2, 32, 46, 3)


def test_frame_rate(tmp_path: Path) -> None:
    import av

    save_video(clip(), tmp_path / "clip.mp4", fps=12.5)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 12.5
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.name == "h264"


def test_empty_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="at least one frame"):
        save_video(torch.zeros(0, 8, 8, 3), tmp_path / "a.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(V3DError):
        save_video(clip(1), tmp_path / "file" / "a.mp4")
