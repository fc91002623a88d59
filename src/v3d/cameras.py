"""The one home of V3D's conventions: axes, units, pixel centres, field of view, and the orbit.

- World: right-handed, z up. The object lives near the origin; one unit is one object length unit.
- Camera: OpenCV. x right, y down, z forward; `c2w` maps camera to world coordinates.
- Pixels: column x, row y, both from the top left; the centre of the first pixel is (0.5, 0.5).
- Field of view: the full horizontal angle, in degrees.
- Orbit: radius 2, elevation 0, field of view 60; camera i at azimuth i*360/n, counter-clockwise seen
  from above (+z); camera 0 at (+radius, 0, 0) sees the front of the object, the side in the photo.
- Views from above, below and around: the same radius, field of view 75.
- Colour: sRGB-encoded values in [0, 1] everywhere outside a shader; views are composited on white.
- GLB files are y-up with the object's front towards +z (see `v3d.meshes.files`).

docs/conventions.md says the same for users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from v3d.autocast import without_autocast

ORBIT_VIEWS = 18
"""Views of an orbit."""
ORBIT_RADIUS = 2.0
"""Distance of an orbit's cameras to the origin, world units."""
ORBIT_FOV = 60.0
"""Full horizontal field of view of an orbit's cameras, degrees."""
WIDE_FOV = 75.0
"""Full field of view of cameras off the orbit, degrees: an object is longer across its corners."""


