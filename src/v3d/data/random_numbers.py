"""Random numbers from an explicit generator, so that the same seed gives the same data."""

from __future__ import annotations

import torch


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A random number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """A random integer from `low` to `high` - 1."""
    return int(torch.randint(low, high, (), generator=generator))
