"""Mesh metrics: a reconstructed surface against the true one, both in the same world.

Ground truth is often far from watertight, with inner walls and faces turned inside out, so nothing
here trusts orientation: normals are compared without sign and solids are defined by what can be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from v3d.cameras import Cameras, intrinsics, look_at
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import rasterize_mesh

SAMPLES = 30_000
"""Surface points of each mesh; Chamfer distances of whole objects then repeat to about 1 %."""


@dataclass(frozen=True)
class SurfaceDistance:
    """From N points sampled on one mesh to the nearest point of another.

    Attributes:
        distance: [N] Euclidean, to the surface itself.
        cosine: [N] |n . n'| of the face normals at both ends.
    """

    distance: Tensor
    cosine: Tensor


def compare_meshes(
    mesh: Mesh, truth: Mesh, *, tau: float = 0.01, samples: int = SAMPLES, directions: int = 36
) -> dict[str, float]:
    """Chamfer distance, F-score at `tau`, normal consistency and volumetric IoU (see the functions below).

    A mesh without area is infinitely far from anything and scores 0 otherwise.
    """
    if not (_has_area(mesh) and _has_area(truth)):
        return {"chamfer": math.inf, "f_score": 0.0, "normal_consistency": 0.0, "iou": 0.0}
    there, back = surface_distance(mesh, truth, samples), surface_distance(truth, mesh, samples)
    return {
        "chamfer": chamfer(there, back),
        "f_score": f_score(there, back, tau),
        "normal_consistency": float((there.cosine.mean() + back.cosine.mean()) / 2),
        "iou": volume_iou(mesh, truth, directions=directions),
    }


def chamfer(there: SurfaceDistance, back: SurfaceDistance) -> float:
    """Mean of the two mean distances (not squared), in world units."""
    return float((there.distance.mean() + back.distance.mean()) / 2)


def f_score(there: SurfaceDistance, back: SurfaceDistance, tau: float) -> float:
    """Harmonic mean of precision (result within `tau` of the truth) and recall (truth within `tau` of it)."""
    precision = float((there.distance < tau).float().mean())
    recall = float((back.distance < tau).float().mean())
    return 2 * precision * recall / max(precision + recall, 1e-12)


def sample_surface(mesh: Mesh, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points [count, 3] uniform over the surface's area, and the face [count] that each lies on.

    Points are stratified over the cumulated area, which halves the noise of means over them.
    """
    generator = torch.Generator().manual_seed(seed)
    area = mesh.face_areas
    cumulated = area.double().cumsum(0)
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    face = torch.searchsorted(cumulated, strata.double() * cumulated[-1]).clamp_max(len(area) - 1)
    root, v = torch.rand(count, generator=generator).sqrt(), torch.rand(count, generator=generator)
    weights = torch.stack([1 - root, root * (1 - v), root * v], -1)
    return (mesh.vertices[mesh.faces[face]] * weights[..., None]).sum(1), face


def surface_distance(source: Mesh, target: Mesh, samples: int = SAMPLES, seed: int = 0) -> SurfaceDistance:
    """Distances from points on `source` to the surface of `target`.

    The nearest face is searched among those of the 16 nearest samples of the target (four times `samples`
    over its area, and every face's centre), then the distance to these triangles is exact: unlike a
    distance between two clouds it goes to zero for equal meshes.
    """
    points, own_face = sample_surface(source, samples, seed)
    cloud, cloud_face = sample_surface(target, 4 * samples, seed + 1)
    solid = target.face_areas.nonzero()[:, 0]
    cloud = torch.cat([cloud, target.vertices[target.faces[solid]].mean(1)])
    cloud_face = torch.cat([cloud_face, solid])
    _, near = cKDTree(cloud.numpy()).query(points.numpy(), k=min(16, len(cloud)))
    candidates = cloud_face[torch.from_numpy(np.asarray(near).reshape(samples, -1))]
    corners = target.vertices[target.faces[candidates]].double()
    distance, best = point_triangle_distance(points.double()[:, None], corners).min(1)
    face = candidates[torch.arange(samples), best]
    cosine = (source.face_normals[own_face] * target.face_normals[face]).sum(-1).abs()
    return SurfaceDistance(distance.float(), cosine)


