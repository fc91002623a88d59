"""Weights that ship with the package; their model cards say what they saw."""

from __future__ import annotations

from pathlib import Path

MINI = Path(__file__).parent / "mini"
MINI_SCENE = Path(__file__).parent / "mini-scene"
IMAGENET = Path(__file__).parent / "imagenet"
