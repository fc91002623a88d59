"""Random variants of an object (front, light, shape, colours), and the orbit of 18 views of each.

The framing law. A photo is framed so that its object's box is centred and the box's longer side fills `1 -
BORDER_RATIO` of the image (`v3d.capture.photo`). Training orbits obey the same law: the object is turned to a
front, centred, and scaled until view 0 *is* such a photo. Only where another view would then leave the image
(a long object seen end-on) does the object shrink, until the widest view fills `MAX_FILL`; the photo that
conditions the generator keeps the law even then, so the object still comes out in its true proportions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from v3d.cameras import ORBIT_RADIUS, ORBIT_VIEWS, WIDE_FOV, Cameras, intrinsics, look_at, orbit
from v3d.data.random_numbers import uniform
from v3d.data.warps import Warp, random_warp
from v3d.framing import frame_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render
from v3d.views import Views

_STRETCH = 1.3  # an axis grows or shrinks by at most this factor


@dataclass(frozen=True)
class OrbitVariant:
    """The random choices of a training orbit.

    Attributes:
        front: azimuth of the photo in degrees.
        light: shading, fixed to the world of the orbit.
        mirror: mirror the object left to right.
        stretch: [3] scale of the object's axes.
        warp: smooth distortion of its shape, None for none.
        channels: permutation of the colour channels.
        gain: [3] colour gain.
        elevation: degrees above the horizon from which the photo is taken. Cameras stay level, so the object
            leans: its top comes towards the front camera by as much (`seen_from`).
    """

    front: float = 0.0
    light: Light | None = None
    mirror: bool = False
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    warp: Warp | None = None
    channels: tuple[int, int, int] = (0, 1, 2)
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    elevation: float = 0.0


DEFAULT_LIGHT = Light(torch.tensor([1.0, 0.6, 1.2]), ambient=0.7)
"""One mild light, for variants without one of their own."""


def random_variant(generator: torch.Generator) -> OrbitVariant:
    """A random front, light, shape and appearance.

    Half of the variants keep the object's own colours, and a third keep its shape but for its proportions.
    """
    angle, height = uniform(generator, 0, 2 * math.pi), uniform(generator, 0.2, 1.0)
    light = Light(
        torch.tensor([math.cos(angle), math.sin(angle), height]), ambient=uniform(generator, 0.5, 1.0)
    )
    recolour = uniform(generator, 0, 1) < 0.5
    channels = torch.randperm(3, generator=generator).tolist() if recolour else [0, 1, 2]
    return OrbitVariant(
        front=uniform(generator, 0, 360),
        light=light,
        mirror=uniform(generator, 0, 1) < 0.5,
        stretch=(
            _STRETCH ** uniform(generator, -1, 1),
            _STRETCH ** uniform(generator, -1, 1),
            _STRETCH ** uniform(generator, -1, 1),
        ),
        warp=random_warp(generator) if uniform(generator, 0, 1) < 2 / 3 else None,
        channels=(channels[0], channels[1], channels[2]),
        gain=(uniform(generator, 0.85, 1.0), uniform(generator, 0.85, 1.0), uniform(generator, 0.85, 1.0)),
    )


def seen_from(variant: OrbitVariant, elevation: float) -> OrbitVariant:
    """The variant with a photo from `elevation` degrees; its light, fixed to the object, leans with it."""
    light = variant.light
    if light is not None:
        light = replace(light, direction=leaning(light.direction, elevation))
    return replace(variant, light=light, elevation=elevation)


def leaning(points: Tensor, degrees: float) -> Tensor:
    """Points [..., 3] turned about the y axis: what was straight up leans towards +x, the front camera."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ points.new_tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]).T


def around(views: int, size: int, generator: torch.Generator) -> Cameras:
    """`views` cameras (field of view `WIDE_FOV`) in random directions around the object.

    They are spread evenly over the sphere from 30 degrees below the horizon to straight above.
    """
    u, height = torch.rand(2, views, dtype=torch.float64, generator=generator)
    height = (1.5 * height - 0.5).clamp_max(0.999)  # at the pole itself nothing stands upright
    flat = (1 - height.square()).sqrt()
    azimuth = 2 * math.pi * u
    centers = ORBIT_RADIUS * torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), height], -1)
    return Cameras(look_at(centers).float(), intrinsics(WIDE_FOV, size, size).repeat(views, 1, 1), size, size)


def vary(mesh: Mesh, variant: OrbitVariant) -> Mesh:
    """The mesh in the proportions and colours of `variant`, turned to its front and to its elevation."""
    turn = math.radians(-variant.front)
    rotation = torch.tensor(
        [[math.cos(turn), -math.sin(turn), 0.0], [math.sin(turn), math.cos(turn), 0.0], [0.0, 0.0, 1.0]]
    )
    stretch = torch.tensor(variant.stretch)
    if variant.mirror:
        stretch = stretch * torch.tensor([1.0, -1.0, 1.0])
    vertices = mesh.vertices if variant.warp is None else variant.warp(mesh.vertices)
    upright = (vertices * stretch) @ rotation.T
    return replace(
        mesh,
        vertices=leaning(upright, variant.elevation) if variant.elevation else upright,
        faces=mesh.faces.flip(1) if variant.mirror else mesh.faces,
        texture=None
        if mesh.texture is None
        else mesh.texture[..., list(variant.channels)] * torch.tensor(variant.gain),
    )


def placed_mesh(mesh: Mesh, variant: OrbitVariant, cameras: Cameras) -> Mesh:
    """The mesh as `variant` changes it, framed by the law for `cameras`."""
    varied = vary(mesh, variant)
    return replace(varied, vertices=frame_mesh(varied.vertices, cameras))


def render_orbit(
    mesh: Mesh,
    variant: OrbitVariant,
    *,
    size: int = 128,
    views: int = ORBIT_VIEWS,
    palette: bool = False,
    smooth: bool = True,
) -> Views:
    """Render the orbit of one object: [views, size, size] images that obey the framing law.

    Args:
        mesh: the object.
        variant: its front, light, shape and colours.
        size: pixels of a view's side.
        views: cameras of the orbit.
        palette: read the texture without interpolation.
        smooth: shade with interpolated normals.
    """
    cameras = orbit(views, size=size)
    placed = placed_mesh(mesh, variant, cameras)
    images = render(placed, cameras, light=variant.light, smooth=smooth, nearest=palette)
    return Views(images.rgb, images.alpha, cameras)
