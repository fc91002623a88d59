"""What tests of training share: a run in a process of its own, and what a run leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from v3d.training.checkpoint import FILE
from v3d.training.recipe import Recipe
from v3d.training.recipe_json import to_json


def training(recipe: Recipe, out: Path, init: Path | None = None) -> list[str]:
    """The command of a process that trains.

    It has as many threads as this one: sums of bfloat16 differ with their number.
    """
    program = (
        "import sys; from pathlib import Path; from v3d.training.recipe_json import from_json;"
        "from v3d.training.session import train;"
        "train(from_json(sys.argv[1]), Path(sys.argv[2]), device='cpu', threads=int(sys.argv[3]), workers=0,"
        " init=sys.argv[4] or None)"
    )
    return [
        sys.executable,
        "-c",
        program,
        to_json(recipe),
        str(out),
        str(torch.get_num_threads()),
        str(init or ""),
    ]


def values(folder: Path, name: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def losses(folder: Path) -> dict[int, float]:
    return values(folder, "loss")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / FILE)
