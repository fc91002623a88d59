"""Texture refinement: the geometry is frozen, the texture is fitted to the views.

A pixel of a fixed mesh is a fixed weighted mean of texels, so rendering view v is a sparse matrix A_v and
its gradient A_v^T. The texture t starts at t_0, the back-projection, and descends

    sum_v |A_v t - I_v|^2 / 2 + lambda_p n_v perceptual(A_v t, I_v) + lambda_0 |t - t_0|^2 / 2

(n_v: pixels of the view), several views a step. A pixel's slope counts by its say, as in back-projection, and
each texel's step is divided by the says over it: for the first term a contraction (SIRT), so no learning rate
needs tuning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import rasterize_mesh, rasterize_uv
from v3d.networks.perceptual import Perceptual
from v3d.texture.project import pad, trust
from v3d.views import Views


@dataclass(frozen=True)
class RefineSettings:
    """How the texture is refined.

    Attributes:
        sweeps: over all views.
        batch: views a step.
        rate: step length, in (0, 2).
        stay: pull to the start (lambda_0), in pixels over a texel.
        perceptual: weight of the perceptual term (lambda_p).
        supersample: rays per pixel side.
    """

    sweeps: int = 2
    batch: int = 6
    rate: float = 0.5
    stay: float = 0.02
    perceptual: float = 0.1
    supersample: int = 2


def refine_texture(
    mesh: Mesh,
    views: Views,
    settings: RefineSettings | None = None,
    *,
    perceptual: Perceptual | None = None,
    photo: Views | None = None,
    on_step: OnStep | None = None,
) -> Mesh:
    """Fit the texture of a textured mesh to views, starting from the texture it has.

    Args:
        mesh: textured, see `v3d.texture.project`.
        perceptual: adds the perceptual term; its weight is in the settings.
        photo: the true view at its own resolution (see `v3d.texture.project.register_photo`). It takes part
            in every step, and its finer pixels outweigh those of the views on what it sees.
        on_step: called with (steps done, steps in all).
    """
    settings = settings or RefineSettings()
    assert mesh.texture is not None and mesh.uv is not None, "the mesh has no texture"
    height, width = mesh.texture.shape[:2]
    pictures = [_Picture.build(mesh, views[i], settings.supersample) for i in range(len(views))]
    always = [] if photo is None else [_Picture.build(mesh, photo, 1)]
    features = perceptual.prepare(views.rgb) if perceptual is not None else []

    # Every n-th view: neighbours on the orbit, which say nearly the same, never share a step.
    strides = -(-len(views) // settings.batch)
    batches = [list(range(first, len(views), strides)) for first in range(strides)]
    start = mesh.texture.reshape(-1, 3)
    texels = start
    for step in range(settings.sweeps * strides):
        batch = batches[step % strides]
        chosen = [pictures[i] for i in batch]
        images = torch.stack([picture.render(texels) for picture in chosen]).requires_grad_()
        slopes = images.detach() - views.rgb[batch]
        if perceptual is not None:
            (slope,) = torch.autograd.grad(perceptual(images, [features[i] for i in batch]), images)
            slopes = slopes + settings.perceptual * slope * slope[..., 0].numel()
        pull, mass = settings.stay * (texels - start), texels.new_full((len(texels),), settings.stay)
        for picture, slope in zip(chosen, slopes, strict=True):
            pull, mass = pull + picture.back(slope * picture.say[..., None]), mass + picture.mass
        for picture in always:
            slope = (picture.render(texels) - picture.view.rgb[0]) * picture.say[..., None]
            pull, mass = pull + picture.back(slope), mass + picture.mass
        texels = (texels - settings.rate * pull / mass[:, None]).clamp(0, 1)
        if on_step is not None:
            on_step(step + 1, settings.sweeps * strides)
    inside = rasterize_uv(mesh, height).face[0] >= 0
    return replace(mesh, texture=pad(texels.reshape(height, width, 3), inside))


@dataclass(frozen=True)
class _Picture:
    """One view of the frozen mesh as a sparse matrix from texels to pixels; S rays hit the mesh.

    Attributes:
        view: a batch of one.
        texel, weight: [S, 4] the texels that a ray reads and their bilinear weights over rays per pixel.
        pixel: [S] of each ray.
        white: [H, W] the background's share of each pixel.
        say: [H, W] in [0, 1], 0 outside.
        mass: [T * T'] A^T say: what the pixels weigh on each texel.
    """

    view: Views
    texel: Tensor
    weight: Tensor
    pixel: Tensor
    white: Tensor
    say: Tensor
    mass: Tensor

    @classmethod
    def build(cls, mesh: Mesh, view: Views, supersample: int) -> _Picture:
        assert mesh.texture is not None and mesh.uv is not None
        rows, columns = mesh.texture.shape[:2]
        cameras, n = view.cameras, supersample
        height, width = cameras.height, cameras.width
        fragments = rasterize_mesh(mesh, cameras.resized(width * n, height * n))
        hit = fragments.face[0] >= 0
        y, x = hit.nonzero().T
        pixel = torch.div(y, n, rounding_mode="floor") * width + torch.div(x, n, rounding_mode="floor")

        corners, barycentric = mesh.faces[fragments.face[0][hit]], fragments.barycentric[0][hit]
        uv, point, normal = (
            (attribute[corners] * barycentric[..., None]).sum(1)
            for attribute in (mesh.uv, mesh.vertices, mesh.vertex_normals)
        )
        place = uv * uv.new_tensor([columns, rows]) - 0.5
        low = place.floor()
        fraction = place - low
        texels, weights = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                column = (low[:, 0].long() + dx).clamp(0, columns - 1)
                row = (low[:, 1].long() + dy).clamp(0, rows - 1)
                texels.append(row * columns + column)
                u, v = fraction.unbind(-1)
                weights.append((u if dx else 1 - u) * (v if dy else 1 - v) / n**2)

        to_camera = F.normalize(cameras.centers[0] - point, dim=-1)
        cos = (F.normalize(normal, dim=-1) * to_camera).sum(-1).clamp_min(0)
        sums = uv.new_zeros(2, height * width).index_add_(
            1, pixel, torch.stack([torch.ones_like(cos), cos**4]) / n**2
        )
        depth = rasterize_mesh(mesh, cameras).depth[0]
        say = sums[1].view(height, width) * trust(view.alpha[0], depth, float(cameras.K[0, 0, 0]))
        self = cls(
            view,
            torch.stack(texels, -1),
            torch.stack(weights, -1),
            pixel,
            1 - sums[0].view(height, width),
            say,
            uv.new_zeros(rows * columns),
        )
        return replace(self, mass=self.back(say[..., None])[:, 0])

    def render(self, texels: Tensor) -> Tensor:
        """A t on white: texels [T * T', 3] -> image [H, W, 3]."""
        rays = (texels[self.texel] * self.weight[..., None]).sum(1)
        image = self.white.reshape(-1, 1).repeat(1, 3).index_add_(0, self.pixel, rays)
        return image.view(*self.white.shape, 3)

    def back(self, image: Tensor) -> Tensor:
        """A^T g: image [H, W, C] -> texels [T * T', C]."""
        channels = image.shape[-1]
        spread = image.reshape(-1, channels)[self.pixel][:, None] * self.weight[..., None]
        texels = image.new_zeros(len(self.mass), channels)
        return texels.index_add_(0, self.texel.reshape(-1), spread.reshape(-1, channels))
