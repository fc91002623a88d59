"""The normalised world of a scene: z up, the origin where the cameras look, the farthest camera at 1.5.

1.5 is the paper's radius of an orbit. The result does not depend on the order of the cameras, and not on the
axes, origin and unit of the capture, except for a turn around z, and for what one camera alone cannot tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from v3d.cameras import Cameras
from v3d.placement import nearest_to_axes, up_direction

RADIUS = 1.5
_IN_FRONT = 0.9  # share of cameras that have the common point before them


@dataclass(frozen=True)
class Normalisation:
    """The similarity from a capture's own world to the normalised one.

    Attributes:
        matrix: [4, 4] float64, a rotation times `scale` and a shift: `normalised = matrix @ own`.
    """

    matrix: Tensor

    @property
    def scale(self) -> float:
        """Length of one of the capture's units in the normalised world."""
        return math.pow(float(torch.linalg.det(self.matrix[:3, :3])), 1 / 3)

    def apply(self, cameras: Cameras) -> Cameras:
        """Cameras of the capture's own world in the normalised world."""
        c2w = self.matrix.to(cameras.c2w.device) @ cameras.c2w.double()
        c2w[:, :3, :3] /= self.scale
        return Cameras(c2w.to(cameras.c2w.dtype), cameras.K, cameras.width, cameras.height)

    def to_json(self) -> dict[str, Any]:
        """Matrix and scale as plain numbers, for `report.json`."""
        return {"matrix": self.matrix.tolist(), "scale": self.scale}


def normalise(cameras: Cameras) -> tuple[Cameras, Normalisation]:
    """Bring cameras into the normalised world of a scene.

    - Up: the cameras' common up becomes +z by the smallest turn; no turn where they already stand upright in
      a z-up world. See `up_direction`.
    - Centre: see `focus`; the mean camera position where they look at nothing in common.
    - Scale: the farthest camera stands at 1.5. If all cameras stand in the centre, their unit is kept.

    One camera alone has the origin 1.5 of the capture's units ahead.

    Returns:
        The cameras in the normalised world, and the way to it.
    """
    c2w = cameras.c2w.double().cpu()
    R = _turn_to_z(up_direction(cameras))
    centre = _meeting_point(cameras)
    if centre is None:
        centre = focus(cameras) if len(cameras) == 1 else c2w[:, :3, 3].mean(0)
    farthest = float((c2w[:, :3, 3] - centre).norm(dim=-1).max())
    scale = RADIUS / farthest if farthest > 1e-9 * (1 + float(centre.norm())) else 1.0
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * R
    matrix[:3, 3] = -scale * (R @ centre)
    normalisation = Normalisation(matrix)
    return normalisation.apply(cameras), normalisation


def focus(cameras: Cameras) -> Tensor:
    """The point [3] float64 that the cameras look at.

    The point nearest to all optical axes if at least nine of ten cameras have it in front of them. Otherwise
    (parallel or outward views, a single camera) the point ahead of the mean camera by the distance of the
    farthest camera from their mean, or by 1.5 where they stand in one place.
    """
    point = _meeting_point(cameras)
    if point is not None:
        return point
    c2w = cameras.c2w.double().cpu()
    mean = c2w[:, :3, 3].mean(0)
    ahead = c2w[:, :3, 2].mean(0)
    length = float(ahead.norm())
    ahead = ahead / length if length > 1e-3 else c2w[0, :3, 2]
    spread = float((c2w[:, :3, 3] - mean).norm(dim=-1).max())
    return mean + ahead * (spread if spread > 1e-9 * (1 + float(mean.norm())) else RADIUS)


def _meeting_point(cameras: Cameras) -> Tensor | None:
    """The point nearest to all axes [3], or None where there is none in front of the cameras."""
    point = nearest_to_axes(cameras) if len(cameras) > 1 else None
    if point is None:
        return None
    point = point.cpu()
    c2w = cameras.c2w.double().cpu()
    depth = ((point - c2w[:, :3, 3]) * c2w[:, :3, 2]).sum(-1)
    spread = float((c2w[:, :3, 3] - c2w[:, :3, 3].mean(0)).norm(dim=-1).max())
    in_front = depth > 1e-6 * spread + 1e-9 * (1 + float(point.norm()))
    return point if float(in_front.double().mean()) >= _IN_FRONT else None


def _turn_to_z(up: Tensor) -> Tensor:
    """The smallest rotation [3, 3] that takes the unit vector `up` to +z."""
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if float(up[2]) < -1 + 1e-9:  # any half turn around a horizontal axis will do
        return torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    v = torch.linalg.cross(up, z)
    zero = torch.zeros((), dtype=torch.float64)
    cross = torch.stack([zero, -v[2], v[1], v[2], zero, -v[0], -v[1], v[0], zero]).reshape(3, 3)
    return torch.eye(3, dtype=torch.float64) + cross + cross @ cross / (1 + up[2])
