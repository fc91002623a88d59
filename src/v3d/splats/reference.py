"""The rasterizer in plain torch: short, dense, any dtype, differentiable by autograd.

Every Gaussian meets every pixel, so it is only for tests and tiny images. It defines what the fast
backends must compute.
"""

from __future__ import annotations

import torch
from torch import Tensor

from v3d.splats.constants import BLUR, MAX_ALPHA, MIN_ALPHA, NEAR
from v3d.splats.gaussians import rotations


def rasterize_reference(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacity: Tensor,
    colours: Tensor,
    screen: Tensor,
    w2c: Tensor,
    K: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render N Gaussians with one camera; differentiable in the first six arguments.

    Args:
        means: [N, 3], world.
        quats: [N, 4] wxyz, any length.
        scales: [N, 3] standard deviations.
        opacity: [N] in [0, 1].
        colours: [N, C].
        screen: [N, 2] pixels, added to the projected centres.
        w2c: [4, 4] world-to-camera.
        K: [3, 3] intrinsics in pixels.
        width, height: of the image in pixels.

    Returns:
        Colour [H, W, C] over nothing, alpha [H, W], and depth [H, W], the sum of weight times camera z.
    """
    W, t = w2c[:3, :3], w2c[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    x, y, z = (means @ W.T + t).unbind(-1)
    zero = torch.zeros_like(z)
    # The linearisation is held within 1.3 times the field of view.
    u = (x / z).clamp(-cx / fx - 0.15 * width / fx, (width - cx) / fx + 0.15 * width / fx)
    v = (y / z).clamp(-cy / fy - 0.15 * height / fy, (height - cy) / fy + 0.15 * height / fy)
    J = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], -1).reshape(-1, 2, 3)
    V = J @ W @ rotations(quats) * scales[:, None, :]
    covariance = V @ V.mT + BLUR * torch.eye(2, dtype=means.dtype, device=means.device)
    centre = torch.stack([fx * x / z + cx, fy * y / z + cy], -1) + screen

    finite = torch.isfinite(torch.cat([centre, covariance.flatten(1), opacity[:, None], colours], -1)).all(-1)
    index = torch.nonzero(finite & (z > NEAR))[:, 0]
    index = index[torch.argsort(z[index], stable=True)]

    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=means.dtype, device=means.device) + 0.5,
        torch.arange(width, dtype=means.dtype, device=means.device) + 0.5,
        indexing="ij",
    )
    d = torch.stack([columns, rows], -1).reshape(-1, 1, 2) - centre[index]
    exponent = 0.5 * torch.einsum("pni,nij,pnj->pn", d, torch.linalg.inv(covariance[index]), d)
    alpha = (opacity[index] * torch.exp(-exponent)).clamp_max(MAX_ALPHA)
    alpha = alpha * (alpha >= MIN_ALPHA)
    transmittance = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1]], 1), 1)
    weight = transmittance * alpha
    return (
        (weight @ colours[index]).reshape(height, width, -1),
        weight.sum(1).reshape(height, width),
        (weight @ z[index]).reshape(height, width),
    )
