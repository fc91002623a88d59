"""Synthetic scenes for the scene model: objects on a ground, perhaps among walls, under random light.

The world of a scene: z up, the origin at the point that the clip looks at, its farthest camera at distance
`camera_clips.SCENE_RADIUS`. Objects stand on the ground with room between them; walls stand beyond every
object and every camera, so no camera is ever inside an object or behind a wall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from v3d.cameras import Cameras
from v3d.data.camera_clips import normalised, random_clip
from v3d.data.corpus import CorpusObject
from v3d.data.procedural.textures import Texture, random_colours, random_texture
from v3d.data.random_numbers import uniform
from v3d.data.variants import random_variant, vary
from v3d.errors import V3DError
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light

MOST_OBJECTS = 4
"""Objects of a scene at most."""

CLEARANCE = 0.08
"""Free space around every camera."""

MIN_COVERAGE = 0.15
"""Share of every view that shows the scene rather than the sky."""

_LIFT = 2e-3  # undersides stand so far above the ground, in object sizes: in one plane they would flicker
_FARTHEST = 9.0  # the ground ends here


@dataclass(frozen=True)
class Placed:
    """An object in its place.

    Attributes:
        mesh: in the scene's world.
        palette: its texture is a colour table, read without interpolation.
    """

    mesh: Mesh
    palette: bool


@dataclass(frozen=True)
class Plane:
    """A textured rectangle or ellipse.

    Attributes:
        center: [3].
        axes: [3, 3] rows: along u, along v, the normal.
        half: half its extents along u and v.
        round: it is the ellipse of these extents.
        texture: what it wears.
        tile: side of one tile of the texture.
    """

    center: Tensor
    axes: Tensor
    half: tuple[float, float]
    round: bool
    texture: Texture
    tile: float

    def hit(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Depth [...] along rays [..., 3] at which they meet the plane; inf where they do not."""
        d = directions @ self.axes.T
        o = (origins - self.center) @ self.axes.T
        t = -o[..., 2] / d[..., 2]
        u, v = ((o[..., k] + t * d[..., k]) / self.half[k] for k in (0, 1))
        inside = u * u + v * v <= 1 if self.round else (u.abs() <= 1) & (v.abs() <= 1)
        return torch.where(inside & (t > 1e-3), t, torch.inf)

    def place(self, points: Tensor) -> Tensor:
        """Coordinates [N, 2] along u and v of points [N, 3] on the plane."""
        return (points - self.center) @ self.axes[:2].T


@dataclass(frozen=True)
class Scene:
    """Everything there is to see, and the clip.

    Attributes:
        objects: standing on the ground.
        planes: the ground first, then walls, and a ceiling.
        light: on all of it; it casts the objects' shadows on the ground.
        sky: [2, 3] colours where nothing is hit, from below to above.
        cameras: the clip.
    """

    objects: tuple[Placed, ...]
    planes: tuple[Plane, ...]
    light: Light
    sky: Tensor
    cameras: Cameras


def random_scene(items: Sequence[CorpusObject], views: int, size: int, generator: torch.Generator) -> Scene:
    """A random scene of these objects.

    Raises:
        V3DError: an object has no extent, or no clip was found whose cameras stand clear of the objects.
    """
    objects = arrange([_random_object(item, generator) for item in items], generator)
    points = torch.cat([o.mesh.vertices for o in objects])
    low, high = points.amin(0), points.amax(0)
    aim = (low + high) / 2
    aim[2] = low[2] + (high[2] - low[2]) * uniform(generator, 0.25, 0.55)
    objects = [_moved(o, -aim) for o in objects]
    radius = float((points - aim).norm(dim=-1).max())
    for attempt in range(40):
        cameras, scale = normalised(random_clip(generator, views, size, radius, farther=1.04**attempt))
        placed = [_scaled(o, scale) for o in objects]
        if not stand_clear(cameras, placed):
            continue
        planes = random_surroundings(placed, cameras, float(-aim[2]) * scale, generator)
        if float(coverage(planes, cameras).min()) >= MIN_COVERAGE:
            return Scene(tuple(placed), planes, _random_light(generator), _random_sky(generator), cameras)
    raise V3DError("no clip stands clear of the objects")


def arrange(objects: Sequence[Placed], generator: torch.Generator) -> list[Placed]:
    """Objects stood on the plane z = 0, near each other but apart: their bounding circles do not meet."""
    taken: list[tuple[Tensor, float]] = []
    out = []
    for thing in sorted(objects, key=_footprint, reverse=True):
        radius, reach = _footprint(thing), 0.0
        while True:
            angle = uniform(generator, 0, 2 * math.pi)
            at = reach * torch.tensor([math.cos(angle), math.sin(angle)])
            if all(float((at - other).norm()) > 1.05 * (radius + r) for other, r in taken):
                break
            reach += 0.08 * radius + 1e-3
        taken.append((at, radius))
        vertices = thing.mesh.vertices
        middle = (vertices.amin(0) + vertices.amax(0)) / 2
        height = middle[2] - vertices[:, 2].amin() + _LIFT
        out.append(_moved(thing, torch.cat([at, height[None]]) - middle))
    return out


def stand_clear(cameras: Cameras, objects: Sequence[Placed]) -> bool:
    """Whether every object's bounding ball is in front of (or behind) every camera by `CLEARANCE`."""
    w2c = cameras.w2c
    for thing in objects:
        vertices = thing.mesh.vertices
        center = (vertices.amin(0) + vertices.amax(0)) / 2
        radius = float((vertices - center).norm(dim=-1).max())
        z = w2c[:, 2, :3] @ center + w2c[:, 2, 3]
        if bool((z.abs() < radius + CLEARANCE).any()):
            return False
    return True


