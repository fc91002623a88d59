"""The framing law, of photos: `v3d.framing`; and resizing with alpha."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import disc, save

from v3d.capture.photo import Photo, load_photo
from v3d.compositing import over_white, resize_rgba
from v3d.framing import BORDER_RATIO, frame_photo, visible_box


@settings(max_examples=60, deadline=None)
@given(st.integers(9, 80), st.integers(9, 80), st.integers(0, 60), st.integers(0, 60), st.integers(0, 50))
def test_framing_law(width: int, height: int, left: int, top: int, extra: int) -> None:
    rgba = torch.zeros(top + height + extra, left + width + 3, 4)
    rgba[top : top + height, left : left + width] = 1
    framed = frame_photo(rgba)
    size = framed.shape[0]
    x0, y0, x1, y1 = visible_box(framed[..., 3])
    assert (x1 - x0, y1 - y0) == (width, height)
    assert size == round(max(width, height) / (1 - BORDER_RATIO)) or framed.shape == rgba.shape
    assert abs(x0 + x1 - size) <= 1
    assert abs(y0 + y1 - size) <= 1
    assert torch.equal(frame_photo(framed), framed)


def test_framing_keeps_pixels_and_soft_edges() -> None:
    rgba = torch.rand(90, 120, 4)
    rgba[..., 3] = torch.from_numpy(disc(90, 120, 30.0)).float()
    framed = frame_photo(rgba)
    left, top, _, _ = visible_box(rgba[..., 3])
    x, y, _, _ = visible_box(framed[..., 3])
    assert torch.equal(framed[y - 2 : y + 62, x - 2 : x + 62], rgba[top - 2 : top + 62, left - 2 : left + 62])


def test_framing_reduces_large_objects_by_the_law() -> None:
    rgba = torch.zeros(2100, 2400, 4)
    rgba[50:2050, 100:2300] = 1
    framed = frame_photo(rgba)
    x0, _, x1, _ = visible_box(framed[..., 3])
    assert framed.shape[0] == 2048
    assert x1 - x0 == pytest.approx(0.7 * 2048, abs=1)
    assert torch.equal(frame_photo(framed), framed)


def test_no_recentre_keeps_the_framing(tmp_path: Path) -> None:
    rgba = np.zeros((60, 100, 4), np.uint8)
    rgba[5:25, 10:30] = 255
    photo = load_photo(save(tmp_path / "photo.png", rgba), recentre=False)
    assert photo.rgba.shape == (100, 100, 4)
    assert visible_box(photo.rgba[..., 3]) == (10, 25, 30, 45)


def test_resizing_does_not_bleed_hidden_colours() -> None:
    rgba = torch.zeros(64, 64, 4)
    rgba[..., 1] = 1.0  # green where nothing is seen
    rgba[16:48, 16:48] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    small = resize_rgba(rgba, 13, 13)
    seen = small[..., 3] > 0.01
    assert small[seen][:, 1].max() < 1e-4
    assert small[..., 3].mean() == pytest.approx(0.25, abs=0.01)
    composited = over_white(small[..., :3], small[..., 3])
    assert composited.shape == (13, 13, 3)
    assert composited[0, 0].min() == 1
    assert torch.equal(Photo(rgba, rgba).resized(13), small)
