"""Shapes that tests of several rooms share."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from v3d.meshes.mesh import Mesh


def textured(shape: trimesh.Trimesh, seed: int, cells: int = 4) -> Mesh:
    """The shape with smooth noise of `cells` x `cells` colours, laid on by height and side."""
    vertices = torch.tensor(np.asarray(shape.vertices), dtype=torch.float32)
    texture = torch.rand(cells, cells, 3, generator=torch.Generator().manual_seed(seed))
    texture = torch.nn.functional.interpolate(texture.permute(2, 0, 1)[None], (80, 80), mode="bilinear")[0]
    low, high = vertices.amin(0), vertices.amax(0)
    uv = ((vertices - low) / (high - low).clamp_min(1e-6))[:, [1, 2]]
    return Mesh(vertices, torch.tensor(np.asarray(shape.faces)), uv, texture.permute(1, 2, 0).contiguous())