def coverage(planes: Sequence[Plane], cameras: Cameras) -> Tensor:
    """[V] share of each view that the planes cover, estimated with a few rays."""
    origins, directions = cameras.resized(16, 16).rays()
    depth = torch.stack([plane.hit(origins, directions) for plane in planes]).amin(0)
    return torch.isfinite(depth).float().mean((1, 2))


def random_surroundings(
    objects: Sequence[Placed], cameras: Cameras, ground: float, generator: torch.Generator
) -> tuple[Plane, ...]:
    """The ground at height `ground`, and in three scenes of five some walls or a whole room."""
    turn = uniform(generator, 0, 2 * math.pi)
    u = torch.tensor([math.cos(turn), math.sin(turn), 0.0])
    v, up = torch.tensor([-math.sin(turn), math.cos(turn), 0.0]), torch.tensor([0.0, 0.0, 1.0])
    feet = torch.cat([o.mesh.vertices for o in objects])
    points = torch.cat([feet, cameras.centers])
    closed = uniform(generator, 0, 1) < 0.2
    chance = uniform(generator, 0, 1)
    walls = 4 if closed else 0 if chance < 0.5 else 1 + int(3 * uniform(generator, 0, 1))
    sides = [bool(k < walls) for k in torch.randperm(4, generator=generator)]  # +u, -u, +v, -v
    # How far it goes on each side: beyond all cameras where a wall stands, else at least beyond the objects.
    reach = []
    for wall, toward in zip(sides, (u, -u, v, -v), strict=True):
        if wall:
            reach.append(float((points @ toward).max()) + CLEARANCE + uniform(generator, 0.05, 1.0))
        else:
            reach.append(float((feet @ toward).max()) + 0.1 + 4 * uniform(generator, 0, 1) ** 2)
    half = ((reach[0] + reach[1]) / 2, (reach[2] + reach[3]) / 2)
    floor = (reach[0] - reach[1]) / 2 * u + (reach[2] - reach[3]) / 2 * v + ground * up
    disc = walls == 0 and uniform(generator, 0, 1) < 0.5
    half = tuple(min(h * (1.42 if disc else 1.0), _FARTHEST) for h in half)  # type: ignore[assignment]
    texture = random_texture(generator)
    tile = _random_tile(texture, cameras, generator)
    planes = [Plane(floor, torch.stack([u, v, up]), half, disc, texture, tile)]
    if walls == 0:
        return tuple(planes)
    top = float(points[:, 2].max()) + CLEARANCE + uniform(generator, 0.05, 0.8)
    height = (top if closed else uniform(generator, 0.5, 2.5) + ground) - ground
    texture = random_texture(generator)
    tile = _random_tile(texture, cameras, generator)
    for k, (wall, toward) in enumerate(zip(sides, (u, -u, v, -v), strict=True)):
        if not wall:
            continue
        if uniform(generator, 0, 1) < 0.25:
            texture = random_texture(generator)
            tile = _random_tile(texture, cameras, generator)
        along, width = (v, half[1]) if k < 2 else (u, half[0])
        center = floor + half[k // 2] * toward + height / 2 * up
        planes.append(
            Plane(center, torch.stack([along, -up, -toward]), (width, height / 2), False, texture, tile)
        )
    if closed:
        texture = random_texture(generator)
        tile = _random_tile(texture, cameras, generator)
        planes.append(Plane(floor + height * up, torch.stack([u, -v, -up]), half, False, texture, tile))
    return tuple(planes)


def _random_tile(texture: Texture, cameras: Cameras, generator: torch.Generator) -> float:
    """Side of a tile whose finest features are 6 to 48 pixels wide, seen head-on from the clip's distance."""
    distance = float(cameras.centers.norm(dim=-1).mean())
    per_pixel = distance / float(cameras.K[0, 0, 0]) * cameras.width / 128  # of a view 128 pixels wide
    return texture.cells * per_pixel * 6 * 8 ** uniform(generator, 0, 1)


def _random_object(item: CorpusObject, generator: torch.Generator) -> Placed:
    """The object in random colours and proportions, turned, its longest side between 0.35 and 1."""
    mesh = vary(item.mesh, random_variant(generator))
    extent = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
    if not extent > 0:
        raise V3DError(f"{item.id} has no extent")
    size = uniform(generator, 0.35, 1.0)
    return Placed(replace(mesh, vertices=mesh.vertices * (size / extent)), item.palette)


def _random_light(generator: torch.Generator) -> Light:
    angle, height = uniform(generator, 0, 2 * math.pi), uniform(generator, 0.5, 1.6)
    direction = torch.tensor([math.cos(angle), math.sin(angle), height])
    return Light(direction, ambient=uniform(generator, 0.45, 0.9))


def _random_sky(generator: torch.Generator) -> Tensor:
    """Plain or a gradient, mostly pale."""
    colours = random_colours(generator, 2)
    colours = torch.lerp(colours, torch.ones(3), uniform(generator, 0, 0.9))
    return colours if uniform(generator, 0, 1) < 0.6 else colours[:1].expand(2, 3)


def _footprint(thing: Placed) -> float:
    """Radius of the circle around its box, seen from above."""
    span = thing.mesh.vertices.amax(0) - thing.mesh.vertices.amin(0)
    return float(span[:2].norm()) / 2


def _moved(thing: Placed, by: Tensor) -> Placed:
    return replace(thing, mesh=replace(thing.mesh, vertices=thing.mesh.vertices + by))


def _scaled(thing: Placed, by: float) -> Placed:
    return replace(thing, mesh=replace(thing.mesh, vertices=thing.mesh.vertices * by))
