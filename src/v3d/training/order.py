"""The order in which training sees its samples, and how it passes over those that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from v3d.errors import V3DError

log = logging.getLogger(__name__)
T = TypeVar("T")
_IN_A_ROW = 100


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


class Passing:
    """Reads examples, and passes over those that cannot be read: one bad image must not end a run.

    Attributes:
        passed: number of an example that was passed over -> the first reason.
    """

    def __init__(self) -> None:
        self.passed: dict[int, str] = {}

    def draw(self, order: Order, position: int, read: Callable[[int], T]) -> T:
        """What `read` makes of the example at a position, or of the next one that can be read.

        Raises:
            V3DError: a hundred in a row cannot be read.
        """
        for at in range(position, position + _IN_A_ROW):
            try:
                return read(order[at])
            except V3DError as error:
                self._note(order[at], error)
        raise V3DError(
            f"{_IN_A_ROW} examples in a row cannot be used: {next(reversed(self.passed.values()))}"
        )

    def first(self, count: int, of: int, read: Callable[[int], T]) -> Iterator[T]:
        """What `read` makes of the first `count` examples that can be read, of `of` in all.

        Raises:
            V3DError: none can be read.
        """
        done = 0
        for i in range(of):
            try:
                value = read(i)
            except V3DError as error:
                self._note(i, error)
                continue
            yield value
            done += 1
            if done == count:
                return
        if done == 0:
            raise V3DError(
                f"None of {of} examples can be used: {next(iter(self.passed.values()), 'none is there')}"
            )

    def close(self, data: object) -> None:
        """Say at the end how many examples of `data` were passed over, if any, and why the first."""
        if self.passed:
            log.warning(
                "%d examples of %s were passed over; the first: %s",
                len(self.passed), data, next(iter(self.passed.values())),
            )  # fmt: skip

    def _note(self, example: int, error: V3DError) -> None:
        if example not in self.passed:
            self.passed[example] = str(error)
            log.warning("passed over example %d: %s", example, error)
