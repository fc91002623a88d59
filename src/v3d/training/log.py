"""The log of a run: one JSON line every few steps, copied to TensorBoard where it is installed."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v3d.files import atomic


class Log:
    """`log.jsonl` of a run, with means over the steps since the last line.

    Between lines nothing is read from the values' device: sums are kept there.
    """

    def __init__(self, folder: Path, *, after_step: int) -> None:
        """Go on after `after_step`; later lines, of steps that a killed run lost, are dropped."""
        self._path = folder / "log.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if _step(line) <= after_step]
        with atomic(self._path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))
        self._sums: dict[str, Tensor] = {}
        self._board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=after_step + 1)

    def add(self, values: dict[str, Tensor]) -> None:
        """Count values per sample [B]; NaN stands for samples that a name does not concern."""
        for name, value in values.items():
            finite = value.isfinite()
            sum_and_count = torch.stack([value.where(finite, 0).double().sum(), finite.double().sum()])
            self._sums[name] = self._sums[name] + sum_and_count if name in self._sums else sum_and_count

    def line(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """Write the means since the last line, and `values`; returns what was written but for non-numbers."""
        sums = torch.stack([*self._sums.values()]).tolist() if self._sums else []
        means = {name: total / count for name, (total, count) in zip(self._sums, sums, strict=True) if count}
        self._sums.clear()
        record = {k: _rounded(v) if math.isfinite(v) else None for k, v in (means | values).items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **record}) + "\n")
        if self._board is not None:
            for name, number in record.items():
                if number is not None:
                    self._board.add_scalar(name, number, step)
            self._board.flush()
        return {"step": step, **{k: v for k, v in record.items() if v is not None}}


def _rounded(value: float) -> float:
    """Five decimals; of what is below 0.1, such as a learning rate, five digits."""
    return round(value, 5) if abs(value) >= 0.1 else float(f"{value:.5g}")


def _step(line: str) -> float:
    """The step of a line; one that was cut short belongs to none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
