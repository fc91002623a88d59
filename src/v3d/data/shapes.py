"""More shapes than the corpus has: smooth distortions of an object, and two objects put together.

A network that reads shape from one photo soon knows 1,600 objects by heart; an object that is never twice the
same has to be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.meshes.mesh import Mesh

MIRROR = torch.tensor([1.0, -1.0, 1.0])  # left to right: fronts look along +x


@dataclass(frozen=True)
class Warp:
    """A smooth displacement of space, the sum of K waves.

    Points are measured from the middle of the object's box, in halves of its longest side. The displacement's slopes
    sum to less than 1, so the map has an inverse and no surface passes through another.

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
        """[P, 3] -> [P, 3]."""
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


def combine(a: Mesh, b: Mesh, generator: torch.Generator) -> Mesh:
    """`b`, at 0.4 to 1 of the size of `a`, on top of it or beside it on the same ground; both are textured."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    (low, high), (least, most) = ((m.vertices.amin(0), m.vertices.amax(0)) for m in (a, b))
    scale = uniform(0.4, 1.0) * (high - low).max() / (most - least).max().clamp_min(1e-9)
    turn = uniform(0, 2 * math.pi)
    spin = torch.tensor(
        [[math.cos(turn), -math.sin(turn), 0.0], [math.sin(turn), math.cos(turn), 0.0], [0.0, 0.0, 1.0]]
    )
    vertices = scale * (b.vertices - (least + most) / 2) @ spin.T
    reach = vertices.amax(0)
    center = (low + high) / 2
    if uniform(0, 1) < 0.6:
        center = torch.stack([center[0], center[1], high[2] + uniform(0.8, 1.0) * reach[2]])
    else:
        angle = uniform(0, 2 * math.pi)
        away = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
        # As far as the boxes' extents in that direction say that both have room.
        apart = float(((high - low)[:2] / 2 + reach[:2]) @ away[:2].abs())
        center = center + uniform(0.6, 1.0) * apart * away
        center[2] = low[2] + reach[2]
    return join([a, Mesh(vertices + center, b.faces, b.uv, b.texture)])


def join(parts: Sequence[Mesh]) -> Mesh:
    """Textured meshes as one, their textures one above the other (once each, however many wear it)."""
    textures: list[Tensor] = []
    rows: list[int] = []  # of each part's texture
    for part in parts:
        assert part.uv is not None and part.texture is not None
        rows.append(next((i for i, t in enumerate(textures) if t is part.texture), len(textures)))
        if rows[-1] == len(textures):
            textures.append(part.texture)
    heights = [len(t) for t in textures]
    width, height = max(t.shape[1] for t in textures), sum(heights)
    atlas = torch.ones(height, width, 3)
    vertices, faces, uv = [], [], []
    count = 0
    for part, row in zip(parts, rows, strict=True):
        assert part.uv is not None and part.texture is not None
        top, (h, w) = sum(heights[:row]), part.texture.shape[:2]
        atlas[top : top + h, :w] = part.texture
        vertices.append(part.vertices)
        faces.append(part.faces + count)
        uv.append(part.uv * torch.tensor([w / width, h / height]) + torch.tensor([0.0, top / height]))
        count += len(part.vertices)
    return Mesh(torch.cat(vertices), torch.cat(faces), torch.cat(uv), atlas)
