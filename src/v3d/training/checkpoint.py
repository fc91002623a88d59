"""The state of a run in one safetensors file, replaced whole or not at all; nothing is pickled."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.training.recipe import Recipe
from v3d.training.recipe_json import from_json, to_json

FILE = "checkpoint.safetensors"
"""Name of a checkpoint in its run's folder."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come. With the seed it determines every random choice to come: no generator is kept.

    Attributes:
        step: optimiser steps done.
        position: samples drawn from the data.
        seconds: of computing, over all sessions.
        skipped: steps whose gradient was not finite.
    """

    step: int = 0
    position: int = 0
    seconds: float = 0.0
    skipped: int = 0


def save_checkpoint(
    folder: Path,
    recipe: Recipe,
    progress: Progress,
    network: nn.Module,
    average: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Write `folder/checkpoint.safetensors`: weights, averaged weights, optimiser, progress and recipe."""
    weights, averages = network.state_dict(), average.state_dict()
    tensors = {f"network.{k}": v for k, v in weights.items()}
    # Frozen weights are the same tensors in both, and are written once.
    tensors |= {f"ema.{k}": v for k, v in averages.items() if v.data_ptr() != weights[k].data_ptr()}
    for n, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{n}.{i}.{k}": v for k, v in state.items()}
    metadata = {"recipe": to_json(recipe), "progress": json.dumps(dataclasses.asdict(progress))}
    with atomic(folder / FILE) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata)


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run's folder.

    Raises:
        V3DError: there is no checkpoint, or it cannot be read.
    """
    return from_json(_open(folder).metadata()["recipe"])


def load_checkpoint(
    folder: Path, network: nn.Module, average: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> Progress:
    """Put weights, average and optimisers of a checkpoint back in place; returns how far its run had come.

    Raises:
        V3DError: there is no checkpoint, it cannot be read, or it does not fit the networks.
    """
    file = _open(folder)
    try:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        network.load_state_dict(_under("network", tensors))
        average.load_state_dict(_under("network", tensors) | _under("ema", tensors))
        for n, optimizer in enumerate(optimizers):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {i: _in_layout(_under(f"optimizer{n}.{i}", tensors), p) for i, p in enumerate(parameters)}
            optimizer.load_state_dict(
                {**optimizer.state_dict(), "state": {i: s for i, s in state.items() if s}}
            )
        return Progress(**json.loads(file.metadata()["progress"]))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise V3DError(f"{folder / FILE} does not fit this recipe ({str(error).splitlines()[0]}).") from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")}


def _in_layout(state: dict[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
    """An optimiser's state of one parameter, in the parameter's memory layout."""
    return {
        k: torch.empty_like(parameter, requires_grad=False).copy_(v) if v.shape == parameter.shape else v
        for k, v in state.items()
    }


def _open(folder: Path) -> Any:
    path = folder / FILE
    if not path.is_file():
        raise V3DError(f"{folder} holds no checkpoint to resume from ({FILE}).")
    try:
        file: Any = safe_open(path, "pt")
        missing = {"recipe", "progress"} - set(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise V3DError(
            f"{path} is damaged ({error}); start anew, or --init from the run's model folder."
        ) from error
    if missing:
        raise V3DError(f"{path} is not a checkpoint of v3d train.")
    return file
