"""Cameras of one turn around an object, refined by what they see of it.

A camera on a turn has six numbers: where it stands (azimuth, elevation, log distance) and how it is turned
away from looking at the origin (yaw, pitch, roll). `refine` finds them by turns: a hull of all outlines that
forgives the few that cut deepest, and every camera moved, by Gauss-Newton, until its outline touches this
hull and its colours are those that the other cameras see on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from skimage.measure import find_contours
from torch import Tensor

from v3d.autocast import without_autocast
from v3d.cameras import ORBIT_RADIUS, Cameras, intrinsics, look_at
from v3d.meshes.mesh import Mesh
from v3d.surface.extract import marching_cubes
from v3d.surface.grid import Grid, empty_grid
from v3d.surface.silhouette import silhouette_distance
from v3d.surface.unseen import facing

AZIMUTH, ELEVATION, DISTANCE, YAW, PITCH, ROLL = range(6)
POINTS = 96
"""Points on every outline."""
NODES = 60_000
"""Nodes of a hull's lattice."""


@dataclass(frozen=True)
class Sights:
    """What V frames show of the object, in small squares of S x S pixels.

    Attributes:
        rgb: [V, S, S, 3] premultiplied by alpha.
        distance: [V, S, S] signed distance to the outline in pixels, negative inside.
        contour: [V, POINTS, 2] pixels on the outline, spread evenly.
        fov: full field of view of the squares, degrees.
    """

    rgb: Tensor
    distance: Tensor
    contour: Tensor
    fov: float

    def __len__(self) -> int:
        """V, the number of frames."""
        return len(self.rgb)

    def __getitem__(self, index: Tensor) -> Sights:
        """The chosen frames."""
        return Sights(self.rgb[index], self.distance[index], self.contour[index], self.fov)

    @property
    def side(self) -> int:
        """S, the squares' side in pixels."""
        return self.rgb.shape[1]


def sights_of(rgba: Tensor, fov: float) -> Sights:
    """Sights of straight-alpha squares [V, S, S, 4], each of which shows the object."""
    alpha = rgba[..., 3]
    contours = []
    for a in alpha:
        lines = find_contours(F.pad(a, (1, 1, 1, 1)).numpy(), 0.5)
        points = np.concatenate([line[:-1] for line in lines])[:, ::-1]  # the last point repeats the first
        chosen = points[np.linspace(0, len(points), POINTS, endpoint=False).astype(int)] - 0.5
        contours.append(torch.from_numpy(np.ascontiguousarray(chosen)).float())
    return Sights(rgba[..., :3] * alpha[..., None], silhouette_distance(alpha), torch.stack(contours), fov)


@without_autocast
def cameras_at(poses: Tensor, fov: float, side: int) -> Cameras:
    """Cameras of poses [V, 6] (angles in radians) with square images."""
    azimuth, elevation, distance, yaw, pitch, roll = poses.double().unbind(-1)
    radius = ORBIT_RADIUS * distance.exp()
    ground = radius * elevation.cos()
    centers = torch.stack([ground * azimuth.cos(), ground * azimuth.sin(), radius * elevation.sin()], -1)
    c2w = look_at(centers)
    turn = _rotation(yaw, 1) @ _rotation(pitch, 0) @ _rotation(roll, 2)
    c2w[:, :3, :3] = c2w[:, :3, :3] @ turn
    return Cameras(c2w.float(), intrinsics(fov, side, side).repeat(len(poses), 1, 1), side, side)


