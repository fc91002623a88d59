"""The rasterizer in plain torch: short, dense, any dtype, differentiable by autograd.

Every Gaussian meets every pixel, so it is only for tests and tiny images. It defines what the fast
backends must compute.
"""

from __future__ import annotations

import torch
from torch import Tensor

from v3d.splats.gaussians import rotations

NEAR = 0.01
BLUR = 0.3
MIN_ALPHA = 1 / 255
MAX_ALPHA = 0.999


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
    """Colour [H, W, C], alpha [H, W] and accumulated depth [H, W]; arguments as `splats.cpu.rasterize_cpu`.

    Here `screen` [N, 2] is added to the projected centres (in pixels).
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
