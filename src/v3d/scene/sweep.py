"""Depth of posed photos by plane sweep: where Gaussians start when no network estimates depths.

Every pixel tries a row of depths, evenly spaced in 1/depth. At each, the other photos are sampled where the
point would appear. The depth at which they agree best in a small window wins, if the point's pixel in another
photo has about that depth too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.views import Views

PLANES = 96  # depths that are tried
NEIGHBOURS = 4  # other photos that each photo is compared with
WINDOW = 5  # pixels a side, over which colour differences are averaged
OUTSIDE_COST = 0.3  # colour difference of a photo that does not show the point
EQUAL = 0.01  # colour differences that count as equal
AMBIGUOUS = 6  # where more than one in so many planes is as good as the best, there is no depth
AGREE = 1.5  # planes by which two views may differ about one point


def sweep_depth(views: Views, *, near: float, far: float, size: int = 96) -> Tensor:
    """Camera z [V, h, w] of V >= 2 views; 0 where the photos do not agree.

    Args:
        near: the smallest depth tried.
        far: the largest depth tried, which stands for everything farther, too.
        size: longer side of the depth maps at most, in pixels.
    """
    scale = min(1.0, size / max(views.cameras.width, views.cameras.height))
    cameras = views.cameras.resized(round(views.cameras.width * scale), round(views.cameras.height * scale))
    images = F.interpolate(
        views.rgb.permute(0, 3, 1, 2), (cameras.height, cameras.width), mode="bilinear", antialias=True
    )
    inverse = torch.linspace(1 / near, 1 / far, PLANES, device=images.device)
    others = [_neighbours(cameras, v) for v in range(len(cameras))]
    nearness = torch.stack([_best(images, cameras, v, others[v], inverse) for v in range(len(cameras))])
    agreed = torch.stack([_agrees(nearness, cameras, v, others[v], inverse) for v in range(len(cameras))])
    return torch.where(agreed, 1 / nearness, 0.0)


def _neighbours(cameras: Cameras, v: int) -> list[int]:
    """Indices of the nearest views that look in about the direction of view `v`."""
    distance = (cameras.centers - cameras.centers[v]).norm(dim=-1)
    facing = cameras.c2w[:, :3, 2] @ cameras.c2w[v, :3, 2]
    score = distance + 1e3 * (facing < 0.3)
    score[v] = torch.inf
    nearest: list[int] = score.argsort()[: min(NEIGHBOURS, len(cameras) - 1)].tolist()
    return nearest


def _best(images: Tensor, cameras: Cameras, v: int, others: list[int], inverse: Tensor) -> Tensor:
    """The best 1/depth [h, w] for view `v`, 0 where too many depths are as good.

    A depth is as good as the mean colour difference of the better half of the other views.
    """
    origin, direction = cameras[v].rays()
    volume = []
    for q in inverse:
        points = (origin + direction / q)[0]
        costs = []
        for other in others:
            grid, z = _project(cameras[other], points)
            sampled = F.grid_sample(images[other : other + 1], grid[None], align_corners=False)[0]
            inside = (grid.abs() < 1).all(-1) & (z > 0)
            # What a view does not show can neither confirm nor refute.
            cost = torch.where(inside, (sampled - images[v]).abs().mean(0), OUTSIDE_COST)
            costs.append(F.avg_pool2d(cost[None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0])
        volume.append(torch.stack(costs).sort(0).values[: max(1, len(costs) // 2)].mean(0))
    cost = torch.stack(volume)
    k = cost.argmin(0, keepdim=True).clamp(1, len(inverse) - 2)
    below, at, above = (cost.gather(0, k + step)[0] for step in (-1, 0, 1))
    # Where many depths are as good, as in a plain sky, there is none: points at near ones would be floaters.
    ambiguous = (cost < at + EQUAL).sum(0) > PLANES // AMBIGUOUS
    # The lowest point of the parabola through three neighbouring planes.
    shift = 0.5 * (below - above) / (below - 2 * at + above).clamp_min(1e-6)
    nearness = inverse[k[0]] + shift.clamp(-1, 1) * (inverse[1] - inverse[0])
    return torch.where(ambiguous, 0.0, nearness)


def _agrees(nearness: Tensor, cameras: Cameras, v: int, others: list[int], inverse: Tensor) -> Tensor:
    """Whether another view has about the depth of view `v` where it shows the point, [h, w] of bool."""
    origin, direction = cameras[v].rays()
    points = (origin + direction / nearness[v].clamp_min(1e-6)[..., None])[0]
    step = inverse[0] - inverse[1]
    agreed = torch.zeros_like(nearness[v], dtype=torch.bool)
    for other in others:
        grid, z = _project(cameras[other], points)
        sampled = nearness[other][None, None]
        sampled = F.grid_sample(sampled, grid[None], mode="nearest", align_corners=False)[0, 0]
        inside = (grid.abs() < 1).all(-1) & (z > 0)
        agreed |= inside & (nearness[v] > 0) & ((sampled - 1 / z.clamp_min(1e-6)).abs() < AGREE * step)
    return agreed


def _project(camera: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """`grid_sample` coordinates [h, w, 2] and camera z [h, w] of points [h, w, 3] in one camera."""
    pixels, z = camera.project(points.reshape(-1, 3))
    return camera.to_grid(pixels[0]).view(*points.shape[:2], 2), z[0].view(points.shape[:2])
