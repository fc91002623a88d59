"""Gaussians of any file -> those of its object, without floaters, far shells and the next to invisible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from v3d.splats.gaussians import Splats, rotations

_FAINT = 0.01  # opacity
_FAR = 4.0  # times the median distance from the middle
_CELLS = 96  # along the sides of the box in which parts are told apart
_LARGE = 1.5  # times the median distance: a standard deviation of the ground or the sky, not of an object
_LEAST_SHARE = 0.01  # of the largest part's opacity that another part must have
_SPREAD = (-2.0, -1.0, 1.0, 2.0)  # standard deviations along each axis that belong to a Gaussian
_CHUNK = 200_000  # Gaussians at a time


@dataclass(frozen=True)
class Cleaned:
    """The Gaussians of an object.

    Attributes:
        splats: those that are kept, as they were, in their order.
        centre: [3] of their box.
        radius: of the ball around it that holds nearly all of them.
        notes: what was left out, one sentence each.
    """

    splats: Splats
    centre: Tensor
    radius: float
    notes: tuple[str, ...]


def clean(splats: Splats) -> Cleaned:
    """Leave out what is no part of the object.

    - Gaussians of an opacity under 1 %.
    - Far shells, as captures have of the sky: what is more than four times as far from the middle (the
      median, weighted by opacity) as the median Gaussian, or larger than an object's part can be.
    - Floaters: parts of space that Gaussians fill to two standard deviations, apart from the largest part
      and with less than 1 % of its opacity.

    Args:
        splats: at least one Gaussian, finite.
    """
    keep = splats.opacity > _FAINT
    faint = int((~keep).sum())
    if not bool(keep.any()):
        keep = torch.ones_like(keep)
    middle, median = _middle(splats, keep)
    for _ in range(3):  # what is far moves the middle
        near = (splats.means - middle).norm(dim=-1) <= _FAR * median
        near &= splats.scales.amax(-1) <= _LARGE * median
        if not bool((keep & near).any()):
            break
        middle, median = _middle(splats, keep & near)
    near = (splats.means - middle).norm(dim=-1) <= _FAR * median
    near &= splats.scales.amax(-1) <= _LARGE * median
    far = int((keep & ~near).sum())
    keep = keep & near if bool((keep & near).any()) else keep
    attached = _attached(splats[keep], middle, _FAR * median)
    apart = int((~attached).sum())
    kept = splats[keep][attached]
    low, high = _box(kept)
    notes = []
    if far or apart:
        notes.append(
            f"Of {len(splats):,} Gaussians {far:,} far from the object and {apart:,} floating apart were left"
            " out."
        )
    if faint > 0.2 * len(splats):
        notes.append(f"{faint:,} of the Gaussians are next to invisible and were left out.")
    return Cleaned(kept, (low + high) / 2, float((high - low).norm()) / 2, tuple(notes))


def _middle(splats: Splats, keep: Tensor) -> tuple[Tensor, float]:
    """The median place [3], weighted by opacity, and the median distance from it."""
    means, weight = splats.means[keep], splats.opacity[keep]
    middle = torch.stack([_median(means[:, k], weight) for k in range(3)])
    distance = _median((means - middle).norm(dim=-1), weight)
    return middle, max(float(distance), 1e-12)


def _median(values: Tensor, weight: Tensor) -> Tensor:
    order = values.argsort()
    total = weight[order].double().cumsum(0)
    return values[order][int(torch.searchsorted(total, total[-1:] / 2)[0].clamp_max(len(values) - 1))]


def _box(splats: Splats) -> tuple[Tensor, Tensor]:
    """Corners [3] of the box of the Gaussians to one standard deviation along the axes of the world."""
    R = rotations(splats.quats)
    reach = (R.square() * splats.scales.square()[:, None]).sum(-1).sqrt()
    return (splats.means - reach).amin(0), (splats.means + reach).amax(0)


def _attached(splats: Splats, middle: Tensor, half: float) -> Tensor:
    """[N] whether a Gaussian belongs to the largest part, or to one that is not much smaller."""
    cell = 2 * half / _CELLS
    filled = np.zeros((_CELLS,) * 3, bool)
    own = np.zeros(len(splats), np.int64)
    for first in range(0, len(splats), _CHUNK):
        part = splats[slice(first, first + _CHUNK)]
        axes = rotations(part.quats) * part.scales[:, None]  # columns: axes as long as a deviation
        steps = part.means.new_tensor((0.0, *_SPREAD))
        points = part.means[:, None, None] + steps[:, None] * axes.mT[:, :, None]  # [N, 3, 5, 3]
        index = ((points - middle + half) / cell).long().clamp(0, _CELLS - 1).numpy()
        filled[tuple(index.reshape(-1, 3).T)] = True
        own[first : first + len(part)] = np.ravel_multi_index(tuple(index[:, 0, 0].T), filled.shape)
    label, count = ndimage.label(ndimage.binary_dilation(filled), np.ones((3, 3, 3)))
    mine = label.reshape(-1)[own]
    weight = np.bincount(mine, splats.opacity.numpy(), count + 1)
    return torch.from_numpy(weight[mine] >= _LEAST_SHARE * weight.max())
