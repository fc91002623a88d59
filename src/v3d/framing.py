"""The framing law, of photos and of meshes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.capture.images import MAX_SIZE
from v3d.compositing import resize_rgba
from v3d.errors import V3DError
from v3d.views import Views

BORDER_RATIO = 0.3
MIN_SIDE = 16


def frame_photo(rgba: Tensor, border_ratio: float = BORDER_RATIO, max_size: int = MAX_SIZE) -> Tensor:
    """Apply the framing law to [H, W, 4] -> [S, S, 4] without resampling unless S would exceed `max_size`.

    An image that already obeys the law to the pixel is returned as it is.

    Raises:
        V3DError: nothing has alpha > 0.5, or only a few pixels.
    """
    height, width = rgba.shape[:2]
    left, top, right, bottom = visible_box(rgba[..., 3])
    longer = max(right - left, bottom - top)
    if longer < MIN_SIDE // 2:
        raise V3DError(f"The object is only {longer} pixels large; give a closer photo.")
    size = round(longer / (1 - border_ratio))
    off_centre = max(abs(left + right - width), abs(top + bottom - height)) / 2
    if height == width <= max_size and abs(size - width) <= 2 and off_centre <= 0.5:
        return rgba
    x0, y0 = (left + right - size) // 2, (top + bottom - size) // 2
    square = F.pad(rgba.permute(2, 0, 1), (-x0, x0 + size - width, -y0, y0 + size - height)).permute(1, 2, 0)
    return square.contiguous() if size <= max_size else resize_rgba(square, max_size, max_size)


def pad_square(rgba: Tensor, max_size: int = MAX_SIZE) -> Tensor:
    """[H, W, 4] in the middle of a transparent square [S, S, 4], S <= `max_size`."""
    height, width = rgba.shape[:2]
    size = max(height, width)
    x0, y0 = (size - width) // 2, (size - height) // 2
    square = F.pad(rgba.permute(2, 0, 1), (x0, size - width - x0, y0, size - height - y0)).permute(1, 2, 0)
    return square.contiguous() if size <= max_size else resize_rgba(square, max_size, max_size)


def visible_box(alpha: Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of alpha [H, W] > 0.5.

    Raises:
        V3DError: there is none.
    """
    mask = alpha > 0.5
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if len(rows) == 0:
        raise V3DError("The image shows no object: its alpha is nowhere above one half.")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


MAX_FILL = 0.96


def frame_mesh(vertices: Tensor, cameras: Cameras) -> Tensor:
    """Centre and scale vertices [P, 3] by the framing law for the orbit `cameras`; view 0 is the front."""
    span = vertices.amax(0) - vertices.amin(0)
    vertices = (vertices - vertices.amin(0) - span / 2) / span.norm().clamp_min(1e-9)
    size = torch.tensor([cameras.width, cameras.height], dtype=vertices.dtype)
    target = 1 - BORDER_RATIO
    for _ in range(8):  # perspective makes the law implicit; the iteration contracts quickly
        xy, _ = cameras.project(vertices)
        low, high = (xy / size).amin(1), (xy / size).amax(1)  # [V, 2]
        fill = (high[0] - low[0]).max()
        reach = 2 * torch.maximum(high - 0.5, 0.5 - low).max()
        scale = torch.minimum(target / fill, MAX_FILL / reach)
        # Move the front view's box to the image centre: one image width is 2 * tan(fov / 2) * depth.
        per_image = size / cameras.K[0, [0, 1], [0, 1]]
        shift = ((low[0] + high[0]) / 2 - 0.5) * per_image * cameras.centers[0].norm()
        offset = cameras.c2w[0, :3, 0] * shift[0] + cameras.c2w[0, :3, 1] * shift[1]
        vertices = (vertices - offset) * scale
    return vertices


def photo_of(views: Views) -> Tensor:
    """View 0 framed as `v3d.capture.photo` frames a photo -> [H, W, 4] straight-alpha RGBA at the views' size."""
    rgb, alpha = views.rgb[0], views.alpha[0]
    rows, columns = (alpha > 0.5).any(1).nonzero()[:, 0], (alpha > 0.5).any(0).nonzero()[:, 0]
    straight = torch.where(alpha[..., None] > 0, 1 - (1 - rgb) / alpha[..., None].clamp_min(1e-4), 1.0).clamp(
        0, 1
    )
    rgba = torch.cat([straight, alpha[..., None]], -1)
    if len(rows) == 0:
        return rgba
    H, W = alpha.shape
    top, bottom = float(rows[0]), float(rows[-1] + 1)
    left, right = float(columns[0]), float(columns[-1] + 1)
    scale = max(bottom - top, right - left) / ((1 - BORDER_RATIO) * H)
    if abs(scale - 1) < 0.03 and abs(top + bottom - H) <= 2 and abs(left + right - W) <= 2:
        return rgba
    # Resample premultiplied colour, so that the white ground does not bleed into the edge.
    y = ((torch.arange(H) + 0.5 - H / 2) * scale + (top + bottom) / 2) / H * 2 - 1
    x = ((torch.arange(W) + 0.5 - W / 2) * scale + (left + right) / 2) / W * 2 - 1
    grid = torch.stack([x[None].expand(H, W), y[:, None].expand(H, W)], -1)
    premultiplied = torch.cat([straight * alpha[..., None], alpha[..., None]], -1)
    out = F.grid_sample(premultiplied.permute(2, 0, 1)[None], grid[None], align_corners=False)[0].permute(
        1, 2, 0
    )
    covered = out[..., 3:].clamp_min(1e-4)
    return torch.cat(
        [torch.where(out[..., 3:] > 0, out[..., :3] / covered, 1.0).clamp(0, 1), out[..., 3:]], -1
    )
