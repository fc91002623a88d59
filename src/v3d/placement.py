"""Where cameras look, which way is up for them, and how they are brought to the world of the orbit.

Cameras from other tools look at their object wherever it lies and however large it is. `place` brings them to
the scale of V3D's orbit, with the object at the origin, in a ball of radius ~0.8; directions stay as they
are, z up. `v3d.scene.normalise` does so for scenes, and turns them upright.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from v3d.cameras import ORBIT_FOV, ORBIT_RADIUS, Cameras

HALF_WIDTH = ORBIT_RADIUS * math.tan(math.radians(ORBIT_FOV) / 2)
"""Half of what the orbit's cameras see at the origin, in world units."""
_LEVEL = math.sin(math.radians(3))  # what counts as upright
_SPREAD = 0.05  # mean squared sine: x axes spread over more than ~13 degrees span a plane


@dataclass(frozen=True)
class Placement:
    """A shift and a scale: x in V3D's world is `scale * (x in the given world - centre)`.

    Attributes:
        scale: V3D's length of one unit of the given world.
        centre: [3] of the object in the given world.
    """

    scale: float
    centre: tuple[float, float, float]


def place(cameras: Cameras) -> tuple[Cameras, Placement]:
    """Move and scale cameras so that they look at the origin as the orbit does.

    The centre is the point nearest to all optical axes; the scale makes half of what the median camera sees
    there `HALF_WIDTH` wide. Cameras that stand so already (to 2 %), or whose axes do not meet, stay as they
    are.

    Returns:
        The cameras in V3D's world, and the shift and scale that brought them there.
    """
    unchanged = Placement(1.0, (0.0, 0.0, 0.0))
    centre = nearest_to_axes(cameras)
    if centre is None:
        return cameras, unchanged
    c2w, K = cameras.c2w.to(torch.float64, copy=True), cameras.K.double()
    depth = ((centre - c2w[:, :3, 3]) * c2w[:, :3, 2]).sum(-1)
    half = depth * torch.minimum(cameras.width / K[:, 0, 0], cameras.height / K[:, 1, 1]) / 2
    median_half = float(half.median())
    if median_half <= 0:  # the axes meet behind the cameras: they look outward
        return cameras, unchanged
    scale = HALF_WIDTH / median_half
    if abs(scale - 1) < 0.02 and float(centre.norm()) < 0.02 * HALF_WIDTH:
        return cameras, unchanged
    c2w[:, :3, 3] = (c2w[:, :3, 3] - centre) * scale
    x, y, z = centre.tolist()
    return Cameras(c2w.to(cameras.c2w), cameras.K, cameras.width, cameras.height), Placement(scale, (x, y, z))


def nearest_to_axes(cameras: Cameras) -> Tensor | None:
    """The point [3] float64 nearest to all optical axes, or None where they are (almost) parallel."""
    c2w = cameras.c2w.double()
    d = c2w[:, :3, 2]
    across = torch.eye(3, dtype=d.dtype, device=d.device) - d[:, :, None] * d[:, None]
    A, b = across.mean(0), (across @ c2w[:, :3, 3:]).mean(0)[:, 0]
    if float(torch.linalg.eigvalsh(A)[0]) < 1e-3:
        return None
    point: Tensor = torch.linalg.solve(A, b)
    return point


def up_direction(cameras: Cameras) -> Tensor:
    """The unit vector [3] float64 that is up for the cameras.

    +z where it is up for most cameras, to 3 degrees. Otherwise the direction that all x axes are
    perpendicular to, if they spread enough to tell: cameras pitch far more than they roll. Otherwise the
    median of the cameras' own ups, and +z where these cancel.
    """
    c2w = cameras.c2w.double().cpu()
    x, ups = c2w[:, :3, 0], -c2w[:, :3, 1]
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    median = _median_direction(ups)
    if median is None:
        return z
    if float(x[:, 2].abs().median()) < _LEVEL and float(median[2]) > 0.5:
        return z
    values, vectors = torch.linalg.eigh((x[:, :, None] * x[:, None]).mean(0))
    if float(values[1]) > _SPREAD and float(values[0]) < 0.1 * float(values[1]):
        normal: Tensor = vectors[:, 0] * torch.sign(vectors[:, 0] @ median)
        if float(normal @ median) > 0.5:
            return normal
    return median


def _median_direction(directions: Tensor) -> Tensor | None:
    """The spatial median [3] of unit vectors [V, 3], on the sphere; None if they cancel.

    A few upside-down ones do not count.
    """
    mean = directions.mean(0)
    for _ in range(50):
        weight = 1 / (directions - mean).norm(dim=-1).clamp_min(1e-6)
        mean = (weight[:, None] * directions).sum(0) / weight.sum()
    length = float(mean.norm())
    return mean / length if length > 0.1 else None
