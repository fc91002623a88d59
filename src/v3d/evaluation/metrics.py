"""Image metrics: generated, rendered or reconstructed views against true ones.

Images are [V, H, W, 3] in [0, 1] (sRGB-encoded, on white), masks [V, H, W]; every metric returns [V].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.mesh import Mesh
from v3d.rendering import Fragments, rasterize_mesh
from v3d.views import Views

PSNR_CEILING = 100.0
"""dB of identical images; finite, so that means and JSON stay finite."""


def psnr(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, -10 log10 of the mean squared error, at most `PSNR_CEILING`.

    Args:
        weight: [V, H, W], non-negative, of each pixel in the mean; images without any weight score the ceiling.
    """
    error = (a - b).square().mean(-1)
    if weight is None:
        mse = error.mean((1, 2))
    else:
        mse = (error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-12)
    return decibels(mse)


def foreground_psnr(a: Views, b: Views) -> Tensor:
    """PSNR over the union of both objects (each pixel weighs its larger alpha): white ground counts nothing."""
    return psnr(a.rgb, b.rgb, torch.maximum(a.alpha, b.alpha))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): 11-tap Gaussian, sigma 1.5, K1 0.01, K2 0.03, data range 1.

    The mean is over the region where the window fits (5 pixels off each border) and over channels, with
    population covariances: scikit-image's `gaussian_weights=True, use_sample_covariance=False`. (torchmetrics
    averages over a reflected border as well, which changes the third decimal of small images.)

    Raises:
        ValueError: an image side is under 11 pixels.
    """
    if min(a.shape[1:3]) < 11:
        raise ValueError("SSIM needs images of at least 11 x 11 pixels.")
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
    """Intersection over union of masks [V, H, W] thresholded at 0.5; 1 where both are empty."""
    a, b = a > 0.5, b > 0.5
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both, dtype=torch.float32))


def compare_views(views: Views, truth: Views) -> dict[str, Tensor]:
    """PSNR, SSIM, foreground PSNR and mask IoU of each view, by the names that tables use."""
    return {
        "psnr": psnr(views.rgb, truth.rgb),
        "ssim": ssim(views.rgb, truth.rgb),
        "foreground_psnr": foreground_psnr(views, truth),
        "mask_iou": mask_iou(views.alpha, truth.alpha),
    }


def silhouette_consistency(views: Views, hull: Mesh) -> Tensor:
    """[V] IoU of each view's mask with the silhouette of the visual hull of all views.

    The hull lies inside every silhouette that was carved with, so a view whose outline no single solid
    explains scores low. Needs no ground truth.
    """
    return mask_iou(views.alpha, (rasterize_mesh(hull, views.cameras).face >= 0).float())


def warp_consistency(views: Views, hull: Mesh, step: int = 1) -> Tensor:
    """[V] PSNR in dB of each view against view i + `step` warped into it over the hull's surface.

    Only points that both cameras see count; views without such a point are nan. The hull is not the
    object, so true views do not reach the ceiling: read it beside the true views' own value.
    """
    fragments = rasterize_mesh(hull, views.cameras)
    origins, directions = views.cameras.rays()
    points = origins + fragments.depth[..., None] * directions
    scores = []
    for i in range(len(views)):
        j = (i + step) % len(views)
        seen = (fragments.face[i] >= 0) & (views.alpha[i] > 0.99)
        colour, visible = _sample_visible(views[j], _view(fragments, j), points[i][seen])
        error = (colour - views.rgb[i][seen])[visible].square()
        scores.append(decibels(error.mean()))
    return torch.stack(scores)


def decibels(mse: Tensor) -> Tensor:
    """dB of a mean squared error, at most `PSNR_CEILING`."""
    return -10 * mse.clamp_min(10 ** (-PSNR_CEILING / 10)).log10()


def _view(fragments: Fragments, i: int) -> Fragments:
    return Fragments(*(getattr(fragments, name)[i : i + 1] for name in ("face", "barycentric", "depth")))


def _sample_visible(view: Views, fragments: Fragments, points: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [P, 3] of world points [P, 3] in one view, and [P] whether its camera sees them."""
    cameras: Cameras = view.cameras
    pixels, z = cameras.project(points)
    grid = (pixels / pixels.new_tensor([cameras.width, cameras.height]) * 2 - 1)[:, None]
    layers = torch.cat([view.rgb, view.alpha[..., None], fragments.depth[..., None]], -1).permute(0, 3, 1, 2)
    sampled = F.grid_sample(layers[:, :4], grid, align_corners=False)[0, :, 0].T
    depth = F.grid_sample(layers[:, 4:], grid, mode="nearest", align_corners=False)[0, 0, 0]
    tolerance = 2 * z[0] / cameras.K[0, 0, 0]  # two pixels' width at that depth
    return sampled[:, :3], (sampled[:, 3] > 0.99) & ((depth - z[0]).abs() < tolerance)
