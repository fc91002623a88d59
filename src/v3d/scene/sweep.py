"""Depth of posed photos by plane sweep: where Gaussians start when no network says how far things are.

Every pixel tries a row of depths, even in 1/depth. At each, the other photos are looked up where the point would
appear; the depth at which they agree best in a small window wins, if the winner's own pixel in another photo
says the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.views import Views

PLANES = 96
NEIGHBOURS = 4
WINDOW = 5
UNSEEN = 0.3  # the colour difference that a photo counts for which does not show a point
EQUAL, VAGUE = 0.01, 6  # colours that count as equal; the part 1/6 of all planes that may be
AGREE = 1.5  # planes by which two views may differ over the same point


def sweep_depth(views: Views, *, near: float, far: float, size: int = 96) -> Tensor:
    """Camera z [V, h, w] of V >= 2 views at no more than `size` pixels a side; 0 where photos do not agree.

    Args:
        near, far: the range of depths tried; `far` stands for everything farther, too.
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
    """The nearest views that look the same way."""
    distance = (cameras.centers - cameras.centers[v]).norm(dim=-1)
    facing = cameras.c2w[:, :3, 2] @ cameras.c2w[v, :3, 2]
    score = distance + 1e3 * (facing < 0.3)
    score[v] = torch.inf
    return score.argsort()[: min(NEIGHBOURS, len(cameras) - 1)].tolist()


def _best(images: Tensor, cameras: Cameras, v: int, others: list[int], inverse: Tensor) -> Tensor:
    """[h, w] the 1/depth at which the half of the other views that agree best differ least; 0 where many do."""
    origin, direction = cameras[v].rays()
    volume = []
    for q in inverse:
        points = (origin + direction / q)[0]
        costs = []
        for other in others:
            grid, z = _look_up(cameras[other], points)
            sampled = F.grid_sample(images[other : other + 1], grid[None], align_corners=False)[0]
            inside = (grid.abs() < 1).all(-1) & (z > 0)
            # What a view does not show can neither confirm nor refute.
            cost = torch.where(inside, (sampled - images[v]).abs().mean(0), UNSEEN)
            costs.append(F.avg_pool2d(cost[None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0])
        volume.append(torch.stack(costs).sort(0).values[: max(1, len(costs) // 2)].mean(0))
    cost = torch.stack(volume)
    k = cost.argmin(0, keepdim=True).clamp(1, len(inverse) - 2)
    below, at, above = (cost.gather(0, k + step)[0] for step in (-1, 0, 1))
    # Where many depths are as good, as in a plain sky, none is known: anything near would hang before the scene.
    vague = (cost < at + EQUAL).sum(0) > PLANES // VAGUE
    # The lowest point of the parabola through three neighbouring planes.
    shift = 0.5 * (below - above) / (below - 2 * at + above).clamp_min(1e-6)
    nearness = inverse[k[0]] + shift.clamp(-1, 1) * (inverse[1] - inverse[0])
    return torch.where(vague, 0.0, nearness)


def _agrees(nearness: Tensor, cameras: Cameras, v: int, others: list[int], inverse: Tensor) -> Tensor:
    """[h, w] whether another view has about the same depth for the same point."""
    origin, direction = cameras[v].rays()
    points = (origin + direction / nearness[v].clamp_min(1e-6)[..., None])[0]
    step = inverse[0] - inverse[1]
    agreed = torch.zeros_like(nearness[v], dtype=torch.bool)
    for other in others:
        grid, z = _look_up(cameras[other], points)
        theirs = nearness[other][None, None]
        theirs = F.grid_sample(theirs, grid[None], mode="nearest", align_corners=False)[0, 0]
        inside = (grid.abs() < 1).all(-1) & (z > 0)
        agreed |= inside & (nearness[v] > 0) & ((theirs - 1 / z.clamp_min(1e-6)).abs() < AGREE * step)
    return agreed


def _look_up(camera: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """`grid_sample` coordinates [h, w, 2] and camera z [h, w] of points [h, w, 3] in one camera."""
    pixels, z = camera.project(points.reshape(-1, 3))
    size = pixels.new_tensor([camera.width, camera.height])
    return (pixels[0] / size * 2 - 1).view(*points.shape[:2], 2), z[0].view(points.shape[:2])
