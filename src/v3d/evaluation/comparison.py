"""Image metrics: generated, rendered or reconstructed views against true ones.

Images are [V, H, W, 3] in [0, 1] (sRGB-encoded, on white), masks [V, H, W]; every metric returns [V].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Fragments, rasterize_mesh
from v3d.metrics import decibels, mask_iou, psnr, ssim
from v3d.views import Views


def foreground_psnr(a: Views, b: Views) -> Tensor:
    """PSNR [V] over the union of both objects: each pixel weighs its larger alpha, white ground nothing."""
    return psnr(a.rgb, b.rgb, torch.maximum(a.alpha, b.alpha))


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
        covered = (fragments.face[i] >= 0) & (views.alpha[i] > 0.99)
        colour, visible = _sample_visible(views[j], _view(fragments, j), points[i][covered])
        error = (colour - views.rgb[i][covered])[visible].square()
        scores.append(decibels(error.mean()))
    return torch.stack(scores)


def _view(fragments: Fragments, i: int) -> Fragments:
    return Fragments(*(getattr(fragments, name)[i : i + 1] for name in ("face", "barycentric", "depth")))


def _sample_visible(view: Views, fragments: Fragments, points: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [P, 3] of world points [P, 3] in one view, and [P] whether its camera sees them."""
    cameras = view.cameras
    pixels, z = cameras.project(points)
    grid = cameras.to_grid(pixels)[:, None]
    layers = torch.cat([view.rgb, view.alpha[..., None], fragments.depth[..., None]], -1).permute(0, 3, 1, 2)
    sampled = F.grid_sample(layers[:, :4], grid, align_corners=False)[0, :, 0].T
    depth = F.grid_sample(layers[:, 4:], grid, mode="nearest", align_corners=False)[0, 0, 0]
    tolerance = 2 * z[0] / cameras.K[0, 0, 0]  # two pixels' width at that depth
    return sampled[:, :3], (sampled[:, 3] > 0.99) & ((depth - z[0]).abs() < tolerance)
