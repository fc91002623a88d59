"""The processes of a training run: one, or as many as `accelerate launch` (or torchrun) started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from v3d.errors import V3DError
from v3d.runtime import has_fast_bfloat16, pick_device
from v3d.settings import Device

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU
    _accelerator: Any = None

    @staticmethod
    def open(device: Device = "auto") -> Processes:
        """Join the other processes, if there are any.

        Raises:
            V3DError: several processes were started without accelerate, or there is no such device.
        """
        chosen = pick_device(device)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes(device=torch.device(chosen))
        try:
            from accelerate import Accelerator
        except ImportError:
            raise V3DError(
                "Training in several processes needs accelerate: pip install 'accelerate>=1.0'."
            ) from None
        accelerator = Accelerator(cpu=chosen == "cpu")
        return Processes(
            accelerator.process_index, accelerator.num_processes, accelerator.device, accelerator
        )

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def precision(self, wanted: Literal["auto", "float32", "bfloat16"]) -> torch.dtype:
        """Type of the arithmetic; "auto" is bfloat16 where the device is fast at it."""
        if wanted == "auto":
            fast = torch.cuda.is_bf16_supported() if self.device.type == "cuda" else has_fast_bfloat16()
            return torch.bfloat16 if fast else torch.float32
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32

    def sum_(self, tensors: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        """Replace float32 tensors by their sums over all processes; returns the sums of the numbers.

        All travel in one message. A single process neither copies nor waits for its device.
        """
        if self.size == 1:
            return list(numbers)
        parts = [*tensors, torch.tensor(numbers, device=self.device)]
        flat = self._accelerator.reduce(torch.cat([t.flatten() for t in parts]), "sum")
        *sums, total = torch.split(flat, [t.numel() for t in parts])
        for tensor, part in zip(tensors, sums, strict=True):
            tensor.copy_(part.view_as(tensor))
        return [float(x) for x in total.tolist()]

    def broadcast_(self, tensor: Tensor, rank: int) -> None:
        """Replace a tensor by that of process `rank`; all processes call this in one order."""
        if self.size > 1:
            torch.distributed.broadcast(tensor, rank)

    def wait(self) -> None:
        """Wait until all processes have come this far."""
        if self.size > 1:
            self._accelerator.wait_for_everyone()


SINGLE_PROCESS = Processes()
"""A single process on the CPU."""
