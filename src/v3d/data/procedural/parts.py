"""The parts that procedural objects are made of: boxes, bodies of revolution, tubes, prisms and lumps.

Every part is a closed `Mesh` about the origin, z up, that wears the texture it is given. Its uv keep half a
texel from the texture's border, so that textures can lie side by side in one atlas.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.data.warps import MIRROR
from v3d.meshes.mesh import Mesh

Parts = list[Mesh]
"""The closed, textured parts of one object."""


def box(size: tuple[float, float, float], texture: Tensor, *, rounding: float = 0.0) -> Mesh:
    """A box of `size` (x, y, z), its edges rounded.

    The radius of its edges is `rounding` (at most 0.5) times its shortest side.
    Its faces (+x, -x, +y, -y, +z, -z) are the cells of two rows of three in the texture.
    """
    half = torch.tensor(size) / 2
    radius = float(half.min()) * min(2 * rounding, 1.0)
    vertices: list[Tensor] = []
    faces, uv = [], []
    for axis in range(3):
        # Right-handed: across x along = the face's normal, seen from outside.
        across, along = [(1, 2), (2, 0), (0, 1)][axis]
        for side in (1.0, -1.0):
            s, t = _lines(float(half[across]), radius), _lines(float(half[along]), radius)
            p = torch.zeros(len(t), len(s), 3)
            p[..., axis], p[..., across], p[..., along] = side * half[axis], side * s, t[:, None]
            inner = torch.maximum(torch.minimum(p, half - radius), radius - half)
            p = inner + radius * F.normalize(p - inner, dim=-1)
            cell = 2 * axis + int(side < 0)
            u = s / (2 * half[across]) + 0.5
            v = t[:, None] / (2 * half[along]) + 0.5
            flat = torch.stack([u.expand(len(t), -1), (1 - v).expand(-1, len(s))], -1)
            flat = 0.02 + 0.96 * flat  # neighbouring cells do not shine through
            corner = torch.tensor([cell % 3, cell // 3])
            uv.append(((corner + flat) / torch.tensor([3.0, 2.0])).flatten(0, 1))
            faces.append(_quads(len(t), len(s)) + sum(map(len, vertices)))
            vertices.append(p.flatten(0, 1))
    return _part(torch.cat(vertices), torch.cat(faces), torch.cat(uv), texture)


def lathe(profile: Sequence[tuple[float, float]], texture: Tensor, *, segments: int = 24) -> Mesh:
    """A body of revolution about z.

    Its profile is (radius, z) from bottom to top; the body is closed where that begins and ends at radius 0.
    The texture runs once around, upright, its middle facing the front.
    """
    r, z = torch.tensor(profile, dtype=torch.float32).T
    u = torch.linspace(0, 1, segments + 1)
    x, y = _circle(segments)  # begins behind
    v = F.pad((r.diff().square() + z.diff().square()).sqrt().cumsum(0), (1, 0))
    v = 1 - v / v[-1].clamp_min(1e-9)
    vertices = torch.stack([-r[:, None] * x, -r[:, None] * y, z[:, None].expand(-1, len(u))], -1)
    uv = torch.stack([u.expand(len(r), -1), v[:, None].expand(-1, len(u))], -1)
    return _part(vertices.flatten(0, 1), _quads(len(r), len(u)), uv.flatten(0, 1), texture)


def ball(texture: Tensor, *, power: float = 2.0, segments: int = 20) -> Mesh:
    """A body of revolution of radius 1 and height 2 whose profile is |r|^power + |z|^power = 1.

    A power of 2 makes a ball, 1 a double cone, more a drum.
    """
    angles = torch.linspace(-math.pi / 2, math.pi / 2, segments // 2 + 1)
    r, z = angles.cos().clamp_min(0), angles.sin()
    scale = (r**power + z.abs() ** power) ** (-1 / power)
    r, z = r * scale, z * scale
    r[0] = r[-1] = 0.0
    return lathe(list(zip(r.tolist(), z.tolist(), strict=True)), texture, segments=segments)


def tube(path: Tensor, radius: Tensor, texture: Tensor, *, segments: int = 10) -> Mesh:
    """A tube of `radius` [K] along `path` [K, 3], with flat ends."""
    tangent = F.normalize(torch.gradient(path, dim=0)[0], dim=-1)
    # Carry one normal along the path (parallel transport), so that the tube does not twist.
    least = torch.eye(3)[tangent[0].abs().argmin()]
    normals = [F.normalize(torch.linalg.cross(tangent[0], least), dim=0)]
    for t in tangent[1:]:
        n = normals[-1]
        normals.append(F.normalize(n - (n @ t) * t, dim=0))
    normal = torch.stack(normals)
    side = torch.linalg.cross(tangent, normal)
    u = torch.linspace(0, 1, segments + 1)
    x, y = _circle(segments)
    ring = normal[:, None] * x[:, None] + side[:, None] * y[:, None]
    vertices = path[:, None] + radius[:, None, None] * ring
    ends = [path[:1, None].expand(-1, len(u), -1), path[-1:, None].expand(-1, len(u), -1)]
    vertices = torch.cat([ends[0], vertices, ends[1]])
    v = torch.linspace(0, 1, len(path))
    v = torch.cat([v[:1], v, v[-1:]])
    uv = torch.stack([u.expand(len(v), -1), v[:, None].expand(-1, len(u))], -1)
    return _part(vertices.flatten(0, 1), _quads(len(v), len(u)), uv.flatten(0, 1), texture)


def prism(outline: Tensor, depth: float, texture: Tensor) -> Mesh:
    """A prism along x of thickness `depth`.

    Args:
        outline: [K, 2] (y, z), counter-clockwise, every point visible from the middle.
        depth: thickness.
        texture: spread over the front, and over the back.
    """
    middle = outline.mean(0, keepdim=True)
    flat = torch.cat([outline, middle])
    K = len(outline)
    low, high = outline.amin(0), outline.amax(0)
    uv = (flat - low) / (high - low).clamp_min(1e-9)
    uv = torch.stack([uv[:, 0], 1 - uv[:, 1]], -1)
    front, back = (torch.cat([torch.full((K + 1, 1), x), flat], -1) for x in (depth / 2, -depth / 2))
    k = torch.arange(K)
    after = (k + 1) % K
    fan = torch.stack([k, after, torch.full_like(k, K)], -1)
    wall = torch.cat([torch.stack([k, k + K, after], -1), torch.stack([after, k + K, after + K], -1)])
    # Walls have vertices of their own: their edges are hard.
    vertices = torch.cat([front, back, front[:K], back[:K]])
    faces = torch.cat([fan, fan.flip(1) + K + 1, wall + 2 * (K + 1)])
    return _part(vertices, faces, torch.cat([uv, uv, uv[:K], uv[:K]]), texture)


def star_outline(rng: random.Random) -> Tensor:
    """A random star-shaped outline [K, 2] about the origin, counter-clockwise, of radius about 0.5 to 1."""
    k = rng.randint(3, 14)
    angle = torch.arange(k) * (2 * math.pi / k)
    wobble = rng.uniform(0, 0.5)
    radius = torch.tensor([1 - wobble * rng.random() for _ in range(k)])
    if rng.random() < 0.3:  # teeth
        radius = torch.where(torch.arange(k) % 2 == 0, 1.0, rng.uniform(0.4, 0.8))
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)


def moved(
    part: Mesh,
    *,
    to: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Mesh:
    """The part scaled along its axes, turned about x, then y, then z (radians), then moved."""
    vertices = part.vertices * torch.tensor(scale)
    for axis, angle in enumerate(turn):
        if angle:
            i, j = [(1, 2), (2, 0), (0, 1)][axis]
            c, s = math.cos(angle), math.sin(angle)
            a, b = vertices[:, i], vertices[:, j]
            vertices = vertices.clone()
            vertices[:, i], vertices[:, j] = c * a - s * b, s * a + c * b
    return replace(part, vertices=vertices + torch.tensor(to))


def mirrored(part: Mesh) -> Mesh:
    """The part mirrored left to right, its faces turned outwards again."""
    return replace(part, vertices=part.vertices * MIRROR, faces=part.faces.flip(1))


def _lines(half: float, radius: float) -> Tensor:
    """Where a face's grid lines lie: at its ends, and close together where it is rounded."""
    if radius == 0:
        return torch.tensor([-half, half])
    inner = half - radius
    # An even arc: the rounded edge is the direction of the point from the inner box.
    right = [inner, inner + radius * math.tan(math.pi / 8), half]
    return torch.tensor([-x for x in reversed(right)] + right)


def _circle(segments: int) -> tuple[Tensor, Tensor]:
    """x and y [segments + 1] around the unit circle from +x; the last point is the first to the last bit."""
    angle = torch.arange(segments + 1) % segments * (2 * math.pi / segments)
    return angle.cos(), angle.sin()


def _quads(rows: int, columns: int) -> Tensor:
    """[F, 3] the triangles of a grid of vertices, counter-clockwise where columns run right and rows up."""
    i = (torch.arange(rows - 1)[:, None] * columns + torch.arange(columns - 1)).reshape(-1)
    right, up = i + 1, i + columns
    return torch.cat([torch.stack([i, right, up], -1), torch.stack([right, up + 1, up], -1)])


def _part(vertices: Tensor, faces: Tensor, uv: Tensor, texture: Tensor) -> Mesh:
    a, b, c = vertices[faces].unbind(1)
    point = (a == b).all(-1) | (b == c).all(-1) | (c == a).all(-1)  # at poles and ends
    faces = faces[~point]
    texel = torch.tensor([1 / texture.shape[1], 1 / texture.shape[0]])
    return Mesh(vertices, faces, uv * (1 - texel) + texel / 2, texture)
