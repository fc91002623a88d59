"""The guide: what the source photos say about new views, as images that the video model reads.

PixelNeRF renders every new view, right in pose and blurred where the photos leave several answers. Its depth
then says where each photo shows what a view sees, and the nearest photos are warped there: sharp wherever
that depth is right. The paper joins PixelNeRF's features to latents; here these images join noisy pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.autocast import without_autocast
from v3d.cameras import Cameras
from v3d.networks.pixelnerf import PixelNeRF
from v3d.networks.sources import Sources, camera_similarity

GUIDE_WEIGHT = 0.2
"""Weight of the guide's colour beside the video model's where that is half transparent (`in_outlines`)."""

OUTLINE, EDGE = 0.45, 2.0
"""The alpha at which a silhouette is cut, and the pixels over which alpha then falls (`firm_alpha`).

An expected silhouette is cut below one half because IoU forgives what is too large more than what is missing.
A carved body wants it higher, since one view too small is enough to carve: 32 validation objects at 0.4, 0.44
and 0.52 have a mask IoU of 0.713, 0.711 and 0.701 and a mesh IoU of 0.454, 0.460 and 0.472. Firm outlines
cost PSNR, which likes fog, but fog becomes torn surfaces in the mesh. Edges of two pixels are as good as fog
four times as steep by PSNR, and better by LPIPS (docs/history.md).
"""

SMOOTHING = 0.8
"""Standard deviation in pixels by which `smooth_outlines` smooths alpha."""
_FLAT = 0.01  # change of alpha from pixel to pixel; flatter is no edge


@dataclass(frozen=True)
class Guide:
    """The guide of V views; that of B sets of views has a leading axis more.

    Attributes:
        images: [V, 4, S, S] in [-1, 1], colour on white, then alpha: PixelNeRF's views, those of objects with
            `smooth_outlines` and `firm_alpha`.
        depth: [V, h, w] camera depth, 0 where a view is empty.
        warped: [V, K, 5, S, S] the K nearest photos as the views would see them, nearest first; the last
            channel is 1 where they show what the view sees, else -1.
    """

    images: Tensor
    depth: Tensor
    warped: Tensor

    @staticmethod
    def stack(guides: list[Guide]) -> Guide:
        """B sets of equally many views."""
        return Guide(*(torch.stack([getattr(g, f.name) for g in guides]) for f in fields(Guide)))

    def to(self, device: torch.device | str) -> Guide:
        """The guide on another device."""
        return Guide(*(getattr(self, f.name).to(device) for f in fields(self)))


@torch.no_grad()
def render_guide(
    pixelnerf: PixelNeRF, photos: Tensor, photo_cameras: Cameras, cameras: Cameras, warps: int
) -> Guide:
    """The guide of new views.

    Args:
        photos: [N, 4, S, S] in [-1, 1], colour on white, then alpha; their order does not matter unless two
            are equally near.
        photo_cameras, cameras: of the photos and of the V views, in one world.
        warps: photos that are warped to every view.
    """
    images, depth = render_views(pixelnerf, photos, photo_cameras, cameras)
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
    """The guide of views that are rendered already.

    Args:
        images, depth: [V, 4, S, S] and [V, h, w] as `render_views` returns them.
        photos: [N, 4, S, S] in [-1, 1], colour on white, then alpha.
        photo_cameras, cameras: of the photos and of the V views, in one world.
        warps: photos that are warped to every view.
        opaque: PixelNeRF's own setting: views of scenes, which have no silhouette.
    """
    warped = warp_nearest(photos, photo_cameras, cameras, depth, warps)
    return Guide(images if opaque else firm_alpha(smooth_outlines(images)), depth, warped)


@torch.no_grad()
def render_views(
    pixelnerf: PixelNeRF, photos: Tensor, photo_cameras: Cameras, cameras: Cameras
) -> tuple[Tensor, Tensor]:
    """PixelNeRF's part: each view from the `pixelnerf.config.sources` photos nearest to it.

    Args:
        photos: [N, 4, S, S] in [-1, 1], colour on white, then alpha.
        photo_cameras, cameras: of the photos and of the V views, in one world.

    Returns:
        images [V, 4, S, S], rendered at `pixelnerf.config.drawn` pixels and enlarged, and camera depth
        [V, drawn, drawn], 0 where a view is empty.
    """
    size, side, rendered = photos.shape[-1], pixelnerf.config.size, pixelnerf.config.drawn
    images_in = F.interpolate(photos, (side, side), mode="bilinear", antialias=True, align_corners=False)
    weights = camera_similarity(photo_cameras, cameras)
    views_of: dict[tuple[int, ...], list[int]] = {}  # views that are rendered from the same photos
    for v, nearest in enumerate(weights.T.argsort(descending=True)[:, : pixelnerf.config.sources].tolist()):
        views_of.setdefault(tuple(sorted(nearest)), []).append(v)
    images = photos.new_empty(len(cameras), 4, rendered, rendered)
    depth = photos.new_empty(len(cameras), rendered, rendered)
    for near, views in views_of.items():
        sources = Sources.of(images_in[list(near)], photo_cameras[near], weights[list(near)][:, views])
        of_views = cameras[views].resized(rendered, rendered)
        images[views], depth[views] = pixelnerf.render_images(sources, of_views)
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False), depth


@without_autocast
def warp_nearest(
    photos: Tensor, photo_cameras: Cameras, cameras: Cameras, depth: Tensor, count: int
) -> Tensor:
    """The `count` photos nearest to each view, warped to it by its depth; occlusion is not handled.

    Args:
        photos: [N, 4, S, S] in [-1, 1]; where N is less than `count` the farthest is repeated.
        photo_cameras, cameras: of the photos and of the V views, in one world.
        depth: [V, h, w] camera depth of the views, 0 where they are empty.

    Returns:
        [V, count, 5, S, S] as `Guide.warped`.
    """
    V, size = len(cameras), photos.shape[-1]
    nearest = camera_similarity(photo_cameras, cameras).T.argsort(descending=True)  # [V, N]
    nearest = nearest[:, torch.arange(count).clamp_max(len(photos) - 1)]
    depth = F.interpolate(depth[:, None], (size, size), mode="nearest")[:, 0]
    origins, directions = (x.to(depth) for x in cameras.resized(size, size).rays())
    points = (origins + directions * depth[..., None]).flatten(1, 2)  # [V, S * S, 3]
    unit = photo_cameras.resized(1, 1)
    w2c, K = (x.to(depth)[nearest] for x in (unit.w2c, unit.K))  # [V, count, ...]
    x = torch.einsum("vnij,vpj->vnpi", w2c[..., :3, :3], points) + w2c[..., None, :3, 3]
    uv = torch.einsum("vnij,vnpj->vnpi", K, x)
    grid = uv[..., :2] / uv[..., 2:].clamp_min(1e-3) * 2 - 1
    visible = (grid.abs() <= 1).all(-1) & (x[..., 2] > 0) & (depth.flatten(1)[:, None] > 0)
    warped = F.grid_sample(
        photos[nearest.flatten()],
        grid.view(V * count, size, size, 2),
        padding_mode="border",
        align_corners=False,
    )
    mask = visible.view(V, count, 1, size, size) * 2.0 - 1
    return torch.cat([warped.unflatten(0, (V, count)), mask], 2)


def add_residual(guide: Tensor, residual: Tensor, *, opaque: bool) -> Tensor:
    """The video model's views: the guide's images plus the residual that it sampled.

    Args:
        guide, residual: [..., 4, H, W]; the guide is in [-1, 1], colour on white, then alpha.
        opaque: views of scenes, which have no silhouette; those of objects keep the guide's (`in_outlines`).
    """
    images = guide + residual
    return images if opaque else in_outlines(images, guide)


def in_outlines(images: Tensor, guide: Tensor) -> Tensor:
    """The colours of `images` in the silhouettes of `guide`.

    Silhouettes that are generated view by view are not of one body; PixelNeRF's are. Colours are taken off
    the white; where `images` are transparent the guide's colour stands.

    Args:
        images, guide: [..., 4, H, W] in [-1, 1], colour on white, then alpha.
    """
    (colour, alpha), (guide_colour, outline) = (
        (x / 2 + 0.5).clamp(0, 1).split([3, 1], -3) for x in (images, guide)
    )
    weight = GUIDE_WEIGHT * (1 - alpha)
    straight = (colour - (1 - alpha) + weight * _straight(guide_colour, outline)) / (alpha + weight)
    return torch.cat([straight.clamp(0, 1) * outline + 1 - outline, outline], -3) * 2 - 1


def smooth_outlines(images: Tensor) -> Tensor:
    """Images under an alpha smoothed by `SMOOTHING`: outlines without teeth, and specks fade.

    Straight colours stay where alpha is above one half; outside, the smoothed colours continue them.

    Args:
        images: [V, 4, H, W] in [-1, 1], colour on white, then alpha.
    """
    x = (images / 2 + 0.5).clamp(0, 1)
    taps = torch.exp(-torch.arange(-2.0, 3.0, device=x.device).square() / (2 * SMOOTHING**2))
    taps = (taps / taps.sum()).expand(4, 1, 1, 5)
    smooth = F.pad(x, (2, 2, 2, 2), mode="replicate")
    smooth = F.conv2d(F.conv2d(smooth, taps, groups=4), taps.mT, groups=4)
    (rgb, alpha), (smooth_rgb, smooth_alpha) = (y.split([3, 1], 1) for y in (x, smooth))
    straight = torch.where(alpha > 0.5, _straight(rgb, alpha), _straight(smooth_rgb, smooth_alpha))
    return torch.cat([straight * smooth_alpha + 1 - smooth_alpha, smooth_alpha], 1) * 2 - 1


def firm_alpha(images: Tensor) -> Tensor:
    """Images of the same straight colours whose silhouettes end within `EDGE` pixels, at `OUTLINE`.

    What a model is unsure of it renders half transparent, and on white that is washed out. The colour behind
    the transparency is sound: it is taken off the white and composited again with a firm alpha, which is the
    distance to the level set of `OUTLINE`, (alpha - OUTLINE) / |grad alpha|, over `EDGE`, plus one half.

    Args:
        images: [V, 4, H, W] in [-1, 1], colour on white, then alpha.
    """
    rgb, alpha = ((images / 2 + 0.5).clamp(0, 1)).split([3, 1], 1)
    padded = F.pad(alpha, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    slope = (across.square() + down.square()).sqrt().clamp_min(_FLAT)
    firm = ((alpha - OUTLINE) / (EDGE * slope) + 0.5).clamp(0, 1)
    return torch.cat([_straight(rgb, alpha) * firm + 1 - firm, firm], 1) * 2 - 1


def _straight(on_white: Tensor, alpha: Tensor) -> Tensor:
    """Straight colours [..., 3, H, W] in [0, 1] of those on white; alpha counts as at least 0.05."""
    return (1 - (1 - on_white) / alpha.clamp_min(0.05)).clamp(0, 1)
