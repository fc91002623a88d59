"""Shapes that tests of several rooms share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor

from v3d.cameras import Cameras
from v3d.compositing import over_white
from v3d.meshes.mesh import Mesh
from v3d.objects.pipeline import Asset
from v3d.views import Views

Draw = Callable[..., Path]
"""Draws an object into a file of this name, in a test's folder: a fixture of `tests/serving`."""


def textured(shape: trimesh.Trimesh, seed: int, cells: int = 4) -> Mesh:
    """The shape with smooth noise of `cells` x `cells` colours, laid on by height and side."""
    vertices = torch.tensor(np.asarray(shape.vertices), dtype=torch.float32)
    texture = torch.rand(cells, cells, 3, generator=torch.Generator().manual_seed(seed))
    texture = torch.nn.functional.interpolate(texture.permute(2, 0, 1)[None], (80, 80), mode="bilinear")[0]
    low, high = vertices.amin(0), vertices.amax(0)
    uv = ((vertices - low) / (high - low).clamp_min(1e-6))[:, [1, 2]]
    return Mesh(vertices, torch.tensor(np.asarray(shape.faces)), uv, texture.permute(1, 2, 0).contiguous())


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    """The shape without texture."""
    vertices = torch.tensor(np.asarray(shape.vertices), dtype=torch.float32)
    return Mesh(vertices, torch.tensor(np.asarray(shape.faces), dtype=torch.int64))


def sphere_mesh(radius: float = 0.5, subdivisions: int = 3) -> Mesh:
    """An icosphere at the origin."""
    return mesh_of(trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius))


def box_mesh(*sides: float) -> Mesh:
    """A box of these side lengths at the origin: two triangles a face."""
    return mesh_of(trimesh.creation.box(extents=sides))


def normal_colours(normal: Tensor) -> Tensor:
    """A colour for every direction: unit normals [..., 3] -> [..., 3] in [0, 1]."""
    return normal * 0.5 + 0.5


def ball_views(
    cameras: Cameras,
    radius: float = 0.6,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    colour: Callable[[Tensor], Tensor] = normal_colours,
) -> Views:
    """A ball seen exactly; alpha falls across its outline over the width of a pixel.

    Args:
        colour: unit normals [..., 3] of the ball -> colours [..., 3].
    """
    origin, direction = cameras.rays()
    direction = torch.nn.functional.normalize(direction, dim=-1)
    to_centre = torch.tensor(centre, dtype=torch.float32) - origin
    along = (to_centre * direction).sum(-1, keepdim=True)
    miss = (to_centre - along * direction).norm(dim=-1)
    alpha = ((radius - miss) * cameras.K[0, 0, 0] / along[..., 0] + 0.5).clamp(0, 1)
    half_chord = (radius**2 - miss**2).clamp_min(0).sqrt()[..., None]
    normal = (direction * (along - half_chord) - to_centre) / radius
    return Views(over_white(colour(normal).clamp(0, 1), alpha), alpha, cameras)


def reused(asset: Asset) -> dict[str, bool]:
    """Stage -> whether it was loaded from an earlier run."""
    return {name: record["reused"] for name, record in asset.report["stages"].items()}


def lopsided_mesh() -> Mesh:
    """A body with an arm, a nose and a hat: no two sides look alike; warm, so nothing is white or grey."""
    parts = [
        trimesh.creation.box(extents=extents, transform=trimesh.transformations.translation_matrix(place))
        for extents, place in (
            ((0.5, 0.4, 0.9), (0.0, 0.0, -0.1)),
            ((0.2, 0.6, 0.2), (0.0, 0.4, 0.1)),
            ((0.4, 0.2, 0.2), (0.35, -0.1, -0.3)),
            ((0.3, 0.3, 0.3), (-0.1, -0.05, 0.45)),
        )
    ]
    mesh = textured(trimesh.util.concatenate(parts), seed=3)
    assert mesh.texture is not None
    warm = mesh.texture * torch.tensor([0.6, 0.35, 0.2]) + torch.tensor([0.3, 0.1, 0.05])
    return replace(mesh, texture=warm)
