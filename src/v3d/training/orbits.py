"""Training orbits: a mesh, a front, a light -> the 18 views that the generator learns to make.

The framing law. A photo is framed so that its object's box is centred and the box's longer side fills
`1 - BORDER_RATIO` of the image (`v3d.photo`). Training orbits obey the same law: the object is turned to
a front, centred, and scaled until view 0 *is* such a photo. Only where another view would then leave the
image (a long object seen end-on) does the object shrink, until the widest view fills `MAX_FILL`; the
photo that conditions the generator keeps the law even then, so a long object seen end-on still comes out
with its true proportions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import ORBIT_RADIUS, ORBIT_VIEWS, WIDE_FOV, Cameras, intrinsics, look_at, orbit
from v3d.mesh import Mesh
from v3d.photo import BORDER_RATIO
from v3d.rendering import Light, render
from v3d.training.shapes import Warp, random_warp
from v3d.views import Views

MAX_FILL = 0.96
_STRETCH = 1.3  # an axis grows or shrinks by at most this factor


@dataclass(frozen=True)
class OrbitVariant:
    """What a training orbit draws at random.

    Attributes:
        front: azimuth of the photo in degrees.
        light: shading, fixed to the world of the orbit.
        mirror: mirror the object left to right.
        stretch: [3] scale of the object's axes.
        warp: smooth distortion of its shape, None for none.
        channels: permutation of the colour channels.
        gain: [3] colour gain.
    """

    front: float = 0.0
    light: Light | None = None
    mirror: bool = False
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    warp: Warp | None = None
    channels: tuple[int, int, int] = (0, 1, 2)
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)


DEFAULT_LIGHT = Light(torch.tensor([1.0, 0.6, 1.2]), ambient=0.7)


def random_variant(generator: torch.Generator) -> OrbitVariant:
    """A random front, light, shape and appearance. Half of the variants keep the object's own colours, and a third
    keep its shape but for its proportions."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    angle, height = uniform(0, 2 * math.pi), uniform(0.2, 1.0)
    light = Light(torch.tensor([math.cos(angle), math.sin(angle), height]), ambient=uniform(0.5, 1.0))
    recolour = uniform(0, 1) < 0.5
    channels = torch.randperm(3, generator=generator).tolist() if recolour else [0, 1, 2]
    return OrbitVariant(
        front=uniform(0, 360),
        light=light,
        mirror=uniform(0, 1) < 0.5,
        stretch=(_STRETCH ** uniform(-1, 1), _STRETCH ** uniform(-1, 1), _STRETCH ** uniform(-1, 1)),
        warp=random_warp(generator) if uniform(0, 1) < 2 / 3 else None,
        channels=(channels[0], channels[1], channels[2]),
        gain=(uniform(0.85, 1.0), uniform(0.85, 1.0), uniform(0.85, 1.0)),
    )


def frame(vertices: Tensor, cameras: Cameras) -> Tensor:
    """Centre and scale vertices [P, 3] by the framing law for the orbit `cameras`; view 0 is the front."""
    span = vertices.amax(0) - vertices.amin(0)
    vertices = (vertices - vertices.amin(0) - span / 2) / span.norm().clamp_min(1e-9)
    size = torch.tensor([cameras.width, cameras.height], dtype=vertices.dtype)
    target = 1 - BORDER_RATIO
    for _ in range(8):  # perspective makes the law implicit; the iteration contracts quickly
        xy, _ = cameras.project(vertices)
        low, high = (xy / size).amin(1), (xy / size).amax(1)  # [V, 2]
        fill = (high[0] - low[0]).max()
        reach = 2 * torch.maximum(high - 0.5, 0.5 - low).max()
        scale = torch.minimum(target / fill, MAX_FILL / reach)
        # Move the front view's box to the image centre: one image width is 2 * tan(fov / 2) * depth.
        per_image = size / cameras.K[0, [0, 1], [0, 1]]
        shift = ((low[0] + high[0]) / 2 - 0.5) * per_image * cameras.centers[0].norm()
        offset = cameras.c2w[0, :3, 0] * shift[0] + cameras.c2w[0, :3, 1] * shift[1]
        vertices = (vertices - offset) * scale
    return vertices


