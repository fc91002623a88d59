"""What a run says: one JSON line every few steps, the same to TensorBoard where it is installed."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from v3d.files import atomic


class Log:
    """`log.jsonl` of a run, with means over the steps since the last line."""

    def __init__(self, folder: Path, *, after_step: int) -> None:
        """Go on after `after_step`; later lines, of steps that a killed run lost, are dropped."""
        self._path = folder / "log.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if _step(line) <= after_step]
        with atomic(self._path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=after_step + 1)

    def add(self, values: dict[str, Tensor]) -> None:
        """Count values per sample [B]; NaN stands for samples that a name does not concern."""
        for name, value in values.items():
            finite = value[value.isfinite()]
            self._sums[name] += float(finite.sum())
            self._counts[name] += len(finite)

    def line(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """Write the means since the last line, and `values`."""
        means = {k: self._sums[k] / self._counts[k] for k in self._sums if self._counts[k]}
        self._sums.clear()
        self._counts.clear()
        record = {k: round(v, 5) if math.isfinite(v) else None for k, v in (means | values).items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **record}) + "\n")
        if self._board is not None:
            for name, number in record.items():
                if number is not None:
                    self._board.add_scalar(name, number, step)
            self._board.flush()
        return {"step": step, **{k: v for k, v in record.items() if v is not None}}


def _step(line: str) -> float:
    """The step of a line; one that was cut short belongs to none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
