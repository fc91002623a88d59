"""Which way around are views that were posed counter-clockwise?

Both ways are tried: with the right one the outlines share a hull, and points of its surface have one colour
in neighbouring views. Outlines alone are ambiguous for long lenses, which do not tell near from far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from v3d.cameras import ORBIT_FOV, Cameras
from v3d.compositing import off_white
from v3d.meshes.mesh import Mesh
from v3d.surface.extract import marching_cubes
from v3d.surface.grid import Grid
from v3d.surface.orbit_poses import Sights, bounds_of, outline_gaps, sampled, sights_of, tolerant_hull
from v3d.surface.unseen import facing
from v3d.views import Views

SIDE = 96
"""Pixels of the views that are compared."""
_POINTS = 1500  # on the hull, whose colours are compared
_GAP, _COLOUR = 0.5, 0.05  # what counts as one noise: pixels of an outline, difference in colour
_FACTOR, _MARGIN = 1.25, 0.3  # by which the wrong way must be worse, to be sure
_HALF = 1.6  # of the cube in which the object is sought
_NODES = 25_000
_EMPTY = 20.0  # pixels: the gap of outlines that have no point in common


@dataclass(frozen=True)
class Direction:
    """Which way the camera went around the object, seen from above.

    Attributes:
        clockwise: whether it went clockwise.
        sure: whether the views show it; those of a symmetrical object of one colour do not.
    """

    clockwise: bool
    sure: bool


def direction(views: Views) -> Direction:
    """Find which way views were taken that are posed as if counter-clockwise, in the order of their azimuths.

    Args:
        views: of an orbit; at least 6.
    """
    small = views.reduced(SIDE)
    straight = off_white(small.rgb, small.alpha, 1e-3).clamp(0, 1)
    sights = sights_of(torch.cat([straight, small.alpha[..., None]], -1), ORBIT_FOV)
    costs = [disagreement(sights, cameras) for cameras in (small.cameras, small.cameras.mirrored())]
    return decided(*costs)


def decided(counter_clockwise: float, clockwise: float) -> Direction:
    """The direction of the lower cost (see `disagreement`), sure where it is lower by far."""
    low, high = sorted((counter_clockwise, clockwise))
    return Direction(clockwise < counter_clockwise, high > max(_FACTOR * low, low + _MARGIN))


def disagreement(sights: Sights, cameras: Cameras, forgive: int = 0) -> float:
    """How far frames miss the hull of all, and their colours on it the next frame's; in noises."""
    hull, gaps = hull_gaps(sights, cameras, forgive)
    if hull is None:
        return _EMPTY / _GAP
    mesh: Mesh = marching_cubes(hull)
    chosen = torch.linspace(0, len(mesh.vertices) - 1, _POINTS).long()
    points, normals = mesh.vertices[chosen], mesh.vertex_normals[chosen]
    seen = facing(points, normals, mesh, cameras, tolerance=hull.voxel)
    weight = torch.minimum(seen, seen.roll(-1, 0))
    colour = sampled(sights.rgb.permute(0, 3, 1, 2), cameras, cameras.project(points)[0])
    difference = (colour - colour.roll(-1, 0)).abs().mean(-1)
    return gaps / _GAP + float((weight * difference).sum() / weight.sum().clamp_min(1e-3)) / _COLOUR


def hull_gaps(sights: Sights, cameras: Cameras, forgive: int = 0) -> tuple[Grid | None, float]:
    """A coarse hull of outlines, and by how many pixels these miss it on average; None if it is empty."""
    bounds = torch.full((3,), -_HALF), torch.full((3,), _HALF)
    hull = tolerant_hull(sights, cameras, bounds, forgive, _NODES)
    if not bool((hull.values < hull.voxel).any()):
        return None, _EMPTY
    hull = tolerant_hull(sights, cameras, bounds_of(hull, hull.voxel), forgive, _NODES)
    if not bool((hull.values < 0).any()):
        return None, _EMPTY
    return hull, min(float(outline_gaps(hull, sights, cameras)[0].abs().mean()), _EMPTY)
