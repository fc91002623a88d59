"""Any posed views -> the world that the stages expect: the object at the origin, in a ball of radius ~0.8.

Cameras from other tools look at their object wherever it lies and however large it is. A shift and a
scale bring them to the scale of our orbit; directions stay as they are, z up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from v3d.cameras import ORBIT_FOV, ORBIT_RADIUS, Cameras

HALF_WIDTH = ORBIT_RADIUS * math.tan(math.radians(ORBIT_FOV) / 2)  # what the orbit sees at the origin


@dataclass(frozen=True)
class Placement:
    """Our world = scale * (theirs - centre).

    Attributes:
        scale: our length of one of their units.
        centre: [3] of the object in their world.
    """

    scale: float
    centre: tuple[float, float, float]


def place(cameras: Cameras) -> tuple[Cameras, Placement]:
    """Move and scale cameras so that they look at the origin as the orbit does.

    The centre is the point nearest to all optical axes; the scale makes half of what the median camera
    sees there `HALF_WIDTH` wide. Cameras that already stand so (to 2 %), or whose axes do not meet, are
    left as they are.
    """
    stay = Placement(1.0, (0.0, 0.0, 0.0))
    centre = nearest_to_axes(cameras)
    if centre is None:
        return cameras, stay
    c2w, K = cameras.c2w.double(), cameras.K.double()
    depth = ((centre - c2w[:, :3, 3]) * c2w[:, :3, 2]).sum(-1)
    half = depth * torch.minimum(cameras.width / K[:, 0, 0], cameras.height / K[:, 1, 1]) / 2
    seen = float(half.median())
    if seen <= 0:  # the axes meet behind the cameras: they look outward
        return cameras, stay
    scale = HALF_WIDTH / seen
    if abs(scale - 1) < 0.02 and float(centre.norm()) < 0.02 * HALF_WIDTH:
        return cameras, stay
    c2w[:, :3, 3] = (c2w[:, :3, 3] - centre) * scale
    x, y, z = centre.tolist()
    return Cameras(c2w.to(cameras.c2w), cameras.K, cameras.width, cameras.height), Placement(scale, (x, y, z))


def nearest_to_axes(cameras: Cameras) -> Tensor | None:
    """The point [3] nearest to all optical axes, or None where they are (almost) parallel."""
    c2w = cameras.c2w.double()
    d = c2w[:, :3, 2]
    across = torch.eye(3, dtype=d.dtype, device=d.device) - d[:, :, None] * d[:, None]
    A, b = across.mean(0), (across @ c2w[:, :3, 3:]).mean(0)[:, 0]
    if float(torch.linalg.eigvalsh(A)[0]) < 1e-3:
        return None
    return torch.linalg.solve(A, b)
