"""What the training loop asks of a model (`Task`), and what it hands to it (`BatchShare`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


def step_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers that all samples of a step share."""
    return torch.Generator().manual_seed(2 * (seed * 1_000_003 + step))


@dataclass(frozen=True)
class BatchShare:
    """The part of a step's batch that is computed at once.

    Attributes:
        step: number of the step.
        position: samples drawn before this step.
        done: fraction of the run that is done.
        batch: samples of the whole step.
        samples: the ones to compute, numbers below `batch` in ascending order.
        seed: of the run.
        device: where they are computed.
    """

    step: int
    position: int
    done: float
    batch: int
    samples: list[int]
    seed: int
    device: torch.device

    def generator(self) -> torch.Generator:
        """Random numbers that all samples of the step share."""
        return step_generator(self.seed, self.step)

    def sample_generator(self, sample: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Random numbers of one sample, wherever and with whichever others it is computed."""
        where = self.position + sample
        return torch.Generator(device).manual_seed(2 * (self.seed * 1_000_003 + where) + 1)


class Task(Protocol):
    """What is trained; `v3d.training.tasks.vae`, `pixelnerf`, `video` and `svd` say how.

    Attributes:
        network: float32, on the run's device; parameters that do not require gradients stay as they are.
    """

    network: nn.Module

    def batch_size(self, step: int, done: float) -> int:
        """Samples of step number `step`, `done` in [0, 1] of the way."""
        ...

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        """Values [B] per sample; `loss` is minimised, the others are logged.

        NaN stands for samples that a value does not concern.
        """
        ...

    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """Measurements, and a picture [H, W, 3] in [0, 1] of what the network makes."""
        ...

    def refresh(self) -> None:
        """Take in data that have arrived since the last look."""
        ...

    def close(self) -> None:
        """End what the task has started: processes that render."""
        ...

    def export(self, network: nn.Module, folder: Path) -> None:
        """Write weights that V3D loads."""
        ...
