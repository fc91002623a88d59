"""The framing law: where the object stands in its photo, and how large it is in the world.

A photo's object box (alpha > 0.5) stands in the middle of a square, and its longer side is `1 - BORDER_RATIO`
of the square's: `frame_photo`, and `photo_of` for a rendered view. An object's mesh is moved and scaled so
that view 0 of its orbit is such a photo, shrunk only where another view would leave its image, to `MAX_FILL`
of it: `frame_mesh`. So a photo says how large its object is, and networks that are trained on framed meshes
meet the same scale in framed photos.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.compositing import resize_rgba
from v3d.errors import V3DError
from v3d.views import Views

BORDER_RATIO = 0.3
"""Share of a photo's side that the object leaves free along its longer side, both borders together."""
MAX_FILL = 0.96
"""The most of an image's side, around its centre, that a framed mesh reaches in any view of its orbit."""
MIN_SIDE = 16
"""Pixels; smaller images are refused, and so are objects of less than half of it."""
MAX_SIZE = 2048
"""Pixels of a framed photo's side; larger photos are reduced before anything else is done with them."""


def frame_photo(rgba: Tensor) -> Tensor:
    """Apply the framing law to a photo [H, W, 4] -> [S, S, 4].

    Nothing is resampled unless S would exceed `MAX_SIZE`. A photo that obeys the law to the pixel is returned
    as it is.

    Args:
        rgba: straight alpha, in [0, 1].

    Raises:
        V3DError: no pixel has alpha > 0.5, or only a few have.
    """
    height, width = rgba.shape[:2]
    left, top, right, bottom = visible_box(rgba[..., 3])
    longer = max(right - left, bottom - top)
    if longer < MIN_SIDE // 2:
        raise V3DError(f"The object is only {longer} pixels large; give a closer photo.")
    size = round(longer / (1 - BORDER_RATIO))
    off_centre = max(abs(left + right - width), abs(top + bottom - height)) / 2
    if height == width <= MAX_SIZE and abs(size - width) <= 2 and off_centre <= 0.5:
        return rgba
    return _windowed(rgba, (left + right - size) // 2, (top + bottom - size) // 2, size)


def pad_square(rgba: Tensor) -> Tensor:
    """A photo [H, W, 4] in the middle of a transparent square [S, S, 4], S at most `MAX_SIZE`."""
    height, width = rgba.shape[:2]
    size = max(height, width)
    return _windowed(rgba, -((size - width) // 2), -((size - height) // 2), size)


def _windowed(rgba: Tensor, left: int, top: int, size: int) -> Tensor:
    """The square window of a photo at (left, top), transparent outside it, reduced to at most `MAX_SIZE`."""
    height, width = rgba.shape[:2]
    margins = (-left, left + size - width, -top, top + size - height)
    square = F.pad(rgba.permute(2, 0, 1), margins).permute(1, 2, 0)
    return square.contiguous() if size <= MAX_SIZE else resize_rgba(square, MAX_SIZE, MAX_SIZE)


def visible_box(alpha: Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) in pixels of where alpha [H, W] > 0.5.

    Raises:
        V3DError: no pixel has alpha > 0.5.
    """
    mask = alpha > 0.5
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if len(rows) == 0:
        raise V3DError("The image shows no object: its alpha is nowhere above one half.")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def frame_mesh(vertices: Tensor, cameras: Cameras) -> Tensor:
    """Centre and scale vertices [P, 3] by the framing law for the orbit `cameras`; view 0 is the front."""
    span = vertices.amax(0) - vertices.amin(0)
    vertices = (vertices - vertices.amin(0) - span / 2) / span.norm().clamp_min(1e-9)
    size = vertices.new_tensor([cameras.width, cameras.height])
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
    """View 0 as the photo that a user would give: framed by the law, at the views' size.

    A view that shows nothing stays as it is.

    Returns:
        [H, W, 4] in [0, 1], straight alpha.
    """
    rgb, alpha = views.rgb[0], views.alpha[0]
    # `off_white` in another order of operations, which shards of training data hold to the last bit.
    straight = 1 - (1 - rgb) / alpha[..., None].clamp_min(1e-4)
    straight = torch.where(alpha[..., None] > 0, straight, 1.0).clamp(0, 1)
    rgba = torch.cat([straight, alpha[..., None]], -1)
    if not bool((alpha > 0.5).any()):
        return rgba
    H, W = alpha.shape
    left, top, right, bottom = visible_box(alpha)
    scale = max(bottom - top, right - left) / ((1 - BORDER_RATIO) * H)
    if abs(scale - 1) < 0.03 and abs(top + bottom - H) <= 2 and abs(left + right - W) <= 2:
        return rgba
    y = (torch.arange(H, device=alpha.device) + 0.5 - H / 2) * scale + (top + bottom) / 2
    x = (torch.arange(W, device=alpha.device) + 0.5 - W / 2) * scale + (left + right) / 2
    grid = views.cameras.to_grid(torch.stack([x[None].expand(H, W), y[:, None].expand(H, W)], -1))
    # Resample premultiplied colour, so that the white ground does not bleed into the edge.
    premultiplied = torch.cat([straight * alpha[..., None], alpha[..., None]], -1)
    out = F.grid_sample(premultiplied.permute(2, 0, 1)[None], grid[None], align_corners=False)
    rgb, alpha = out[0, :3].permute(1, 2, 0), out[0, 3, ..., None]
    straight = torch.where(alpha > 0, rgb / alpha.clamp_min(1e-4), 1.0).clamp(0, 1)
    return torch.cat([straight, alpha], -1)
