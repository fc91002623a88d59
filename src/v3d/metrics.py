"""How similar two batches of images or silhouettes are: PSNR, SSIM and intersection over union.

Images are [V, H, W, 3] in [0, 1] as people see them (sRGB-encoded, composited), silhouettes [V, H, W] in
[0, 1]; a metric gives one value an image, [V], unless it says otherwise. PSNR and SSIM are differentiable.
Everything runs on any device and needs torch alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.errors import V3DError

PSNR_CEILING = 100.0
"""dB of identical images; finite, so that means and JSON stay finite."""


def psnr(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio [V] in dB of images: -10 log10 of the mean squared error.

    Args:
        a, b: [V, H, W, 3] in [0, 1].
        weight: [V, H, W], non-negative, of each pixel in the mean; images without weight score the ceiling.

    Returns:
        At most `PSNR_CEILING`.
    """
    error = (a - b).square().mean(-1)
    if weight is None:
        mse = error.mean((1, 2))
    else:
        mse = (error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-12)
    return decibels(mse)


def decibels(mse: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors [...] of values in [0, 1], at most `PSNR_CEILING`."""
    return -10 * mse.clamp_min(10 ** (-PSNR_CEILING / 10)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity [V] of images (Wang et al. 2004).

    An 11-tap Gaussian window of sigma 1.5, K1 0.01, K2 0.03, data range 1. The mean is over the region where
    the window fits (5 pixels off each border) and over channels, with population covariances: scikit-image's
    `gaussian_weights=True, use_sample_covariance=False`. (torchmetrics averages over a reflected border as
    well, which changes the third decimal of small images.)

    Args:
        a, b: [V, H, W, 3] in [0, 1].

    Raises:
        V3DError: an image side is under 11 pixels.
    """
    if min(a.shape[1:3]) < 11:
        raise V3DError(
            f"Images of {a.shape[2]} x {a.shape[1]} pixels cannot be compared: SSIM needs 11 x 11 at least."
        )
    x = torch.arange(11, dtype=a.dtype, device=a.device) - 5
    g = torch.exp(-x.square() / (2 * 1.5**2))
    g = (g / g.sum()).expand(15, 1, 1, 11)

    p, q = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
    moments = F.conv2d(torch.cat([p, q, p * p, q * q, p * q], 1), g, groups=15)
    moments = F.conv2d(moments, g.mT, groups=15)
    mean_p, mean_q, pp, qq, pq = moments.chunk(5, 1)
    var_p, var_q, cov = pp - mean_p**2, qq - mean_q**2, pq - mean_p * mean_q
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
    structure = (2 * cov + c2) / (var_p + var_q + c2)
    return (luminance * structure).mean((1, 2, 3))


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [V] of silhouettes [V, H, W], thresholded at 0.5; 1 where both are empty."""
    a, b = a > 0.5, b > 0.5
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both, dtype=torch.float32))


def soft_iou(a: Tensor, b: Tensor) -> float:
    """Soft intersection over union of two alphas of one shape, over all pixels; 0 where both are empty."""
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum().clamp_min(1e-6))