def start_bounds(sights: Sights, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Corners [3] of a box around the origin that holds what the outlines of frames at poses [V, 6] show."""
    cameras = cameras_at(poses, sights.fov, sights.side)
    depth = torch.full((len(sights), POINTS, 1), ORBIT_RADIUS)
    half = 1.15 * _points(cameras, sights.contour, depth)[:, :, 0].norm(dim=-1).flatten().quantile(0.98)
    return -half.expand(3), half.expand(3)


def _rotation(angle: Tensor, axis: int) -> Tensor:
    """Rotations [V, 3, 3] about a camera's axis."""
    out = torch.eye(3, dtype=angle.dtype).repeat(len(angle), 1, 1)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[:, i, i] = out[:, j, j] = angle.cos()
    out[:, i, j], out[:, j, i] = -angle.sin(), angle.sin()
    return out


def centred(sights: Sights, azimuths: Tensor, elevation: float, *, by_area: bool = False) -> Tensor:
    """Poses [V, 6] of cameras whose yaw and pitch put the middle of their outline where the origin is.

    Args:
        sights: V frames.
        azimuths: [V] radians.
        elevation: radians.
        by_area: the middle of the area; otherwise of the box.
    """
    poses = torch.zeros(len(sights), 6, dtype=torch.float64)
    poses[:, AZIMUTH], poses[:, ELEVATION] = azimuths, elevation
    inside = sights.distance < 0
    focal = 0.5 * sights.side / math.tan(math.radians(sights.fov) / 2)
    middle = _mean if by_area else _middle
    x, y = (middle(inside.sum(axis)) - sights.side / 2 for axis in (1, 2))
    poses[:, YAW], poses[:, PITCH] = -(x / focal).atan(), (y / focal).atan()
    return poses


def _middle(count: Tensor) -> Tensor:
    """The middle [V] between the first and the last pixel that count in each row [V, S]."""
    place = torch.arange(count.shape[1], dtype=torch.float64) + 0.5
    first = torch.where(count > 0, place, math.inf).amin(1)
    return (first + torch.where(count > 0, place, -math.inf).amax(1)) / 2


def _mean(count: Tensor) -> Tensor:
    """The mean place [V] of the pixels counted in each row [V, S]."""
    place = torch.arange(count.shape[1], dtype=torch.float64) + 0.5
    mean: Tensor = (count @ place) / count.sum(1) if count.is_floating_point() else _mean(count.double())
    return mean


@without_autocast
def tolerant_hull(
    sights: Sights, cameras: Cameras, bounds: tuple[Tensor, Tensor], forgive: int, nodes: int = NODES
) -> Grid:
    """The hull of all outlines but, at every point, the `forgive` that cut deepest there.

    Args:
        sights: V frames.
        cameras: V, of their squares.
        bounds: low and high corners [3] of the box to carve.
        forgive: less than V.
        nodes: of the lattice, about.
    """
    low, high = bounds
    voxel = float(((high - low).prod() / nodes) ** (1 / 3))
    shape = ((high - low) / voxel).ceil().int() + 1
    grid = empty_grid(shape.tolist(), low, voxel)
    projection, axes = cameras.K @ cameras.w2c[:, :3], grid.axes()
    # A projection is affine before the division, so each axis adds its own part.
    parts = [projection[:, :, i, None] * axes[i] for i in range(3)]  # [V, 3, nodes]
    x, y, depth = (
        (
            parts[0][:, c, :, None, None]
            + parts[1][:, c, None, :, None]
            + (parts[2][:, c] + projection[:, c, 3:])[:, None, None]
        ).flatten(1)
        for c in range(3)
    )
    depth = depth.clamp_min(1e-3)
    pixels = torch.stack([x / depth, y / depth], -1)
    field = sampled(sights.distance[:, None], cameras, pixels)[..., 0] * depth / cameras.K[:, :1, 0]
    values = field.topk(forgive + 1, 0).values[-1] if forgive else field.amax(0)
    return Grid(values.view(grid.shape), grid.origin, voxel)


def bounds_of(hull: Grid, margin: float) -> tuple[Tensor, Tensor]:
    """Low and high corners [3] of the box around a hull, wider by a margin; of its lattice if it is empty."""
    inside = (hull.values < hull.voxel).nonzero()
    if len(inside) == 0:
        return hull.bounds
    low, high = (hull.origin + hull.voxel * edge for edge in (inside.amin(0), inside.amax(0)))
    return low - margin, high + margin


def sampled(images: Tensor, cameras: Cameras, pixels: Tensor) -> Tensor:
    """Images [V, C, S, S] at pixels [V, P, 2] -> [V, P, C]; beyond the border, what is on it."""
    grid = cameras.to_grid(pixels)[:, :, None]
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)[..., 0].mT


