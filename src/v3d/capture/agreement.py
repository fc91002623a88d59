"""The object of opaque posed photos in front of anything: what the network sees in most views, at one place.

In a single photo the network may take the table for a part of the object, or something else for the object.
Cameras that stand around an object tell these apart: the object is where the views agree in space.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.cameras import Cameras
from v3d.capture.edges import follow_edges, own_colours
from v3d.capture.matting import look
from v3d.capture.plain import tidy
from v3d.compositing import over_white
from v3d.errors import V3DError
from v3d.placement import HALF_WIDTH, nearest_to_axes, place
from v3d.views import Views

LEAST_VIEWS = 5
"""With fewer, views agree by chance."""

_NODES = 64  # along the sides of the cube in which the views vote
_SIDE = 128  # pixels of the longer side at which they vote
_MOST = 0.7  # of the views that see a place: so many must call it object
_SOME = 0.35  # and so many around it, for its parts to hang together
_LEAST = 0.5  # what fewer views call object is none, whatever a view itself sees
_GAP = 3  # pixels, of `_SIDE`: thinner differences between a view and the rest are the hull's inaccuracy
_AGREES = 0.5  # IoU of a view's own mask with what all views say, from which it counts
_ENOUGH = 0.5  # of the views: so many must count


def cut_out_agreeing(views: Views, *, on_step: OnStep | None = None) -> tuple[Views, tuple[str, ...]]:
    """Cut one object out of opaque views in front of any background.

    The network looks at every view. Every place in space then has the share of views that see object there;
    the hull is the largest connected part where most do. Every view is looked at once more, closely, where
    the hull is, and the views vote again. A view's mask is what it shows itself; what it misses or adds
    against the hull, the others mend. Its edges follow the photo's.

    Args:
        views: V >= 5 views of one object, alpha 1 everywhere, whose cameras look at it from several sides.
        on_step: told after each of 3 V steps.

    Returns:
        The views on white with the object's alpha, and notes for the user, one sentence each.

    Raises:
        V3DError: there are too few views, they do not look at one place, or they do not agree.
    """
    if len(views) < LEAST_VIEWS:
        raise V3DError(
            f"{len(views)} photos are too few to tell an object from its background ({LEAST_VIEWS} are "
            "needed); give masks, photos with alpha, or a plain background."
        )
    if nearest_to_axes(views.cameras) is None:
        raise V3DError("The cameras do not look at one place, so no object can be found there; give masks.")
    cameras = place(views.cameras)[0].reduced(_SIDE)
    photos = views.rgb.cpu().numpy()
    steps = itertools.count(1)

    def step(photos: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        for photo in photos:
            yield photo
            if on_step is not None:
                on_step(next(steps), 3 * len(photos))

    first = [look(photo) for photo in step(photos)]
    agreed = _agreed(_reduced(first, cameras), cameras)
    closer = [_look_where(photo, where) for photo, where in zip(step(photos), agreed, strict=True)]
    seen = [np.maximum(a, b) for a, b in zip(first, closer, strict=True)]
    agreed = _agreed(_reduced(seen, cameras), cameras)
    small = _reduced(seen, cameras)
    agrees = _iou(small, agreed) > _AGREES
    if float(agrees.float().mean()) < _ENOUGH:
        raise _disagreement(int(agrees.sum()), len(views))
    rgb, alpha = torch.empty_like(views.rgb), torch.empty_like(views.alpha)
    for v, photo in enumerate(step(photos)):
        mask = _mended(seen[v], small[v], agreed[v], bool(agrees[v]))
        mask = tidy(follow_edges(photo, mask, max(mask.shape) / 120))
        rgb[v] = over_white(torch.from_numpy(own_colours(photo, mask)), torch.from_numpy(mask))
        alpha[v] = torch.from_numpy(mask)
    notes = ["The photos have no alpha: the object was cut out where they agree; if it is wrong, give masks."]
    others = int((~agrees).sum())
    if others:
        notes.append(
            f"{others} of {len(views)} views do not show the object clearly; the others gave their masks."
        )
    return Views(rgb, alpha, views.cameras), tuple(notes)


def _reduced(masks: list[NDArray[np.float32]], cameras: Cameras) -> Tensor:
    """Masks [H, W] at the size of the cameras: [V, h, w]."""
    size = (cameras.width, cameras.height)
    return torch.from_numpy(np.stack([cv2.resize(m, size, interpolation=cv2.INTER_AREA) for m in masks]))


def _agreed(seen: Tensor, cameras: Cameras) -> Tensor:
    """What all views say of the pixels of each: the largest share that agrees along its ray, [V, h, w].

    Views that see something else than the rest are left out of the second of two votes.

    Args:
        seen: [V, h, w] in [0, 1], what each view says itself.

    Raises:
        V3DError: there is no place where most views see an object.
    """
    agrees = _iou(seen, _projections(_largest(_votes(seen, cameras)), cameras)) > 0.5 * _AGREES
    if int(agrees.sum()) < max(LEAST_VIEWS - 1, 0.3 * len(seen)):
        raise _disagreement(int(agrees.sum()), len(seen))
    return _projections(_largest(_votes(seen[agrees], cameras[agrees.nonzero()[:, 0]])), cameras)


def _nodes() -> Tensor:
    line = torch.linspace(-HALF_WIDTH, HALF_WIDTH, _NODES)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)


def _votes(seen: Tensor, cameras: Cameras) -> Tensor:
    """Mean saliency [N, N, N] of a node's pixels, over the views that see it; 0 where less than half do."""
    points = _nodes().flatten(0, 2)
    total, count = torch.zeros(len(points)), torch.zeros(len(points))
    for v in range(len(seen)):
        pixels, depth = cameras[v].project(points.to(cameras.c2w))
        grid = cameras.to_grid(pixels[0]).float()
        visible = (grid.abs() < 1).all(-1) & (depth[0] > 0)
        value = F.grid_sample(seen[v][None, None], grid[None, None], align_corners=False)[0, 0, 0]
        total += torch.where(visible, value, 0.0)
        count += visible
    votes = torch.where(count >= 0.5 * len(seen), total / count.clamp_min(1), 0.0)
    return votes.view(_NODES, _NODES, _NODES)


