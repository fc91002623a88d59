"""Frames with the poses of their cameras -> views by upright cameras that look at the object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from v3d.cameras import Cameras, intrinsics, look_at
from v3d.compositing import over_white
from v3d.placement import HALF_WIDTH
from v3d.surface.direction import hull_gaps
from v3d.surface.orbit_poses import Sights, bounds_of, cameras_at
from v3d.views import Views

_MAX_SIDE = 1024  # pixels of a view
_FILL = 0.9  # of an image's half side that the object reaches after it was framed anew
_FREE = (0.55, 0.97)  # of it that the object may reach to be left as it is
_CENTRED = 0.15  # world units; an object whose middle is nearer to the origin stays where it is
_TURNED = math.radians(0.3)  # cameras that look past the origin by less are left as they are


def framed(
    images: Sequence[NDArray[np.float32]],
    numbers: Sequence[int],
    poses: Tensor,
    sights: Sights,
    fov: float,
    *,
    keep_axis: bool,
) -> Views:
    """Turn frames as if their cameras had looked at the object, upright, and crop them around it.

    A camera that turns in its place sees the same things, so this is exact. Frames that look at the origin
    and whose object fits are padded to squares and not resampled.

    Args:
        images: frames [H, W, 4] of straight alpha in [0, 1].
        numbers: of the V frames that become views.
        poses: [V, 6], see `v3d.surface.orbit_poses`.
        sights: of the V frames, perhaps of their middle alone.
        fov: along the frames' longer side, degrees.
        keep_axis: the cameras stay on their circle around the z axis; otherwise the object's middle becomes
            the origin.
    """
    cameras = cameras_at(poses, sights.fov, sights.side)
    hull, _ = hull_gaps(sights, cameras, 1)
    centre = torch.zeros(3)
    if hull is not None:
        low, high = bounds_of(hull, 0.0)
        centre = (low + high) / 2
        centre[:2] *= 0.0 if keep_axis else 1.0
    reach = float((2 * sights.contour / sights.side - 1).abs().max())
    reach *= math.tan(math.radians(sights.fov) / 2) / math.tan(math.radians(fov) / 2)
    straight = float(poses[:, 3:].abs().max()) < _TURNED and float(centre.norm()) < _CENTRED
    if straight and _FREE[0] < reach < _FREE[1]:
        squares = (_padded(torch.from_numpy(np.asarray(images[i], np.float32))) for i in numbers)
        return _views(squares, *_scaled(cameras.c2w, fov))
    return _turned(images, numbers, cameras, centre, sights, fov)


def _turned(
    images: Sequence[NDArray[np.float32]],
    numbers: Sequence[int],
    cameras: Cameras,
    centre: Tensor,
    sights: Sights,
    fov: float,
) -> Views:
    c2w = look_at(cameras.centers.double() - centre.double())
    turn = (c2w[:, :3, :3].mT @ cameras.c2w[:, :3, :3].double()).float()
    rays = torch.cat([sights.contour, torch.ones_like(sights.contour[..., :1])], -1)
    rays = rays @ torch.linalg.inv(cameras.K).mT @ turn.mT
    reach = float((rays[..., :2] / rays[..., 2:]).abs().max()) / _FILL
    height, width = images[numbers[0]].shape[:2]
    longer = max(height, width)
    focal = 0.5 * longer / math.tan(math.radians(fov) / 2)
    side = min(_MAX_SIDE, max(round(2 * focal * reach), 16))
    new_fov = 2 * math.degrees(math.atan(reach))
    K = intrinsics(new_fov, side, side).double()
    own = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    half = torch.tensor([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], dtype=torch.float64)  # OpenCV's pixels
    homographies = (torch.linalg.inv(half) @ K @ turn.double() @ torch.linalg.inv(own) @ half).numpy()
    squares = (
        _warped(np.asarray(images[i], np.float32), H, side, 2 * focal * reach / side)
        for i, H in zip(numbers, homographies, strict=True)
    )
    return _views(squares, *_scaled(c2w.float(), new_fov))


def _warped(image: NDArray[np.float32], H: NDArray[np.float64], side: int, reduction: float) -> Tensor:
    """A frame moved by a homography; alpha is straight before and after."""
    premultiplied = np.concatenate([image[..., :3] * image[..., 3:], image[..., 3:]], -1)
    if reduction > 1.3:
        premultiplied = cv2.GaussianBlur(premultiplied, (0, 0), 0.4 * reduction)
    moved = torch.from_numpy(cv2.warpPerspective(premultiplied, H, (side, side), flags=cv2.INTER_LINEAR))
    alpha = moved[..., 3:].clamp(0, 1)
    return torch.cat([(moved[..., :3] / alpha.clamp_min(1e-4)).clamp(0, 1), alpha], -1)


def _scaled(c2w: Tensor, fov: float) -> tuple[Tensor, Tensor]:
    """c2w at the distance from which as much of the world is seen as from the orbit, and K of one pixel."""
    c2w = c2w.clone()
    distance = float(c2w[:, :3, 3].norm(dim=-1).mean())
    c2w[:, :3, 3] *= HALF_WIDTH / math.tan(math.radians(fov) / 2) / distance
    return c2w, intrinsics(fov, 1, 1).repeat(len(c2w), 1, 1)


def _views(squares: Iterable[Tensor], c2w: Tensor, K: Tensor) -> Views:
    """Views of V squares [S, S, 4] of straight alpha; K is of an image of one pixel."""
    rgb = alpha = torch.empty(0)
    side = 0
    for i, square in enumerate(squares):  # one by one: together they are hundreds of MB
        if i == 0:
            side = len(square)
            rgb, alpha = torch.empty(len(c2w), side, side, 3), torch.empty(len(c2w), side, side)
        rgb[i], alpha[i] = over_white(square[..., :3], square[..., 3]), square[..., 3]
    return Views(rgb, alpha, Cameras(c2w, K, 1, 1).resized(side, side))


def _padded(rgba: Tensor) -> Tensor:
    height, width = rgba.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(rgba, (0, 0, left, side - width - left, top, side - height - top))
