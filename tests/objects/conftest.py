"""Settings that make the real pipeline tiny."""

from __future__ import annotations

from dataclasses import replace

import pytest

from v3d.objects.presets import PRESETS

SIZE = 48
"""Pixels of a view's side."""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quality standard with few of everything, at 48 pixels."""
    draft, standard = PRESETS["draft"], PRESETS["standard"]
    assert standard.surface is not None
    assert standard.refine is not None
    tiny = replace(
        standard,
        view_size=SIZE,
        hull=32,
        gaussians=400,
        splats=replace(draft.splats, iterations=80),
        perceptual=False,
        surface=replace(
            standard.surface,
            levels=tuple(replace(level, steps=10) for level in standard.surface.levels),
            image_size=SIZE,
            rays=256,
        ),
        faces=300,
        texture_size=64,
        refine=replace(standard.refine, sweeps=1),
        turntable=64,
    )
    monkeypatch.setitem(PRESETS, "standard", tiny)
