"""The guide: what the source photos say about new views, in pictures that the video model sees.

PixelNeRF draws every new view, right in pose and blurred where the photos leave several answers. Its depth then says
where each photo shows what a view sees, and carries the nearest photos there: sharp wherever that depth is right.
The paper joins PixelNeRF's features to the noisy latents; ours joins these pictures to the noisy pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.networks.pixelnerf import PixelNeRF, Sources, nearness

MOST_READ = 3
"""PixelNeRF draws a view from so many photos, the nearest; and the nearer, the more they count.

Far photos blur what near ones show: views of validation scenes are 0.4 dB (three photos) and 0.6 dB (six) better than with
all photos alike, and those of a real capture 1.8 and 2.4 dB (docs/scenes.md).
"""

BESIDE = 0.2
"""How much the guide's colour counts beside what the video model paints, where that is half transparent (`in_outlines`)."""

OUTLINE, STEEPNESS = 0.45, 4.0
"""Where the outline of PixelNeRF's views lies, and how much steeper than PixelNeRF's the drawn alpha is there.

An expected silhouette is cut below one half because IoU forgives what is too large more than what is missing. A carved body
wants it higher, since one view too small is enough to carve: 32 validation objects at 0.4, 0.44 and 0.52 have a mask IoU of 0.713, 0.711 and
0.701 and a mesh IoU of 0.454, 0.460 and 0.472. Steep
outlines cost PSNR, which likes fog (test split: 19.6 dB with a steepness of 1.5), but fog becomes torn surfaces
in the mesh, and firm views a body.
"""


@dataclass(frozen=True)
class Guide:
    """Of V views; B sets of them have a leading axis more.

    Attributes:
        images: [V, 4, S, S] in [-1, 1], colour on white, then alpha: PixelNeRF's views, those of objects with firm outlines (`solid`).
        depth: [V, h, w] camera depth, 0 where a view is empty.
        warped: [V, K, 5, S, S] the K nearest photos as the views would see them, nearest first; the last channel is 1 where
            they show what the view sees, else -1.
    """

    images: Tensor
    depth: Tensor
    warped: Tensor

    @staticmethod
    def stack(guides: list[Guide]) -> Guide:
        """B sets of equally many views."""
        return Guide(*(torch.stack([getattr(g, f.name) for g in guides]) for f in fields(Guide)))

    def to(self, device: torch.device | str) -> Guide:
        return Guide(*(getattr(self, f.name).to(device) for f in fields(self)))


@torch.no_grad()
def draw_guide(
    pixelnerf: PixelNeRF, photos: Tensor, photo_cameras: Cameras, cameras: Cameras, warps: int
) -> Guide:
    """Of the views of `cameras`.

    Args:
        photos: [N, 4, S, S] in [-1, 1], colour on white, then alpha; their order does not matter unless two are equally near.
        photo_cameras, cameras: of the photos and of the V views, in one world.
        warps: photos that are warped to every view.
    """
    images, depth = draw_views(pixelnerf, photos, photo_cameras, cameras)
    return make_guide(images, depth, photos, photo_cameras, cameras, warps, opaque=pixelnerf.config.opaque)


def make_guide(
    images: Tensor,
    depth: Tensor,
    photos: Tensor,
    photo_cameras: Cameras,
    cameras: Cameras,
    warps: int,
    *,
    opaque: bool,
) -> Guide:
    """Of the images [V, 4, S, S] and depth [V, h, w] that `draw_views` returned; `opaque` is PixelNeRF's, the rest as for `draw_guide`."""
    warped = warp_nearest(photos, photo_cameras, cameras, depth, warps)
    return Guide(images if opaque else solid(images), depth, warped)


@torch.no_grad()
def draw_views(
    pixelnerf: PixelNeRF, photos: Tensor, photo_cameras: Cameras, cameras: Cameras
) -> tuple[Tensor, Tensor]:
    """PixelNeRF's part: each view from the photos nearest to it.

    Returns:
        images [V, 4, S, S], drawn at `pixelnerf.config.drawn` pixels and enlarged, and camera depth [V, drawn, drawn].
    """
    size, side, drawn = photos.shape[-1], pixelnerf.config.size, pixelnerf.config.drawn
    sources = F.interpolate(photos, (side, side), mode="bilinear", antialias=True, align_corners=False)
    weights = nearness(photo_cameras, cameras)
    views_of: dict[tuple[int, ...], list[int]] = {}  # views that are drawn from the same photos
    for v, nearest in enumerate(weights.T.argsort(descending=True)[:, :MOST_READ].tolist()):
        views_of.setdefault(tuple(sorted(nearest)), []).append(v)
    images = photos.new_empty(len(cameras), 4, drawn, drawn)
    depth = photos.new_empty(len(cameras), drawn, drawn)
    for near, views in views_of.items():
        read = Sources.of(sources[list(near)], photo_cameras[near], weights[list(near)][:, views])
        images[views], depth[views] = pixelnerf.images(read, cameras[views].resized(drawn, drawn))
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False), depth


