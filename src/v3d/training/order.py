"""The order in which training sees its samples."""

from __future__ import annotations

import torch


class Order:
    """An endless sequence of indices below `count`: every epoch a new permutation, made by the seed.

    The position in it is all that a run must remember to go on exactly where it stopped.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, position: int) -> int:
        epoch, at = divmod(position, self._count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self._count, generator=generator)
        return int(self._permutation[at])