def point_triangle_distance(points: Tensor, corners: Tensor) -> Tensor:
    """Distance of points [..., 3] to triangles [..., 3 (corner), 3]; the shapes broadcast."""
    a, b, c = corners.unbind(-2)
    normal = torch.linalg.cross(b - a, c - a)
    squared = normal.square().sum(-1).clamp_min(1e-30)
    height = ((points - a) * normal).sum(-1)
    inside = torch.ones_like(height, dtype=torch.bool)
    edges = []
    for p, q in ((a, b), (b, c), (c, a)):
        edge, offset = q - p, points - p
        inside &= (torch.linalg.cross(edge, offset) * normal).sum(-1) >= 0
        t = (offset * edge).sum(-1) / edge.square().sum(-1).clamp_min(1e-30)
        edges.append((offset - t.clamp(0, 1)[..., None] * edge).norm(dim=-1))
    border = torch.stack(edges).amin(0)
    # A triangle without area has no inside; its edges are all of it.
    return torch.where(inside & (squared > 1e-24), height.abs() / squared.sqrt(), border)


def volume_iou(a: Mesh, b: Mesh, *, points: int = 2**17, directions: int = 36, size: int = 192) -> float:
    """Intersection over union of the two solids, on a Sobol set in their common bounding box.

    A point is inside unless a camera sees it: see `visible_solid`. 1 if both solids are empty.
    """
    both = torch.cat([a.vertices, b.vertices])
    low, high = both.amin(0), both.amax(0)
    sobol = torch.quasirandom.SobolEngine(3)
    x = low + (high - low) * sobol.draw(points)
    in_a = visible_solid(a, x, directions=directions, size=size)
    in_b = visible_solid(b, x, directions=directions, size=size)
    union = int((in_a | in_b).sum())
    return int((in_a & in_b).sum()) / union if union else 1.0


def visible_solid(mesh: Mesh, points: Tensor, *, directions: int = 36, size: int = 192) -> Tensor:
    """[P] whether points [P, 3] lie inside the solid that the mesh looks like from outside.

    Depth maps are rendered from `directions` (a third around the horizon, the rest spread over the upper
    half of a sphere) and a point is outside if one of them sees it: its depth is less than the surface's.
    This survives open edges, inner walls and faces turned inside out, where ray parity and winding numbers
    do not. Nothing looks from below, because many models have no bottom, and an orbit sees none either.
    Cavities that no direction looks into count as solid, and sheets have no volume.
    """
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    centre, radius = (low + high) / 2, float((high - low).norm()) / 2
    inside = (((points >= low) & (points <= high)).all(-1)) & (radius > 0)
    cameras = _cameras_around(centre, max(radius, 1e-12), directions, size)
    for i in range(len(cameras)):
        camera = cameras[i]
        depth = rasterize_mesh(mesh, camera).depth[0]
        ids = inside.nonzero()[:, 0]
        pixels, z = camera.project(points[ids])
        x, y = pixels[0].long().clamp(0, size - 1).unbind(-1)
        surface = depth[y, x]
        outside = (surface == 0) | (z[0] < surface)
        inside[ids[outside]] = False
    return inside


def _cameras_around(centre: Tensor, radius: float, count: int, size: int) -> Cameras:
    """A third of the cameras around the horizon, the rest on a Fibonacci half-sphere, all framing a ball."""
    ring = count // 3
    i = torch.arange(count - ring, dtype=torch.float64) + 0.5
    z = torch.cat([torch.zeros(ring), i / (count - ring)])
    azimuth = torch.cat([torch.arange(ring) * 2 * math.pi / ring, i * math.pi * (3 - math.sqrt(5))])
    r = (1 - z * z).sqrt()
    direction = torch.stack([r * azimuth.cos(), r * azimuth.sin(), z], -1)
    c2w = look_at(centre.double() + 6 * radius * direction, centre.double().tolist()).float()
    fov = 2 * math.degrees(math.asin(1.02 / 6))
    return Cameras(c2w, intrinsics(fov, size, size).repeat(count, 1, 1), size, size)


def _has_area(mesh: Mesh) -> bool:
    return len(mesh.faces) > 0 and bool(mesh.face_areas.sum() > 0)
