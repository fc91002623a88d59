"""Several textured meshes as one: two objects put together, parts joined under one texture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from v3d.data.random_numbers import uniform
from v3d.meshes.mesh import Mesh


def combine(a: Mesh, b: Mesh, generator: torch.Generator) -> Mesh:
    """Two textured objects as one: `b`, 0.4 to 1 times as large as `a`, on top of it or beside it."""
    (low, high), (least, most) = ((m.vertices.amin(0), m.vertices.amax(0)) for m in (a, b))
    scale = uniform(generator, 0.4, 1.0) * (high - low).max() / (most - least).max().clamp_min(1e-9)
    turn = uniform(generator, 0, 2 * math.pi)
    spin = torch.tensor(
        [[math.cos(turn), -math.sin(turn), 0.0], [math.sin(turn), math.cos(turn), 0.0], [0.0, 0.0, 1.0]]
    )
    vertices = scale * (b.vertices - (least + most) / 2) @ spin.T
    reach = vertices.amax(0)
    center = (low + high) / 2
    if uniform(generator, 0, 1) < 0.6:
        center = torch.stack([center[0], center[1], high[2] + uniform(generator, 0.8, 1.0) * reach[2]])
    else:
        angle = uniform(generator, 0, 2 * math.pi)
        away = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
        # As far as the boxes' extents in that direction say that both have room.
        apart = float(((high - low)[:2] / 2 + reach[:2]) @ away[:2].abs())
        center = center + uniform(generator, 0.6, 1.0) * apart * away
        center[2] = low[2] + reach[2]
    return join([a, Mesh(vertices + center, b.faces, b.uv, b.texture)])


def join(parts: Sequence[Mesh]) -> Mesh:
    """Textured meshes as one, their textures stacked in one atlas (each once, however many wear it)."""
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