def around(views: int, size: int, generator: torch.Generator) -> Cameras:
    """`views` cameras (field of view `WIDE_FOV`) in random directions, evenly over the sphere from 30 degrees below the horizon to straight above."""
    u, height = torch.rand(2, views, dtype=torch.float64, generator=generator)
    height = (1.5 * height - 0.5).clamp_max(0.999)  # at the pole itself nothing stands upright
    flat = (1 - height.square()).sqrt()
    azimuth = 2 * math.pi * u
    centers = ORBIT_RADIUS * torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), height], -1)
    return Cameras(look_at(centers).float(), intrinsics(WIDE_FOV, size, size).repeat(views, 1, 1), size, size)


def vary(mesh: Mesh, variant: OrbitVariant) -> Mesh:
    """The mesh in the proportions and colours of `variant`, turned to its front."""
    turn = math.radians(-variant.front)
    rotation = torch.tensor(
        [[math.cos(turn), -math.sin(turn), 0.0], [math.sin(turn), math.cos(turn), 0.0], [0.0, 0.0, 1.0]]
    )
    stretch = torch.tensor(variant.stretch)
    if variant.mirror:
        stretch = stretch * torch.tensor([1.0, -1.0, 1.0])
    vertices = mesh.vertices if variant.warp is None else variant.warp(mesh.vertices)
    return replace(
        mesh,
        vertices=(vertices * stretch) @ rotation.T,
        faces=mesh.faces.flip(1) if variant.mirror else mesh.faces,
        texture=None
        if mesh.texture is None
        else mesh.texture[..., list(variant.channels)] * torch.tensor(variant.gain),
    )


def place(mesh: Mesh, variant: OrbitVariant, cameras: Cameras) -> Mesh:
    """The mesh as `variant` changes it, framed by the law for `cameras`."""
    varied = vary(mesh, variant)
    return replace(varied, vertices=frame(varied.vertices, cameras))


def render_orbit(
    mesh: Mesh,
    variant: OrbitVariant,
    *,
    size: int = 128,
    views: int = ORBIT_VIEWS,
    palette: bool = False,
    smooth: bool = True,
) -> Views:
    """The orbit of one object: [views, size, size] images that obey the framing law.

    Args:
        palette: read the texture without interpolation.
        smooth: shade with interpolated normals.
    """
    cameras = orbit(views, size=size)
    placed = place(mesh, variant, cameras)
    images = render(placed, cameras, light=variant.light, smooth=smooth, nearest=palette)
    return Views(images.rgb, images.alpha, cameras)


def photo_of(views: Views) -> Tensor:
    """View 0 framed as `v3d.photo` frames a photo -> [H, W, 4] straight-alpha RGBA at the views' size."""
    rgb, alpha = views.rgb[0], views.alpha[0]
    rows, columns = (alpha > 0.5).any(1).nonzero()[:, 0], (alpha > 0.5).any(0).nonzero()[:, 0]
    straight = torch.where(alpha[..., None] > 0, 1 - (1 - rgb) / alpha[..., None].clamp_min(1e-4), 1.0).clamp(
        0, 1
    )
    rgba = torch.cat([straight, alpha[..., None]], -1)
    if len(rows) == 0:
        return rgba
    H, W = alpha.shape
    top, bottom = float(rows[0]), float(rows[-1] + 1)
    left, right = float(columns[0]), float(columns[-1] + 1)
    scale = max(bottom - top, right - left) / ((1 - BORDER_RATIO) * H)
    if abs(scale - 1) < 0.03 and abs(top + bottom - H) <= 2 and abs(left + right - W) <= 2:
        return rgba
    # Resample premultiplied colour, so that the white ground does not bleed into the edge.
    y = ((torch.arange(H) + 0.5 - H / 2) * scale + (top + bottom) / 2) / H * 2 - 1
    x = ((torch.arange(W) + 0.5 - W / 2) * scale + (left + right) / 2) / W * 2 - 1
    grid = torch.stack([x[None].expand(H, W), y[:, None].expand(H, W)], -1)
    premultiplied = torch.cat([straight * alpha[..., None], alpha[..., None]], -1)
    out = F.grid_sample(premultiplied.permute(2, 0, 1)[None], grid[None], align_corners=False)[0].permute(
        1, 2, 0
    )
    covered = out[..., 3:].clamp_min(1e-4)
    return torch.cat(
        [torch.where(out[..., 3:] > 0, out[..., :3] / covered, 1.0).clamp(0, 1), out[..., 3:]], -1
    )
