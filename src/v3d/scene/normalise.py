"""The normalised world of a scene: z up, the origin where the cameras look, the farthest camera at 1.5.

1.5 is the paper's radius of an orbit. The result does not depend on the order of the cameras, and not on the
axes, origin and unit of the capture, except for a turn around z, and for what one camera alone cannot tell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from v3d.cameras import Cameras
from v3d.placement import Similarity, check_finite, nearest_to_axes, turn_to_z, up_vector
from v3d.settings import Up

RADIUS = 1.5
_IN_FRONT = 0.9  # share of cameras that have the common point before them
_CLEARLY = 1e-2  # mean squared sine: axes that spread over more than ~6 degrees to either side meet somewhere
_OUTWARD = 0.5  # length of the mean viewing direction, below which cameras look in all directions


def normalise(cameras: Cameras, *, up: Up = "auto", depth: float | None = None) -> tuple[Cameras, Similarity]:
    """Bring cameras into the normalised world of a scene.

    - Up: the axis that is given, else the cameras' common up, becomes +z by the smallest turn; no turn where
      they already stand upright in a z-up world. See `v3d.placement.up_direction`.
    - Centre: where the optical axes meet. Where they do not, or hardly, and `depth` is known, the point at
      that depth ahead of the mean camera. Otherwise, or where cameras look in all directions, their mean
      position.
    - Scale: the farthest camera stands at 1.5, or, of outward-looking ones, what they see. If all cameras
      stand in the centre, their unit is kept.

    One camera alone has the origin at `depth`, or 1.5 of the capture's units, ahead.

    Args:
        cameras: float64 where they may be far from their origin.
        up: the axis of the capture's world that is up.
        depth: camera z of what the photos show, in the capture's units (`v3d.scene.depth`); it is used
            only where `meet_clearly` is false.

    Returns:
        The cameras in the normalised world, in the precision of the given ones, and the way to it.

    Raises:
        V3DError: a number of a camera is not finite, or float32 cannot hold it.
    """
    check_finite(cameras)
    c2w = cameras.c2w.double().cpu()
    positions = c2w[:, :3, 3]
    mean = positions.mean(0)
    centre = _meeting_point(cameras, clearly=depth is not None)
    reach = 0.0
    if centre is None and (depth is not None or len(cameras) == 1):
        ahead = c2w[:, :3, 2].mean(0)
        outward = float(ahead.norm()) < _OUTWARD
        reach = RADIUS if depth is None else depth
        centre = mean if outward else mean + ahead / ahead.norm() * reach
    centre = mean if centre is None else centre
    farthest = max(float((positions - centre).norm(dim=-1).max()), reach if depth is not None else 0.0)
    scale = RADIUS / farthest if farthest > 1e-9 * (1 + float(centre.norm())) else 1.0
    similarity = Similarity.of(scale, turn_to_z(up_vector(cameras, up)), centre)
    return similarity.apply(cameras), similarity


def meet_clearly(cameras: Cameras) -> bool:
    """Whether the cameras' axes meet in front of them, and so say how far away the scene is."""
    return _meeting_point(cameras, clearly=True) is not None


def focus(cameras: Cameras) -> Tensor:
    """The point [3] float64 that the cameras look at.

    The point nearest to all optical axes if at least nine of ten cameras have it in front of them. Where the
    axes hardly spread, the origin, if all cameras see it: that of the normalised world lies in the scene.
    Otherwise (outward views, a single camera) the point ahead of the mean camera by the distance of the
    farthest camera from their mean, or by 1.5 where they stand in one place.
    """
    point = _meeting_point(cameras, clearly=True)
    if point is not None:
        return point
    if len(cameras) > 1 and _all_see_the_origin(cameras):
        return torch.zeros(3, dtype=torch.float64)
    point = _meeting_point(cameras, clearly=False)
    if point is not None:
        return point
    c2w = cameras.c2w.double().cpu()
    mean = c2w[:, :3, 3].mean(0)
    ahead = c2w[:, :3, 2].mean(0)
    length = float(ahead.norm())
    ahead = ahead / length if length > 1e-3 else c2w[0, :3, 2]
    spread = float((c2w[:, :3, 3] - mean).norm(dim=-1).max())
    return mean + ahead * (spread if spread > 1e-9 * (1 + float(mean.norm())) else RADIUS)


def _all_see_the_origin(cameras: Cameras) -> bool:
    """Whether the origin lies in every camera's image."""
    size = cameras.K.new_tensor([cameras.width, cameras.height])
    pixels, depth = cameras.project(cameras.c2w.new_zeros(1, 3))
    inside = (pixels > 0) & (pixels < size)
    return bool((depth > 0).all()) and bool(inside.all())


def _meeting_point(cameras: Cameras, *, clearly: bool) -> Tensor | None:
    """The point nearest to all axes [3], or None where there is none in front of the cameras.

    Args:
        clearly: not from axes that spread over a few degrees only, which small errors of theirs move far.
    """
    if len(cameras) < 2:
        return None
    point = nearest_to_axes(cameras, spread=_CLEARLY) if clearly else nearest_to_axes(cameras)
    if point is None:
        return None
    point = point.cpu()
    c2w = cameras.c2w.double().cpu()
    depth = ((point - c2w[:, :3, 3]) * c2w[:, :3, 2]).sum(-1)
    spread = float((c2w[:, :3, 3] - c2w[:, :3, 3].mean(0)).norm(dim=-1).max())
    in_front = depth > 1e-6 * spread + 1e-9 * (1 + float(point.norm()))
    return point if float(in_front.double().mean()) >= _IN_FRONT else None