def _largest(votes: Tensor) -> Tensor:
    """The votes where some views see an object, on the part that most see the most of; 0 elsewhere."""
    parts, count = ndimage.label((votes > _SOME).numpy())
    if count == 0:
        return torch.zeros_like(votes)
    core = np.bincount(parts.ravel(), (votes > _MOST).numpy().ravel(), count + 1)
    largest = torch.from_numpy(parts == 1 + int(core[1:].argmax()))
    return torch.where(largest, votes, 0.0)


def _projections(hull: Tensor, cameras: Cameras) -> Tensor:
    """The largest vote along the ray of each pixel, [V, h, w]."""
    volume = hull.permute(2, 1, 0)[None, None].contiguous()
    out = []
    for v in range(len(cameras)):
        origin, direction = (x[0].float() for x in cameras[v].rays())
        middle = -float(origin[0, 0] @ cameras.c2w[v, :3, 2].float())  # camera z of the cube's middle
        reach = math.sqrt(3) * HALF_WIDTH
        depths = torch.linspace(max(middle - reach, 0.05), middle + reach, int(1.5 * _NODES))
        most = torch.zeros(cameras.height, cameras.width)
        for part in depths.split(24):
            points = origin[:, :, None] + direction[:, :, None] * part[:, None]
            values = F.grid_sample(volume, (points / HALF_WIDTH)[None], align_corners=True)
            most = torch.maximum(most, values[0, 0].amax(-1))
        out.append(most)
    return torch.stack(out)


def _look_where(photo: NDArray[np.float32], projection: Tensor) -> NDArray[np.float32]:
    """What the network sees [H, W] in the part of a photo [H, W, 3] that shows the hull, 0 elsewhere."""
    height, width = photo.shape[:2]
    rows, columns = (projection > _SOME).any(1).nonzero()[:, 0], (projection > _SOME).any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return look(photo)
    h, w = projection.shape
    top, bottom = int(rows[0]) / h * height, (int(rows[-1]) + 1) / h * height
    left, right = int(columns[0]) / w * width, (int(columns[-1]) + 1) / w * width
    margin = 0.25 * max(bottom - top, right - left)
    y = slice(max(0, round(top - margin)), round(bottom + margin))
    x = slice(max(0, round(left - margin)), round(right + margin))
    seen = np.zeros((height, width), np.float32)
    seen[y, x] = look(np.ascontiguousarray(photo[y, x]))
    return seen


def _mended(seen: NDArray[np.float32], own: Tensor, agreed: Tensor, agrees: bool) -> NDArray[np.float32]:
    """What a view sees [H, W], with what it alone misses or adds made as all views have it.

    Where it sees too much or too little, a piece of some width differs; the hull itself, which forgives some
    views, is a little too wide all around.

    Args:
        own, agreed: [h, w], the same at the size at which views vote, and what all views say there.
        agrees: whether the view saw the object at all; otherwise it is told by the others.
    """
    height, width = seen.shape
    inside, most = (own > 0.5).numpy() & agrees, (agreed > _MOST).numpy()
    missed = _wide(most & ~inside) if agrees else most
    added = _wide(inside & (agreed < _LEAST).numpy()) if agrees else ~most
    mask = seen
    for piece, value in ((missed, 1.0), (added, 0.0)):
        share = cv2.resize(piece.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        mask = mask * (1 - share) + value * share
    return np.asarray(mask, np.float32)


def _wide(pieces: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of a mask that are wider than `_GAP` pixels on both sides."""
    wide, whole = (
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1)) for r in (_GAP, _GAP + 1)
    )
    return (cv2.dilate(cv2.erode(pieces.astype(np.uint8), wide), whole) > 0) & pieces


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap [V] of masks and of what all views agree on, [V, h, w] each; 0 where both are empty."""
    a, b = a > 0.5, b > _MOST
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp_min(1)


def _disagreement(count: int, of: int) -> V3DError:
    return V3DError(
        f"Only {count} of {of} photos agree on where the object is; give masks, photos with alpha, or a "
        "plain background."
    )
