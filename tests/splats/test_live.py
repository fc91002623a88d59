"""The picture of Gaussians while they are fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from v3d.cameras import orbit
from v3d.splats import live
from v3d.splats.gaussians import Splats


def blob() -> Splats:
    """A red Gaussian at the origin."""
    quats = torch.tensor([[1.0, 0, 0, 0]])
    scales, opacity = torch.full((1, 3), -1.2), torch.tensor([6.0])
    return Splats(torch.zeros(1, 3), quats, scales, opacity, torch.tensor([[0.9, 0.1, 0.1]]))


def test_it_shows_the_gaussians_and_is_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_EVERY", 0.0)
    path = tmp_path / live.LIVE
    with live.LivePicture(path, orbit(1, size=512)) as picture:
        picture(blob())
        with Image.open(path) as image:
            shown = np.asarray(image).astype(int)
    assert shown.shape == (256, 256, 3)
    assert (shown[128, 128, 0] > 180) and (shown[128, 128, 1] < 80) and shown[0, 0].min() > 240
    assert not path.exists()


def test_pictures_keep_their_distance(tmp_path: Path) -> None:
    with live.LivePicture(tmp_path / "fit.jpg", orbit(1, size=32)) as picture:
        picture(blob())
        assert not (tmp_path / "fit.jpg").exists()  # nothing before two seconds
