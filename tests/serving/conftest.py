"""Photos of objects that differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shapes import Draw


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Draws a red ellipse on nothing into a file below the test's folder."""

    def draw(name: str, width: float = 30.0) -> Path:
        y, x = np.mgrid[:90, :120] + 0.5
        rgba = np.zeros((90, 120, 4), np.uint8)
        rgba[np.hypot((x - 60) / width, (y - 45) / 30) < 1] = (200, 60, 30, 255)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgba).save(path)
        return path

    return draw
