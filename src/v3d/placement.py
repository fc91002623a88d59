"""Where cameras look, which way is up for them, and how they are brought to the world of the orbit.

Cameras from other tools look at their object wherever it lies, however large it is and whichever way is up.
`place` brings them to the scale of V3D's orbit, with the object at the origin, in a ball of radius ~0.8, and
z up. `v3d.scene.normalise` does so for scenes. Both compute in double precision: geo-referenced cameras stand
millions of units from their origin, where float32 no longer tells them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from v3d.cameras import ORBIT_FOV, ORBIT_RADIUS, Cameras
from v3d.errors import V3DError
from v3d.settings import Up

HALF_WIDTH = ORBIT_RADIUS * math.tan(math.radians(ORBIT_FOV) / 2)
"""Half of what the orbit's cameras see at the origin, in world units."""
_LEVEL = math.sin(math.radians(3))  # what counts as upright
_SPREAD = 0.05  # mean squared sine: x axes spread over more than ~13 degrees span a plane
_PRECISION = 1e-4  # of the cameras' spread: what rounding to float32 may move a camera by


@dataclass(frozen=True)
class Similarity:
    """The way from a given world to V3D's: a rotation, a scale and a shift.

    Attributes:
        matrix: [4, 4] float64, a rotation times `scale` and a shift: `there = matrix @ given`.
    """

    matrix: Tensor

    @staticmethod
    def of(scale: float, R: Tensor, centre: Tensor) -> Similarity:
        """The similarity x -> `scale * R @ (x - centre)`."""
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = scale * R
        matrix[:3, 3] = -scale * (R @ centre)
        return Similarity(matrix)

    @property
    def scale(self) -> float:
        """V3D's length of one unit of the given world."""
        return math.pow(float(torch.linalg.det(self.matrix[:3, :3])), 1 / 3)

    @property
    def centre(self) -> Tensor:
        """The point [3] of the given world that comes to the origin."""
        point: Tensor = torch.linalg.solve(self.matrix[:3, :3], -self.matrix[:3, 3])
        return point

    @property
    def turns(self) -> bool:
        """Whether it rotates."""
        return not torch.equal(self.matrix[:3, :3], self.matrix[0, 0] * torch.eye(3, dtype=torch.float64))

    @property
    def up(self) -> Tensor:
        """The direction [3] of the given world that becomes +z, of length 1."""
        return self.matrix[2, :3] / self.scale

    def apply(self, cameras: Cameras) -> Cameras:
        """Cameras of the given world in V3D's, as precise as they were."""
        c2w = self.matrix.to(cameras.c2w.device) @ cameras.c2w.double()
        c2w[:, :3, :3] /= self.scale
        return Cameras(c2w.to(cameras.c2w.dtype), cameras.K, cameras.width, cameras.height)

    def to_json(self) -> dict[str, Any]:
        """Matrix, scale and centre as plain numbers, for `report.json`."""
        return {"matrix": self.matrix.tolist(), "scale": self.scale, "centre": self.centre.tolist()}


def place(cameras: Cameras, *, up: Up = "auto") -> tuple[Cameras, Similarity]:
    """Turn, move and scale cameras so that they look at the origin as the orbit does, z up.

    - Up: the axis that is given, else what the cameras themselves take for up (`up_direction`); it becomes
      +z by the smallest turn, and nothing turns where it is +z already.
    - Centre: the point nearest to all optical axes. A single camera has it where `HALF_WIDTH` is half of what
      it sees. Cameras whose axes do not meet in front of them are not moved.
    - Scale: half of what the median camera sees at the centre becomes `HALF_WIDTH` wide.

    Cameras that stand so already (to 2 %) stay as they are, to the bit.

    Args:
        cameras: float64 where they may be far from their origin.
        up: the axis of the given world that is up.

    Returns:
        The cameras in V3D's world, in the precision of the given ones, and the similarity that brought them
        there.

    Raises:
        V3DError: a number of a camera is not finite, or float32 cannot hold it.
    """
    check_finite(cameras)
    R = turn_to_z(up_vector(cameras, up))
    centre, scale = _centre_and_scale(cameras)
    similarity = Similarity.of(scale, R, centre)
    if torch.equal(similarity.matrix, torch.eye(4, dtype=torch.float64)):
        return cameras, similarity
    return similarity.apply(cameras), similarity


