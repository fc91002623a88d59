"""Between lines of the log the loop waits for its device once a step, and the log never does."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from v3d.training import loop
from v3d.training.log import Log
from v3d.training.recipe import VideoRecipe
from v3d.training.task import BatchShare

aten = torch.ops.aten
WAITS = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.nonzero.default}
WAITS |= {aten.masked_select.default, aten.equal.default}


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host must read before it can go on, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        masks = func is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += func in WAITS or masks
        return func(*args, **(kwargs or {}))


def test_what_waits_is_counted() -> None:
    x = torch.arange(4.0)
    for wait in (lambda: float(x.sum()), lambda: bool(x.isfinite().all()), lambda: x[x > 1], x.nonzero):
        with Waits() as waits:
            wait()
        assert waits.count >= 1


def test_the_log_adds_without_waiting(tmp_path: Path) -> None:
    log = Log(tmp_path, after_step=0)
    with Waits() as waits:
        for k in range(5):
            log.add({"loss": torch.tensor([1.0, 2.0]) + k, "some": torch.tensor([math.nan, 1.0])})
            log.add({"loss": torch.tensor([4.0])})
    assert waits.count == 0
    assert log.line(5, {}) == {"step": 5, "loss": pytest.approx(11 / 3, abs=1e-5), "some": 1.0}


class Regression(nn.Module):
    """Two matrices, of which Muon takes one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False)])
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.blocks[0](x))
        return y


class RegressionTask:
    """A task that never waits for its device itself."""

    def __init__(self) -> None:
        self.network: nn.Module = Regression()

    def batch_size(self, step: int, done: float) -> int:
        return 2

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        loss = (network(torch.ones(len(share.samples), 4)) - 3).square()[:, 0]
        return {"loss": loss, "large": loss.where(loss > 1, torch.nan)}

    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        return {}, None

    def refresh(self) -> None: ...

    def close(self) -> None: ...

    def export(self, network: nn.Module, folder: Path) -> None: ...


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_waits_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Literal["adamw", "muon"]
) -> None:
    """Once, to decide whether its gradient is finite; saving and writing a line may wait."""
    counts: Counter[int] = Counter()
    step = loop._Training.step

    def counted(self: loop._Training, *args: Any) -> bool:
        with Waits() as waits:
            stop = step(self, *args)
        counts[waits.count] += 1
        return stop

    monkeypatch.setattr(loop._Training, "step", counted)
    recipe = VideoRecipe(
        steps=12, accumulate=2, log_steps=6, warmup=1, optimizer=optimizer, precision="float32"
    )
    assert loop.run(RegressionTask(), recipe, tmp_path).step == 12
    assert counts == {1: 12}
