"""Tests of capture look for no matting model, whatever this machine has."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_matting_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V3D_MATTING", "off")
