"""Random camera clips of synthetic scenes: arcs, spirals, dollies and a hand-held walk around one point."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from v3d.cameras import Cameras, intrinsics, look_at
from v3d.data.random_numbers import uniform

SCENE_RADIUS = 1.5
"""Distance of a clip's farthest camera from the point that the clip looks at: the world's origin."""

LOWEST, HIGHEST = 5.0, 50.0  # elevation in degrees
_FOV = (35.0, 80.0)


def random_clip(
    generator: torch.Generator, views: int, size: int, radius: float, *, farther: float = 1.0
) -> Cameras:
    """A random clip around the origin: an arc, a spiral, a dolly or a hand-held walk.

    Args:
        generator: of all choices.
        views: cameras of the clip.
        size: pixels of an image's side.
        radius: of the ball at the origin that the cameras should more or less see.
        farther: factor of all distances.
    """
    fov = uniform(generator, *_FOV)
    distance = farther * uniform(generator, 0.75, 1.3) * radius / math.sin(math.radians(fov) / 2)
    path = [_arc, _spiral, _dolly, _walk][
        int(torch.multinomial(torch.tensor([0.3, 0.2, 0.15, 0.35]), 1, generator=generator))
    ]
    azimuth, elevation, factor = path(generator, torch.linspace(0, 1, views))
    azimuth, elevation = azimuth.deg2rad(), elevation.deg2rad()
    around = torch.stack(
        [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], -1
    )
    centers = (distance * factor)[:, None] * around
    handheld = path is _walk
    aim = torch.stack([_sway(generator, views, (0.15 if handheld else 0.03) * radius) for _ in range(3)], -1)
    # A camera that looks at `aim` from `centers` is one that looks at the origin from `centers - aim`, moved.
    c2w = look_at((centers - aim).double()).float()
    c2w[:, :3, 3] = centers
    c2w = c2w @ _roll(_sway(generator, views, math.radians(3.0) if handheld else 0.0))
    return Cameras(c2w, intrinsics(fov, size, size).repeat(views, 1, 1), size, size)


def normalised(cameras: Cameras) -> tuple[Cameras, float]:
    """A clip scaled about the origin so that its farthest camera is at `SCENE_RADIUS`, and the scale."""
    scale = SCENE_RADIUS / float(cameras.centers.norm(dim=-1).max())
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] *= scale
    return replace(cameras, c2w=c2w), scale


Path = tuple[Tensor, Tensor, Tensor]  # azimuth, elevation (degrees), factor of the distance: [V] each


def _arc(generator: torch.Generator, t: Tensor) -> Path:
    """Part of a circle, or all of it."""
    extent = _sign(generator) * uniform(generator, 50, 360)
    return (
        uniform(generator, 0, 360) + extent * t,
        torch.full_like(t, uniform(generator, LOWEST, HIGHEST)),
        torch.ones_like(t),
    )


def _spiral(generator: torch.Generator, t: Tensor) -> Path:
    """Around, while the height and the distance change."""
    extent = _sign(generator) * uniform(generator, 120, 500)
    start, end = uniform(generator, LOWEST, HIGHEST), uniform(generator, LOWEST, HIGHEST)
    return (
        uniform(generator, 0, 360) + extent * t,
        start + (end - start) * t,
        1 + (uniform(generator, 0.75, 1.3) - 1) * t,
    )


def _dolly(generator: torch.Generator, t: Tensor) -> Path:
    """Towards the scene or away from it, drifting sideways."""
    t = t if uniform(generator, 0, 1) < 0.5 else 1 - t
    elevation = uniform(generator, LOWEST + 5, HIGHEST - 5)
    far, near = uniform(generator, 1.1, 1.6), uniform(generator, 0.65, 0.9)
    return (
        uniform(generator, 0, 360) + uniform(generator, -30, 30) * t,
        elevation + uniform(generator, -5, 5) * t,
        far + (near - far) * t,
    )


def _walk(generator: torch.Generator, t: Tensor) -> Path:
    """From one random place to the next, smoothly: what someone with a camera does."""
    keys, spread = 4, uniform(generator, 25, 120)
    azimuth = spread * (2 * torch.rand(keys, generator=generator) - 1)
    elevation = LOWEST + (HIGHEST - LOWEST) * torch.rand(keys, generator=generator)
    factor = 0.8 + 0.6 * torch.rand(keys, generator=generator)
    at = t * (keys - 1)
    low = at.long().clamp_max(keys - 2)
    ease = (1 - torch.cos(math.pi * (at - low))) / 2
    azimuth, elevation, factor = (torch.lerp(x[low], x[low + 1], ease) for x in (azimuth, elevation, factor))
    return uniform(generator, 0, 360) + azimuth, elevation, factor


def _sway(generator: torch.Generator, views: int, amplitude: float) -> Tensor:
    """[V] a smooth motion within +- `amplitude`."""
    t = torch.linspace(0, 1, views)
    phase = torch.rand(2, generator=generator)
    return (
        amplitude
        / 2
        * (torch.sin(2 * math.pi * (t + phase[0])) + torch.sin(2 * math.pi * (2 * t + phase[1])))
    )


def _roll(angle: Tensor) -> Tensor:
    """[V, 4, 4] rotations about the viewing direction by angles [V] in radians."""
    out = torch.eye(4).repeat(len(angle), 1, 1)
    out[:, 0, 0] = out[:, 1, 1] = angle.cos()
    out[:, 0, 1], out[:, 1, 0] = -angle.sin(), angle.sin()
    return out


def _sign(generator: torch.Generator) -> float:
    return 1.0 if uniform(generator, 0, 1) < 0.5 else -1.0
