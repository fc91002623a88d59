"""Weights that ship with the package; their model cards say what they saw."""

from __future__ import annotations

from pathlib import Path

MINI = Path(__file__).parent / "mini"
MINI_SCENE = Path(__file__).parent / "mini-scene"
IMAGENET = Path(__file__).parent / "imagenet"
U2NETP = Path(__file__).parent / "u2netp"


def weights_folder(name: str | Path) -> Path:
    """The folder of the weights that ship as "mini" or "mini-scene"; any other name is a folder itself."""
    return {"mini": MINI, "mini-scene": MINI_SCENE}.get(str(name), Path(name))