def outline_gaps(hull: Grid, sights: Sights, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """How far, in pixels, each ray through an outline passes outside the hull (negative: inside).

    Returns:
        Gaps [V, POINTS] and camera depths [V, POINTS] of where the ray comes closest.
    """
    low, high = hull.bounds
    reach = float((high - low).norm()) / 2
    centre = cameras.project((low + high)[None] / 2)[1][..., None]
    step = 2 * reach / 31
    depth = centre + torch.linspace(-reach, reach, 32)
    depth = depth.expand(-1, POINTS, -1)
    for offsets in (torch.linspace(-1, 1, 9), torch.linspace(-0.25, 0.25, 5)):
        value = _field(hull, _points(cameras, sights.contour, depth))
        depth = depth.gather(2, value.argmin(2, keepdim=True)) + step * offsets
    value, best = _field(hull, _points(cameras, sights.contour, depth)).min(2, keepdim=True)
    depth = depth.gather(2, best)[..., 0]
    return value[..., 0] * cameras.K[:, :1, 0] / depth, depth


def _points(cameras: Cameras, pixels: Tensor, depth: Tensor) -> Tensor:
    """World points [V, P, D, 3] of pixels [V, P, 2] at camera depths [V, P, D]."""
    ray = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ torch.linalg.inv(cameras.K).mT
    ray = ray @ cameras.c2w[:, :3, :3].mT
    points: Tensor = cameras.centers[:, None, None] + ray[:, :, None] * depth[..., None]
    return points


def _field(hull: Grid, points: Tensor) -> Tensor:
    """The hull's values [...] at points [..., 3], growing outside its lattice."""
    low, high = hull.bounds
    grid = (2 * (points - low) / (high - low) - 1).flip(-1).reshape(1, 1, 1, -1, 3)
    inside = F.grid_sample(hull.values[None, None], grid, padding_mode="border", align_corners=True)
    beyond = torch.maximum(low - points, points - high).clamp_min(0).amax(-1)
    return inside.view(points.shape[:-1]) + beyond


SPREAD = (math.radians(1), math.radians(1), 0.02, math.radians(6), math.radians(6), math.radians(4))
"""How far a pose's six numbers may lie from the first guess: one standard deviation each."""
FORGIVEN = (0.17, 0.13, 0.1, 0.08, 0.06)
ROUNDS = 12
_COLOURED = 700  # points whose colours are compared
_EDGE_NOISE = 0.6  # pixels: how well an outline is known
_COLOUR_NOISE = 0.12
_OUTLIER = 2.0  # noises; what exceeds them counts linearly (Huber)


@dataclass(frozen=True)
class _Model:
    """What the frames are compared with: a hull, and points on it with normals, colours and who sees them."""

    hull: Grid
    points: Tensor  # [P, 3]
    colour: Tensor  # [P, 3]
    weight: Tensor  # [V, P]


def _model(sights: Sights, cameras: Cameras, bounds: tuple[Tensor, Tensor], forgiven: float) -> _Model:
    hull = tolerant_hull(sights, cameras, bounds, max(1, round(forgiven * len(sights))))
    mesh: Mesh = marching_cubes(hull)
    chosen = torch.linspace(0, len(mesh.vertices) - 1, _COLOURED).long()
    points = mesh.vertices[chosen]
    weight = facing(points, mesh.vertex_normals[chosen], mesh, cameras, tolerance=hull.voxel) ** 2
    seen = sampled(sights.rgb.permute(0, 3, 1, 2), cameras, cameras.project(points)[0])
    total = weight.sum(0).clamp_min(1e-6)
    return _Model(hull, points, (weight[..., None] * seen).sum(0) / total[:, None], weight)


@without_autocast
def _residuals(poses: Tensor, sights: Sights, model: _Model, depth: Tensor) -> Tensor:
    """Weighted residuals [V, R]: of the outlines' rays at camera depths [V, POINTS], and of colours."""
    cameras = cameras_at(poses, sights.fov, sights.side)
    value = _field(model.hull, _points(cameras, sights.contour, depth[..., None]))[..., 0]
    gaps = value * cameras.K[:, :1, 0] / depth / _EDGE_NOISE
    seen = sampled(sights.rgb.permute(0, 3, 1, 2), cameras, cameras.project(model.points)[0])
    off = model.weight.sqrt()[..., None] * (seen - model.colour) / _COLOUR_NOISE
    return torch.cat([gaps, off.flatten(1)], 1)


def refine(sights: Sights, guess: Tensor, *, on_round: Callable[[int], None] | None = None) -> Tensor:
    """Poses [V, 6] near a guess [V, 6] by which the frames agree best, after at most `ROUNDS` rounds."""
    best = (math.inf, guess)
    bounds = start_bounds(sights, guess)
    poses, spread = guess, torch.tensor(SPREAD, dtype=torch.float64)
    damping = torch.full((len(guess), 1, 1), 1e-2, dtype=torch.float64)
    for round_ in range(ROUNDS):
        cameras = cameras_at(poses, sights.fov, sights.side)
        model = _model(sights, cameras, bounds, FORGIVEN[min(round_, len(FORGIVEN) - 1)])
        bounds = bounds_of(model.hull, 0.08)
        gaps, depth = outline_gaps(model.hull, sights, cameras)
        if round_ >= len(FORGIVEN) - 1:
            if float(gaps.abs().mean()) > best[0] - 0.01:
                break
            best = float(gaps.abs().mean()), poses
        for _ in range(2):
            base = _residuals(poses, sights, model, depth).double()
            columns = []
            for i in range(6):
                moved = poses.clone()
                moved[:, i] += 1e-3
                columns.append((_residuals(moved, sights, model, depth).double() - base) / 1e-3)
            J = torch.stack(columns, 2)
            w = (_OUTLIER / base.abs().clamp_min(_OUTLIER))[..., None]
            A = J.mT @ (w * J) + torch.diag(spread**-2)
            b = (J.mT @ (w * base[..., None]))[..., 0] + (poses - guess) * spread**-2
            A = A + damping * torch.diag_embed(A.diagonal(dim1=1, dim2=2))
            trial = poses - torch.linalg.solve(A, b[..., None])[..., 0]
            better = _cost(_residuals(trial, sights, model, depth), trial, guess) < _cost(base, poses, guess)
            poses = torch.where(better[:, None], trial, poses)
        poses[:, DISTANCE] -= poses[:, DISTANCE].mean()
        if on_round is not None:
            on_round(round_)
    return best[1]


def _cost(residuals: Tensor, poses: Tensor, guess: Tensor) -> Tensor:
    """Huber's sums [V] and the prior's."""
    size = residuals.abs()
    data = torch.where(size > _OUTLIER, _OUTLIER * (2 * size - _OUTLIER), size * size).sum(1)
    return data + ((poses - guess) / torch.tensor(SPREAD, dtype=torch.float64)).square().sum(1)
