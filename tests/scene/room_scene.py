"""A small textured world, rendered by our own renderer: ground, two walls, two boxes and a ball."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from v3d.cameras import Cameras, intrinsics, look_at
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render
from v3d.views import Views

TILE = 32  # texels of one part's texture


def room() -> Mesh:
    """The ground is at z = -0.5, walls stand at x = -2.5 and y = 2.5; objects around the origin."""
    ground = _plane([-2.5, -2.5, -0.5], [5, 0, 0], [0, 5, 0])
    walls = [
        _plane([-2.5, -2.5, -0.5], [0, 5, 0], [0, 0, 2]),
        _plane([-2.5, 2.5, -0.5], [5, 0, 0], [0, 0, 2]),
    ]
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.4).apply_translation([0.3, -0.1, -0.1])
    tower = trimesh.creation.box((0.4, 0.4, 0.9)).apply_translation([-0.6, 0.4, -0.05])
    chest = trimesh.creation.box((0.5, 0.7, 0.4)).apply_translation([-0.2, -0.9, -0.3])
    solids = [_unrolled(solid) for solid in (ball, tower.subdivide(), chest.subdivide())]
    parts = [ground, *walls, *solids]
    generator = torch.Generator().manual_seed(0)
    atlas, vertices, faces, uvs, count = [], [], [], [], 0
    for k, (v, f, uv) in enumerate(parts):
        coarse = torch.rand(1, 3, 8, 8, generator=generator) * 0.8 + 0.1
        tile = torch.nn.functional.interpolate(coarse, (TILE, TILE), mode="bicubic")[0].clamp(0, 1)
        atlas.append(tile.permute(1, 2, 0))
        inner = uv * (1 - 2 / TILE) + 1 / TILE
        uvs.append(torch.stack([(inner[:, 0] + k) / len(parts), inner[:, 1]], -1))
        vertices.append(v)
        faces.append(f + count)
        count += len(v)
    return Mesh(torch.cat(vertices), torch.cat(faces), torch.cat(uvs), torch.cat(atlas, 1))


def ring(
    count: int, size: int = 64, *, radius: float = 1.5, height: float = 0.5, turn: float = 0.0
) -> Cameras:
    """Cameras on half a circle on the open side of the room, looking at its middle."""
    phi = torch.linspace(-1.9, 0.4, count + 1)[:count] + turn
    centers = torch.stack([radius * phi.cos(), radius * phi.sin(), torch.full_like(phi, height)], -1)
    return Cameras(
        look_at(centers, (-0.2, 0.0, -0.1)), intrinsics(65, size, size).repeat(count, 1, 1), size, size
    )


def rendered(cameras: Cameras) -> tuple[Views, torch.Tensor]:
    """The room in front of a plain blue sky, and its depth [V, H, W] (0 in the sky)."""
    image = render(room(), cameras, light=Light(torch.tensor([1.0, -0.6, 1.2]), 0.7), supersample=3)
    sky = torch.tensor([0.55, 0.7, 0.95])
    rgb = image.rgb + (1 - image.alpha)[..., None] * (sky - 1)
    depth = image.depth * (image.alpha > 0.99)
    return Views(rgb, torch.ones_like(image.alpha), cameras), depth


def _plane(origin: list[float], u: list[float], v: list[float], n: int = 24) -> tuple[torch.Tensor, ...]:
    """A rectangle in many small triangles: the renderer drops those that reach behind a camera."""
    a, b = torch.meshgrid(torch.linspace(0, 1, n + 1), torch.linspace(0, 1, n + 1), indexing="ij")
    uv = torch.stack([a.flatten(), b.flatten()], -1)
    points = torch.tensor(origin) + uv @ torch.tensor([u, v], dtype=torch.float32)
    i = torch.arange((n + 1) * n).view(n, n + 1)[:, :n].flatten()
    faces = torch.cat(
        [torch.stack([i, i + n + 1, i + 1], -1), torch.stack([i + 1, i + n + 1, i + n + 2], -1)]
    )
    return points, faces, uv


def _unrolled(solid: trimesh.Trimesh) -> tuple[torch.Tensor, ...]:
    """A solid with its height and one direction across as texture coordinates."""
    vertices = torch.tensor(np.asarray(solid.vertices), dtype=torch.float32)
    across = vertices[:, :2].sum(-1) - 0.5 * vertices[:, 0]
    uv = torch.stack([across, vertices[:, 2]], -1)
    low, high = uv.amin(0), uv.amax(0)
    return vertices, torch.tensor(np.asarray(solid.faces)), (uv - low) / (high - low)
