"""One function that renders Gaussians: on the CPU by our Numba kernels, on CUDA by gsplat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.preview import RenderFn
from v3d.splats.gaussians import Splats


@dataclass(frozen=True)
class SplatImages:
    """V rendered images of H x W pixels, over nothing; `over` composites them on a background.

    Attributes:
        rgb: [V, H, W, 3] premultiplied colour.
        alpha: [V, H, W] coverage in [0, 1].
        depth: [V, H, W] accumulated: the sum of weight times camera z.
        normal: [V, H, W, 3] accumulated world-space normals towards the camera, or None if not asked for.
        screen: [V, N, 2]; after a backward pass its `.grad` is dL/d(projected centre) in pixels, by which
            Gaussians are densified. None when no gradient is recorded.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None = None
    screen: Tensor | None = None

    @property
    def expected_depth(self) -> Tensor:
        """[V, H, W] mean camera z of what is visible; 0 where nothing is."""
        return torch.where(self.alpha > 1e-4, self.depth / self.alpha.clamp_min(1e-4), 0.0)

    def over(self, background: Tensor | float) -> Tensor:
        """[V, H, W, 3] on a background: a number, [3], or anything that broadcasts."""
        return self.rgb + (1 - self.alpha)[..., None] * background


def rasterize(splats: Splats, cameras: Cameras, *, normals: bool = False) -> SplatImages:
    """Render N Gaussians with V cameras; differentiable in everything the Gaussians consist of.

    The device of the Gaussians chooses the backend. Gaussians with NaN or infinite numbers are invisible.

    Args:
        normals: also render normals. A Gaussian's normal is its shortest axis, turned to the camera.

    Raises:
        V3DError: the Gaussians are on CUDA and gsplat is not installed.
    """
    cameras = cameras.to(splats.means.device)
    colours = splats.rgb.expand(len(cameras), -1, -1)
    if normals:
        colours = torch.cat([colours, splat_normals(splats, cameras.centers)], -1)
    if splats.means.device.type == "cuda":
        from v3d.splats.gpu import rasterize_gpu as backend
    else:
        backend = _rasterize_cpu
    image, alpha, depth, screen = backend(splats, colours, cameras)
    return SplatImages(image[..., :3], alpha, depth, image[..., 3:] if normals else None, screen)


@torch.no_grad()
def normal_images(splats: Splats, cameras: Cameras) -> Tensor:
    """Normals [V, H, W, 3] of Gaussians: unit, world-space, towards the camera; 0 where they are not opaque.

    The surface fit takes them in place of the paper's monocular normals.
    """
    images = rasterize(splats, cameras, normals=True)
    assert images.normal is not None
    return F.normalize(images.normal, dim=-1) * (images.alpha > 0.9)[..., None]


def splat_normals(splats: Splats, eyes: Tensor) -> Tensor:
    """World-space unit normals [V, N, 3] of Gaussians: their shortest axes, turned to the eyes [V, 3]."""
    # Column k of the rotation matrix is R e_k, written out so that only one column is made.
    axis = F.one_hot(splats.log_scales.argmin(-1), 3).to(splats.means)
    q = F.normalize(splats.quats, dim=-1)
    w, v = q[:, :1], q[:, 1:]
    normal = axis + 2 * torch.linalg.cross(v, torch.linalg.cross(v, axis) + w * axis)
    away = ((eyes[:, None] - splats.means) * normal).sum(-1, keepdim=True) < 0
    return torch.where(away, -normal, normal)


def _rasterize_cpu(
    splats: Splats, colours: Tensor, cameras: Cameras
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Images [V, H, W, C] of colours [V, N, C], three channels at a time; alpha, depth and screen."""
    from v3d.splats.cpu import rasterize_cpu

    tensors = (splats.means, splats.quats, splats.log_scales, splats.logit_opacity, colours)
    recording = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    screen = torch.zeros(len(cameras), len(splats), 2, requires_grad=recording) if recording else None
    unused = torch.zeros(len(splats), 2)
    scales, opacity, w2c = splats.scales, splats.opacity, cameras.w2c
    images, alphas, depths = [], [], []
    for v in range(len(cameras)):
        parts = [
            rasterize_cpu(
                splats.means,
                splats.quats,
                scales,
                opacity,
                rgb,
                unused if screen is None else screen[v],
                w2c[v],
                cameras.K[v],
                cameras.width,
                cameras.height,
            )
            for rgb in torch.split(colours[v], 3, -1)
        ]
        images.append(torch.cat([part[0] for part in parts], -1))
        alphas.append(parts[0][1])
        depths.append(parts[0][2])
    return torch.stack(images), torch.stack(alphas), torch.stack(depths), screen


def splat_renderer(splats: Splats) -> RenderFn:
    """A function that renders the splats on white, for `v3d.preview`."""

    def draw(cameras: Cameras) -> Tensor:
        with torch.no_grad():
            return rasterize(splats, cameras).over(1.0).clamp(0, 1)

    return draw