def single_precision(cameras: Cameras) -> Cameras:
    """The cameras in float32, if it can tell them apart.

    Raises:
        V3DError: a number is too large, or the cameras stand too far from the origin for their distances.
    """
    check_finite(cameras)
    single = cameras.to_float32()
    centers = cameras.centers.double()
    farthest = float(centers.norm(dim=-1).max())
    spread = float((centers - centers.mean(0)).norm(dim=-1).max())
    if spread > 0 and farthest * torch.finfo(torch.float32).eps > _PRECISION * spread:
        raise V3DError(
            f"The cameras stand {farthest:.3g} units from the origin and {spread:.3g} from each other, too "
            "far for 32-bit numbers; give the folder to `v3d reconstruct` or `v3d scene`, which centre them."
        )
    return single


def check_finite(cameras: Cameras) -> None:
    """Refuse cameras that no computation can go on with.

    Raises:
        V3DError: a number is not finite, or float32 cannot hold it.
    """
    single = cameras.to_float32()
    if not bool(torch.isfinite(single.c2w).all()) or not bool(torch.isfinite(single.K).all()):
        raise V3DError(
            "A camera's numbers are not finite or too large to compute with; correct its pose and its lens."
        )


def up_vector(cameras: Cameras, up: Up) -> Tensor:
    """The unit vector [3] float64 that is up: an axis, or what `up_direction` finds."""
    if up == "auto":
        return up_direction(cameras)
    axis = torch.zeros(3, dtype=torch.float64)
    axis["xyz".index(up[-1])] = -1.0 if up.startswith("-") else 1.0
    return axis


def up_sentence(similarity: Similarity) -> str:
    """What to tell users of a world that was turned without their saying so."""
    up = similarity.up
    k = int(up.abs().argmax())
    near_axis = float(up[k].abs()) > math.cos(math.radians(3))
    name = ("-" if up[k] < 0 else "") + "xyz"[k]
    direction = name if near_axis else "(" + ", ".join(f"{value:.2f}" for value in up.tolist()) + ")"
    return f"The photos' world was turned: its up is {direction}, by the cameras (--up sets it)."


def _centre_and_scale(cameras: Cameras) -> tuple[Tensor, float]:
    """The point [3] float64 that becomes the origin, and V3D's length of one unit."""
    unchanged = torch.zeros(3, dtype=torch.float64), 1.0
    c2w, K = cameras.c2w.double().cpu(), cameras.K.double().cpu()
    per_depth = torch.minimum(cameras.width / K[:, 0, 0], cameras.height / K[:, 1, 1]) / 2
    if len(cameras) == 1:
        centre: Tensor | None = c2w[0, :3, 3] + c2w[0, :3, 2] * HALF_WIDTH / per_depth[0]
    else:
        centre = nearest_to_axes(cameras)
    if centre is None:
        return unchanged
    centre = centre.cpu()
    depth = ((centre - c2w[:, :3, 3]) * c2w[:, :3, 2]).sum(-1)
    median_half = float((depth * per_depth).median())
    if median_half <= 0:  # the axes meet behind the cameras: they look outward
        return unchanged
    scale = HALF_WIDTH / median_half
    if abs(scale - 1) < 0.02 and float(centre.norm()) < 0.02 * HALF_WIDTH:
        return unchanged
    return centre, scale


def nearest_to_axes(cameras: Cameras, *, spread: float = 1e-3) -> Tensor | None:
    """The point [3] float64 nearest to all optical axes, or None where they are (almost) parallel.

    Args:
        spread: mean squared sine of the axes' angles to their common direction, below which they count as
            parallel.
    """
    c2w = cameras.c2w.double()
    d = c2w[:, :3, 2]
    mean = c2w[:, :3, 3].mean(0)
    across = torch.eye(3, dtype=d.dtype, device=d.device) - d[:, :, None] * d[:, None]
    # Relative to the mean camera: far from the origin, the sums would lose their last digits.
    A, b = across.mean(0), (across @ (c2w[:, :3, 3] - mean)[:, :, None]).mean(0)[:, 0]
    if float(torch.linalg.eigvalsh(A)[0]) < spread:
        return None
    point: Tensor = mean + torch.linalg.solve(A, b)
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


def turn_to_z(up: Tensor) -> Tensor:
    """The smallest rotation [3, 3] that takes the unit vector `up` to +z."""
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if float(up[2]) < -1 + 1e-9:  # any half turn around a horizontal axis will do
        return torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    v = torch.linalg.cross(up, z)
    zero = torch.zeros((), dtype=torch.float64)
    cross = torch.stack([zero, -v[2], v[1], v[2], zero, -v[0], -v[1], v[0], zero]).reshape(3, 3)
    return torch.eye(3, dtype=torch.float64) + cross + cross @ cross / (1 + up[2])
