"""Smooth distortions of an object, so that training sees more shapes than the corpus has.

A network that reads shape from one photo soon memorises 1,600 objects; an object that never comes twice in
the same shape has to be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MIRROR = torch.tensor([1.0, -1.0, 1.0])
"""Factors that mirror points left to right: fronts look along +x."""


@dataclass(frozen=True)
class Warp:
    """A smooth displacement of space, the sum of K waves.

    Points are measured from the middle of the object's box, in halves of its longest side. The displacement's
    slopes sum to less than 1, so the map has an inverse and no surface passes through another.

    Attributes:
        frequency: [K, 3] radians per unit.
        amplitude: [K, 3].
        phase: [K].
        symmetric: keep an object whose left and right are alike so.
    """

    frequency: Tensor
    amplitude: Tensor
    phase: Tensor
    symmetric: bool

    def __call__(self, vertices: Tensor) -> Tensor:
        """Displace the vertices [P, 3] of one object; returns [P, 3]."""
        low, high = vertices.amin(0), vertices.amax(0)
        half = ((high - low).max() / 2).clamp_min(1e-9)
        x = (vertices - (low + high) / 2) / half
        moved = self._displacement(x)
        if self.symmetric:
            moved = (moved + self._displacement(x * MIRROR) * MIRROR) / 2
        return vertices + half * moved

    def _displacement(self, x: Tensor) -> Tensor:
        return torch.sin(x @ self.frequency.T + self.phase) @ self.amplitude


def random_warp(generator: torch.Generator, waves: int = 4, slope: float = 0.24) -> Warp:
    """Waves of at least two and at most eight box halves, each with a slope of at most `slope`."""
    direction = F.normalize(torch.randn(2, waves, 3, generator=generator), dim=-1)
    pace = 0.8 * 4 ** torch.rand(waves, 1, generator=generator)
    steep = slope * torch.rand(waves, 1, generator=generator)
    return Warp(
        frequency=direction[0] * pace,
        amplitude=direction[1] * steep / pace,
        phase=2 * math.pi * torch.rand(waves, generator=generator),
        symmetric=bool(torch.rand((), generator=generator) < 0.6),
    )
