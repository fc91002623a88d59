"""The evaluation protocol: an object with a version, so that numbers with the same version compare.

Two ways to place the object. "ball": centred on its box and scaled into the ball of radius 0.8 that
reconstruction assumes. "photo": the framing law of `v3d.framing`, by which view 0 is the photo a
generator would be given. The true mesh is then in the world of the result: nothing is aligned afterwards.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import ORBIT_VIEWS, Cameras, orbit
from v3d.evaluation.mesh_metrics import compare_meshes
from v3d.evaluation.testset import TestObject
from v3d.framing import frame_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render
from v3d.views import Views


@dataclass(frozen=True)
class ObjectProtocol:
    """How true views are made.

    Attributes:
        version: changes whenever numbers would.
        alignment: how the object is placed: "ball" centres its box and scales it into a ball, "photo" frames
            view 0 as photos are framed (`v3d.framing`).
        size: pixels of a view's side.
        views: of the orbit.
        elevation: of the orbit, degrees.
        radius: of the ball, for "ball".
        light: direction towards the light, world axes.
        ambient: share of light from everywhere; 1 is unlit. It is less, so that edges between faces of one
            colour can be seen.
        supersample: linear antialiasing factor of the renderer.
        above: elevation in degrees of the second set of held-out views.
        tau: of the F-score, in world units.
        samples: points on each surface, for distances.
        directions: that look at each solid, for the IoU.
    """

    version: str
    alignment: Literal["ball", "photo"]
    size: int
    views: int = ORBIT_VIEWS
    elevation: float = 0.0
    radius: float = 0.8
    light: tuple[float, float, float] = (1.0, 0.6, 1.2)
    ambient: float = 0.7
    supersample: int = 3
    above: float = 20.0
    tau: float = 0.01
    samples: int = 30_000
    directions: int = 36

    def as_dict(self) -> dict[str, Any]:
        """Every field, for the header of results."""
        return asdict(self)

    def compare(self, mesh: Mesh, truth: Mesh) -> dict[str, float]:
        """Chamfer distance, F-score, normal consistency and IoU, see `v3d.evaluation.mesh_metrics`."""
        return compare_meshes(mesh, truth, tau=self.tau, samples=self.samples, directions=self.directions)

    def cameras(self) -> Cameras:
        """The orbit that is given or generated."""
        return orbit(self.views, size=self.size, elevation=self.elevation)

    def held_out_cameras(self) -> dict[str, Cameras]:
        """Cameras that no method sees: halfway between the orbit's, at its elevation and above it."""
        half_step = 180.0 / self.views
        return {
            "between": orbit(self.views, size=self.size, azimuth=half_step, elevation=self.elevation),
            "above": orbit(self.views, size=self.size, azimuth=half_step, elevation=self.above),
        }

    def place(self, mesh: Mesh) -> Mesh:
        """The mesh moved and scaled as `alignment` says."""
        if self.alignment == "photo":
            return replace(mesh, vertices=frame_mesh(mesh.vertices, self.cameras()))
        centred = mesh.vertices - (mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2
        return replace(mesh, vertices=centred * (self.radius / centred.norm(dim=-1).max().clamp_min(1e-9)))

    def true_views(self, item: TestObject, cameras: Cameras) -> Views:
        """What `cameras` see of the placed object."""
        image = render(
            self.place(item.mesh),
            cameras,
            light=Light(torch.tensor(self.light), self.ambient),
            supersample=self.supersample,
            nearest=item.palette,
        )
        return Views(image.rgb, image.alpha, cameras)

    def true_orbit(self, item: TestObject) -> Views:
        """The views of the orbit, view 0 at azimuth 0."""
        return self.true_views(item, self.cameras())

    def held_out(self, item: TestObject) -> dict[str, Views]:
        """True views of the held-out cameras."""
        return {name: self.true_views(item, cameras) for name, cameras in self.held_out_cameras().items()}


RECONSTRUCTION = ObjectProtocol("reconstruction-1", "ball", 256)
GENERATION = ObjectProtocol("generation-1", "photo", 128)


def perturb(views: Views, seed: int = 0) -> Views:
    """Views that disagree as generated ones do: what a reconstruction must survive.

    Per view: a shift of 0.7 px (standard deviation, either axis) and a gain within 8 %; then a blur of 0.7 px
    and noise of 0.012. Pixels are those of the given size. Alpha is shifted and blurred along.
    """
    generator = torch.Generator().manual_seed(seed)
    V, H, W = views.alpha.shape
    gain = 1 + 0.08 * (2 * torch.rand(V, 1, 1, 1, generator=generator) - 1)
    shift = 0.7 * torch.randn(V, 2, generator=generator)
    ground = 1 - views.alpha[..., None]
    layers = torch.cat([views.rgb - ground, 1 - ground], -1).permute(0, 3, 1, 2)  # premultiplied RGBA
    theta = torch.eye(2, 3).repeat(V, 1, 1)
    theta[:, :, 2] = 2 * shift / torch.tensor([W, H])
    layers = F.grid_sample(
        layers, F.affine_grid(theta, list(layers.shape), align_corners=False), align_corners=False
    )
    layers = _blur(layers, 0.7).permute(0, 2, 3, 1)
    alpha = layers[..., 3]
    rgb = layers[..., :3] * gain + 1 - alpha[..., None]
    rgb = rgb + 0.012 * torch.randn(rgb.shape, generator=generator)
    return Views(rgb.clamp(0, 1), alpha.clamp(0, 1), views.cameras)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [V, C, H, W], zero outside."""
    C = images.shape[1]
    x = torch.arange(-3.0, 4.0)
    g = torch.exp(-x.square() / (2 * sigma**2))
    g = (g / g.sum()).expand(C, 1, 1, 7)
    images = F.conv2d(images, g, padding=(0, 3), groups=C)
    return F.conv2d(images, g.mT, padding=(3, 0), groups=C)