@dataclass(frozen=True)
class Cameras:
    """A batch of V pinhole cameras that share one image size.

    Attributes:
        c2w: [V, 4, 4] camera-to-world, OpenCV axes.
        K: [V, 3, 3] intrinsics in pixels.
        width, height: image size in pixels.
    """

    c2w: Tensor
    K: Tensor
    width: int
    height: int

    def __len__(self) -> int:
        """V, the number of cameras."""
        return self.c2w.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """The chosen cameras, always as a batch (an integer gives a batch of one)."""
        if isinstance(index, int):
            index = [index]
        elif isinstance(index, Sequence):
            index = list(index)
        return Cameras(self.c2w[index], self.K[index], self.width, self.height)

    @property
    @without_autocast
    def w2c(self) -> Tensor:
        """[V, 4, 4] world-to-camera."""
        R, t = self.c2w[:, :3, :3], self.c2w[:, :3, 3]
        out = torch.eye(4, dtype=R.dtype, device=R.device).repeat(len(self), 1, 1)
        out[:, :3, :3] = R.mT
        out[:, :3, 3] = -(R.mT @ t[..., None])[..., 0]
        return out

    @property
    def centers(self) -> Tensor:
        """[V, 3] camera centres in the world."""
        return self.c2w[:, :3, 3]

    def to(self, device: torch.device | str) -> Cameras:
        """Move the tensors to a device."""
        return Cameras(self.c2w.to(device), self.K.to(device), self.width, self.height)

    def to_float32(self) -> Cameras:
        """The cameras in float32; centre far ones first (`v3d.placement`)."""
        return Cameras(self.c2w.float(), self.K.float(), self.width, self.height)

    @without_autocast
    def resized(self, width: int, height: int) -> Cameras:
        """The cameras with images of another size; the fields of view stay, so a new aspect stretches."""
        scale = self.K.new_tensor([width / self.width, height / self.height, 1.0])
        return Cameras(self.c2w, self.K * scale[:, None], width, height)

    def reduced(self, longer_side: int) -> Cameras:
        """The cameras with images of the same aspect whose longer side is at most `longer_side` pixels."""
        longest = max(self.width, self.height)
        if longest <= longer_side:
            return self
        width, height = (max(round(side * longer_side / longest), 1) for side in (self.width, self.height))
        return self.resized(width, height)

    @without_autocast
    def turned(self, degrees: float) -> Cameras:
        """The cameras carried around the z axis, counter-clockwise seen from above."""
        a = math.radians(degrees)
        turn = torch.eye(4).to(self.c2w)
        turn[:2, :2] = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        return Cameras(turn @ self.c2w, self.K, self.width, self.height)

    @without_autocast
    def tilted(self, degrees: float) -> Cameras:
        """The cameras carried around the y axis: one that sees the front from its level rises."""
        a = math.radians(degrees)
        tilt = torch.eye(4).to(self.c2w)
        tilt[0, 0] = tilt[2, 2] = math.cos(a)
        tilt[2, 0], tilt[0, 2] = math.sin(a), -math.sin(a)
        return Cameras(tilt @ self.c2w, self.K, self.width, self.height)

    def mirrored(self) -> Cameras:
        """The cameras that see a world mirrored at y = 0 as these see the world, left and right exchanged.

        For central principal points only.
        """
        c2w = self.c2w.clone()
        c2w[:, 1] *= -1
        c2w[:, :, 0] *= -1
        return Cameras(c2w, self.K, self.width, self.height)

    @without_autocast
    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World points [P, 3] -> pixels [V, P, 2] and depth [V, P] (camera z; negative behind)."""
        w2c = self.w2c
        x = points @ w2c[:, :3, :3].mT + w2c[:, None, :3, 3]
        z = x[..., 2]
        uvw = x @ self.K.mT
        return uvw[..., :2] / z[..., None], z

    def to_grid(self, pixels: Tensor) -> Tensor:
        """Pixels [..., 2] -> coordinates [..., 2] of `torch.nn.functional.grid_sample(align_corners=False)`.

        The image's outer edges are at -1 and 1.
        """
        return pixels / pixels.new_tensor([self.width, self.height]) * 2 - 1

    @without_autocast
    def rays(self) -> tuple[Tensor, Tensor]:
        """Origins and directions [V, H, W, 3] in the world, through pixel centres.

        Directions have unit *camera z*, not unit length, so `origin + depth * direction` is the point
        at that depth.
        """
        dtype, device = self.c2w.dtype, self.c2w.device
        y, x = torch.meshgrid(
            torch.arange(self.height, dtype=dtype, device=device) + 0.5,
            torch.arange(self.width, dtype=dtype, device=device) + 0.5,
            indexing="ij",
        )
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        to_world = self.c2w[:, :3, :3] @ torch.linalg.inv(self.K)
        directions = torch.einsum("vij,hwj->vhwi", to_world, pixels)
        return self.centers[:, None, None, :].expand_as(directions), directions


def cat_cameras(cameras: Sequence[Cameras]) -> Cameras:
    """Join batches of cameras, at least one, that share one image size.

    Raises:
        ValueError: the sizes differ.
    """
    first = cameras[0]
    if any((c.width, c.height) != (first.width, first.height) for c in cameras):
        raise ValueError("Cameras with different image sizes cannot be joined; use `resized` first.")
    return Cameras(
        torch.cat([c.c2w for c in cameras]), torch.cat([c.K for c in cameras]), first.width, first.height
    )


@without_autocast
def poses(cameras: Cameras, among: Cameras) -> Tensor:
    """Camera centres and viewing directions [V, 6]: a distance between them tells two cameras apart.

    Centres are relative to the mean centre of the cameras `among`, in units of their mean distance from it;
    directions are unit vectors.
    """
    middle = among.centers.mean(0)
    scale = (among.centers - middle).norm(dim=-1).mean().clamp_min(1e-2)
    return torch.cat([(cameras.centers - middle) / scale, cameras.c2w[:, :3, 2]], -1)


def intrinsics(fov: float, width: int, height: int) -> Tensor:
    """K [3, 3] of a centred pinhole camera with square pixels. `fov`: full horizontal angle in degrees."""
    focal = 0.5 * width / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


@without_autocast
def look_at(
    centers: Tensor, target: Sequence[float] = (0.0, 0.0, 0.0), up: Sequence[float] = (0.0, 0.0, 1.0)
) -> Tensor:
    """c2w [V, 4, 4] of upright cameras that look at a point.

    Args:
        centers: [V, 3] camera centres in the world.
        target: the point (x, y, z).
        up: the direction (x, y, z) of any length that images show upward.

    Raises:
        ValueError: a camera looks straight along `up`, where "upright" has no meaning.
    """
    z = torch.as_tensor(target, dtype=centers.dtype, device=centers.device) - centers
    z = z / z.norm(dim=-1, keepdim=True)
    down = -torch.tensor(up, dtype=centers.dtype, device=centers.device)
    x = torch.linalg.cross(down.expand_as(z), z)
    length = x.norm(dim=-1, keepdim=True)
    if not bool((length > 1e-6).all()):
        raise ValueError("A camera that looks straight up or down has no upright orientation.")
    x = x / length
    y = torch.linalg.cross(z, x)
    c2w = torch.eye(4, dtype=centers.dtype, device=centers.device).repeat(len(centers), 1, 1)
    c2w[:, :3, 0], c2w[:, :3, 1], c2w[:, :3, 2], c2w[:, :3, 3] = x, y, z, centers
    return c2w


def orbit(
    views: int = ORBIT_VIEWS,
    *,
    size: int = 256,
    radius: float = ORBIT_RADIUS,
    elevation: float = 0.0,
    fov: float = ORBIT_FOV,
    azimuth: float = 0.0,
) -> Cameras:
    """Cameras on a horizontal circle around the origin, all looking at it.

    Args:
        views: number of cameras; camera i stands at `azimuth + i*360/views` degrees.
        size: image width and height in pixels.
        radius: distance to the origin.
        elevation: degrees above the horizon, in (-90, 90).
        fov: full field of view in degrees.
        azimuth: of camera 0, in degrees, counter-clockwise from +x seen from above.
    """
    azimuths = azimuth + torch.arange(views, dtype=torch.float64) * 360.0 / views
    return around(azimuths.tolist(), size=size, radius=radius, elevation=elevation, fov=fov)


def around(
    azimuths: Sequence[float],
    *,
    size: int = 256,
    radius: float = ORBIT_RADIUS,
    elevation: float | Sequence[float] = 0.0,
    fov: float = ORBIT_FOV,
) -> Cameras:
    """Cameras at given places of a sphere around the origin, all looking at it.

    Args:
        azimuths: of the cameras, in degrees, counter-clockwise from +x seen from above.
        size: image width and height in pixels.
        radius: distance to the origin.
        elevation: degrees above the horizon, in (-90, 90); one for all, or one a camera.
        fov: full field of view in degrees.
    """
    phi = torch.deg2rad(torch.tensor(list(azimuths), dtype=torch.float64))
    theta = torch.deg2rad(torch.tensor(elevation, dtype=torch.float64)).expand_as(phi)
    centers = radius * torch.stack([theta.cos() * phi.cos(), theta.cos() * phi.sin(), theta.sin()], dim=-1)
    K = intrinsics(fov, size, size).repeat(len(phi), 1, 1)
    return Cameras(look_at(centers).float(), K, size, size)


def above_and_below(size: int) -> Cameras:
    """Twelve cameras that see an object's top and underside.

    Six stand at an elevation of 40 degrees, two at 75, four at -30.

    Args:
        size: image width and height in pixels.
    """
    rings = ((6, 40.0, 30.0), (2, 75.0, 0.0), (4, -30.0, 0.0))
    return cat_cameras(
        [orbit(views, size=size, elevation=up, azimuth=begin, fov=WIDE_FOV) for views, up, begin in rings]
    )


OPENCV_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""[4, 4], its own inverse: `c2w @ OPENCV_OPENGL` has the axes of OpenGL and transforms.json: x right, y up,
z backward."""