def warp_nearest(
    photos: Tensor, photo_cameras: Cameras, cameras: Cameras, depth: Tensor, count: int
) -> Tensor:
    """The `count` nearest of N photos [N, 4, S, S] as V views with `depth` [V, h, w] would see them, see `Guide.warped`.

    What hides a point from a photo is not known. Where there are fewer photos the last one stands again.
    """
    V, size = len(cameras), photos.shape[-1]
    nearest = nearness(photo_cameras, cameras).T.argsort(descending=True)  # [V, N]
    nearest = nearest[:, torch.arange(count).clamp_max(len(photos) - 1)]
    depth = F.interpolate(depth[:, None], (size, size), mode="nearest")[:, 0]
    origins, directions = (x.to(depth) for x in cameras.resized(size, size).rays())
    points = (origins + directions * depth[..., None]).flatten(1, 2)  # [V, S * S, 3]
    unit = photo_cameras.resized(1, 1)
    w2c, K = (x.to(depth)[nearest] for x in (unit.w2c, unit.K))  # [V, count, ...]
    x = torch.einsum("vnij,vpj->vnpi", w2c[..., :3, :3], points) + w2c[..., None, :3, 3]
    uv = torch.einsum("vnij,vnpj->vnpi", K, x)
    where = uv[..., :2] / uv[..., 2:].clamp_min(1e-3) * 2 - 1
    seen = (where.abs() <= 1).all(-1) & (x[..., 2] > 0) & (depth.flatten(1)[:, None] > 0)
    taken = F.grid_sample(
        photos[nearest.flatten()],
        where.view(V * count, size, size, 2),
        padding_mode="border",
        align_corners=False,
    )
    return torch.cat([taken.unflatten(0, (V, count)), seen.view(V, count, 1, size, size) * 2.0 - 1], 2)


def paint(guide: Tensor, residual: Tensor, *, opaque: bool) -> Tensor:
    """The video model's views: guide images [..., 4, H, W] and what it adds to them; objects (not `opaque`) in the guide's outlines."""
    painted = guide + residual
    return painted if opaque else in_outlines(painted, guide)


def in_outlines(painted: Tensor, guide: Tensor) -> Tensor:
    """The colours of `painted` in the outlines of `guide`: images [..., 4, H, W] in [-1, 1], colour on white, then alpha.

    Outlines that are painted view by view belong to no solid; PixelNeRF's do. Colours are taken off the white; where nothing is painted
    the guide's colour stands.
    """
    (colour, alpha), (beside, outline) = (
        (x / 2 + 0.5).clamp(0, 1).split([3, 1], -3) for x in (painted, guide)
    )
    weight = BESIDE * (1 - alpha)
    straight = (colour - (1 - alpha) + weight * _straight(beside, outline)) / (alpha + weight)
    return torch.cat([straight.clamp(0, 1) * outline + 1 - outline, outline], -3) * 2 - 1


def solid(images: Tensor) -> Tensor:
    """Images [V, 4, H, W] in [-1, 1] (colour on white, alpha) with firmer outlines, where alpha is `OUTLINE`.

    What a model is unsure of it draws half transparent, and on white that is washed out. The colour
    behind the transparency is sound: it is taken off the white and put on again with the firmer alpha.
    """
    rgb, alpha = ((images / 2 + 0.5).clamp(0, 1)).split([3, 1], 1)
    firm = ((alpha - OUTLINE) * STEEPNESS + 0.5).clamp(0, 1)
    return torch.cat([_straight(rgb, alpha) * firm + 1 - firm, firm], 1) * 2 - 1


def _straight(on_white: Tensor, alpha: Tensor) -> Tensor:
    """Colours in [0, 1], taken off the white."""
    return (1 - (1 - on_white) / alpha.clamp_min(0.05)).clamp(0, 1)
