"""Texture refinement: the geometry is frozen, the texture is fitted to the views.

A pixel of a fixed mesh is a fixed weighted mean of texels, so rendering view v is a sparse matrix A_v and its
gradient A_v^T. The texture t starts at t_0, the back-projection, and descends

    sum_v |A_v t - I_v|^2 / 2 + lambda_0 |t - t_0|^2 / 2

several views a step. A pixel's residual counts by its confidence, as in back-projection, and each texel's
step is divided by the confidences over it, the column sums of the matrices: a contraction (SIRT), so no
learning rate needs tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.meshes.mesh import Mesh
from v3d.meshes.padding import pad
from v3d.meshes.rendering import at_corners, rasterize_mesh, rasterize_uv
from v3d.texture.project import pixel_confidence
from v3d.views import Views


@dataclass(frozen=True)
class RefineSettings:
    """How the texture is refined.

    Attributes:
        sweeps: over all views.
        batch: views a step.
        rate: step length, in (0, 2).
        anchor: weight of the start (lambda_0), positive, in pixels over a texel.
        supersample: rays per pixel side.
    """

    sweeps: int = 2
    batch: int = 6
    rate: float = 0.5
    anchor: float = 0.02
    supersample: int = 2


def refine_texture(
    mesh: Mesh,
    views: Views,
    settings: RefineSettings | None = None,
    *,
    photos: Sequence[Views] = (),
    photo_gain: float = 1.0,
    on_step: OnStep | None = None,
) -> Mesh:
    """Fit the texture of a textured mesh to views, starting from the texture it has.

    Args:
        mesh: with a square texture (see `v3d.texture.project.project_views`).
        views: on the mesh's device.
        settings: by default `RefineSettings()`.
        photos: real photos as views, batches of one, each at its own resolution (see
            `v3d.texture.project.register_photo`). They take part in every step, and their finer pixels
            outweigh those of the views on what they see.
        photo_gain: factor on the weight of a photo's pixels.
        on_step: called with (steps done, steps in all) after every step.

    Returns:
        The mesh with the refined texture, in [0, 1].
    """
    settings = settings or RefineSettings()
    assert mesh.texture is not None and mesh.uv is not None, "the mesh has no texture"
    height, width = mesh.texture.shape[:2]
    matrices = [_ViewMatrix.build(mesh, views[i : i + 1], settings.supersample) for i in range(len(views))]
    of_photos = [_ViewMatrix.build(mesh, photo, 1) for photo in photos]

    # Every n-th view: neighbours on the orbit, which show nearly the same, never share a step.
    stride = -(-len(views) // settings.batch)
    start = mesh.texture.reshape(-1, 3)
    texels = start
    for step in range(settings.sweeps * stride):
        # Three channels of the gradient, and the confidences over each texel.
        summed = torch.zeros(len(texels), 4, device=texels.device)
        chosen = matrices[step % stride :: stride]
        gains = [1.0] * len(chosen) + [photo_gain] * len(of_photos)
        for matrix, gain in zip([*chosen, *of_photos], gains, strict=True):
            residual = matrix.render(texels) - matrix.view.rgb[0]
            confidence = gain * matrix.confidence[..., None]
            matrix.add_adjoint(torch.cat([residual * confidence, confidence], -1), summed)
        gradient = summed[:, :3] + settings.anchor * (texels - start)
        texels = (texels - settings.rate * gradient / (summed[:, 3:] + settings.anchor)).clamp(0, 1)
        if on_step is not None:
            on_step(step + 1, settings.sweeps * stride)
    inside = rasterize_uv(mesh, height).face[0] >= 0
    return replace(mesh, texture=pad(texels.reshape(height, width, 3), inside))


@dataclass(frozen=True)
class _ViewMatrix:
    """One view of the frozen mesh as a sparse matrix A from texels to pixels; S rays hit the mesh.

    Attributes:
        view: a batch of one.
        texel, weight: [S, 4] the texels that a ray reads and their bilinear weights over rays per pixel.
        pixel: [S] of each ray.
        background: [H, W] share of white in each pixel.
        confidence: [H, W] in [0, 1] of each pixel, 0 outside the mesh.
    """

    view: Views
    texel: Tensor
    weight: Tensor
    pixel: Tensor
    background: Tensor
    confidence: Tensor

    @classmethod
    def build(cls, mesh: Mesh, view: Views, supersample: int) -> _ViewMatrix:
        """The matrix of a view (a batch of one), with `supersample` rays per pixel side."""
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
            at_corners(attribute, corners, barycentric)
            for attribute in (mesh.uv, mesh.vertices, mesh.vertex_normals)
        )
        texel, weight = _bilinear(uv, rows, columns)

        to_camera = F.normalize(cameras.centers[0] - point, dim=-1)
        cos = (F.normalize(normal, dim=-1) * to_camera).sum(-1).clamp_min(0)
        coverage, facing = uv.new_zeros(2, height * width).index_add_(
            1, pixel, torch.stack([torch.ones_like(cos), cos**4]) / n**2
        )
        depth = rasterize_mesh(mesh, cameras).depth[0]
        focal = float(cameras.K[0, 0, 0])
        confidence = facing.view(height, width) * pixel_confidence(view.alpha[0], depth, focal)
        background = 1 - coverage.view(height, width)
        return cls(view, texel, weight / n**2, pixel, background, confidence)

    def render(self, texels: Tensor) -> Tensor:
        """A t on white: texels [T * T', 3] -> image [H, W, 3]."""
        image = self.background.reshape(-1, 1).repeat(1, 3)
        if texels.device.type == "cpu":
            from v3d.texture.kernels import gather  # the compiler is not loaded before it is needed

            gather(*(x.numpy() for x in (texels.contiguous(), self.texel, self.weight, self.pixel, image)))
        else:
            _gather(texels, self.texel, self.weight, self.pixel, image)
        return image.view(*self.background.shape, 3)

    def add_adjoint(self, image: Tensor, texels: Tensor) -> None:
        """Add A^T g of an image g [H, W, 4] to texels [T * T', 4]."""
        flat = image.reshape(-1, 4)
        if texels.device.type == "cpu":
            from v3d.texture.kernels import scatter

            scatter(*(x.numpy() for x in (flat, self.texel, self.weight, self.pixel, texels)))
        else:
            _scatter(flat, self.texel, self.weight, self.pixel, texels)


def _gather(texels: Tensor, texel: Tensor, weight: Tensor, pixel: Tensor, image: Tensor) -> None:
    """What `v3d.texture.kernels.gather` does, in torch."""
    image.index_add_(0, pixel, (texels[texel] * weight[..., None]).sum(1))


def _scatter(image: Tensor, texel: Tensor, weight: Tensor, pixel: Tensor, texels: Tensor) -> None:
    """What `v3d.texture.kernels.scatter` does, in torch."""
    spread = image[pixel][:, None] * weight[..., None]
    texels.index_add_(0, texel.reshape(-1), spread.reshape(-1, 4))


def _bilinear(uv: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The four texels around uv [S, 2] in a flat texture and their weights, [S, 4] each."""
    place = uv * uv.new_tensor([columns, rows]) - 0.5
    low = place.floor()
    u, v = (place - low).unbind(-1)
    texels, weights = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            column = (low[:, 0].long() + dx).clamp(0, columns - 1)
            row = (low[:, 1].long() + dy).clamp(0, rows - 1)
            texels.append(row * columns + column)
            weights.append((u if dx else 1 - u) * (v if dy else 1 - v))
    return torch.stack(texels, -1), torch.stack(weights, -1)
