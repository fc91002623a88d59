"""How far a camera has gone around an object, frame by frame, read from how the picture changes.

Frames are compared as small pictures of the object, centred, so that a shaking hand counts little. What the
comparison cannot know (whether the speed was even, whether the turn was closed) comes out as several answers
to be tried against the outlines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_SIDE = 32  # pixels of the compared pictures
_FEWEST = 40  # frames; where there are fewer, none is taken for a pause
_STILL = 0.06  # of the usual change; less is standing still
_GROWTH = 1.4  # times the noise from frame to frame; less over several frames is standing still
_PAUSE = 5  # frames that a pause lasts at least
_ALIKE = 0.55  # of the usual difference between frames; what is below looks like the same side again

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Progress:
    """A way of reading how far the camera has gone.

    Attributes:
        along: [N] of the way, from 0 to 1.
        turns: how many turns the whole way may be, the likeliest first.
        speed: how it was read, in words.
    """

    along: Array
    turns: tuple[float, ...]
    speed: str


def differences(rgba: Tensor) -> Array:
    """How much frames [N, S, S, 4] of straight alpha differ from each other: [N, N], 0 for equal ones."""
    alpha = rgba[..., 3:]
    inside = rgba[..., 3] > 0.5
    place = torch.arange(rgba.shape[1])
    low, high = [], []
    for axis in (1, 2):
        any_ = inside.any(axis)
        low.append(torch.where(any_, place, 10**6).amin(1))
        high.append(torch.where(any_, place, -1).amax(1) + 1)
    size = float(max((h - l).max() for l, h in zip(low, high, strict=True))) * 1.1
    step = (torch.arange(_SIDE) + 0.5) / _SIDE * size - size / 2
    x, y = ((l + h)[:, None] / 2 + step for l, h in zip(low, high, strict=True))
    grid = torch.stack([x[:, None].expand(-1, _SIDE, -1), y[:, :, None].expand(-1, -1, _SIDE)], -1)
    grid = grid / rgba.shape[1] * 2 - 1
    images = torch.cat([rgba[..., :3] * alpha, alpha], -1).permute(0, 3, 1, 2)
    blurred = F.avg_pool2d(images, 3, 1, 1)
    small = F.grid_sample(blurred, grid.float(), align_corners=False).flatten(1)
    area = small.view(len(small), 4, -1)[:, 3].sum(1).mean()
    return (torch.cdist(small, small, p=1) / area).double().numpy()


def moving(difference: Array) -> NDArray[np.bool_]:
    """Whether the camera moves at each of N frames: no at pauses, where frames differ by noise alone.

    Args:
        difference: [N, N], see `differences`.
    """
    count = len(difference)
    if count < _FEWEST:
        return np.ones(count, bool)
    beside = _across(difference, 0.5)
    # A shaking hand hides small motions, so they are looked at over a longer way.
    shaken = np.quantile(_across(difference, 2), 0.85) < 2 * np.median(beside)
    wide, noise = _median(_across(difference, 6 if shaken else 2)), _median(beside)
    # Noise does not add up from frame to frame, motion does.
    usual = np.quantile(wide, 0.85)
    still = (wide < _STILL * usual) | (wide < _GROWTH * noise) & (wide < 0.6 * usual)
    out = np.ones(count, bool)
    edges = np.flatnonzero(np.diff(np.r_[False, still, False].astype(int)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if last - first >= _PAUSE:
            out[first:last] = False
    return out


def _across(difference: Array, reach: float) -> Array:
    """Difference [N] between the frames `reach` before and after each, nearer ones at both ends."""
    frame, count = np.arange(len(difference)), len(difference)
    before = (frame - np.floor(reach)).astype(int).clip(0, max(count - 1 - round(2 * reach), 0))
    return np.asarray(difference[before, (before + round(2 * reach)).clip(max=count - 1)])


def _median(values: Array) -> Array:
    """Running medians of five."""
    padded = np.pad(values, 2, mode="edge")
    return np.asarray(np.median(np.stack([padded[i : i + len(values)] for i in range(5)]), 0), np.float64)


def readings(difference: Array, times: Array, moves: NDArray[np.bool_]) -> list[Progress]:
    """Ways of reading how far the camera had gone at each of N frames, the likeliest first.

    Args:
        difference: [N, N], see `differences`.
        times: [N] seconds, increasing.
        moves: [N], see `moving`.
    """
    step = np.diff(times)
    going = moves[1:] & moves[:-1]
    steps: dict[str, NDArray[np.floating]] = {
        "even speed, standing still left out": step * going,
        "even speed": step,
    }
    if step.std() > 0.1 * step.mean():
        steps["even from frame to frame"] = going.astype(np.float64)
    if len(times) >= _FEWEST:
        smooth = np.convolve(np.pad(_across(difference, 2), 3, mode="edge"), np.ones(7) / 7, "valid")
        speed = np.asarray((smooth[1:] + smooth[:-1]) / 2 * going, np.float64)
        steps["speed as the picture changes"] = speed
        steps["speed half as the picture changes"] = np.asarray(np.sqrt(speed * speed.mean()), np.float64)
    if going.all():
        del steps["even speed, standing still left out"]
    out = []
    for name, part in steps.items():
        along = np.r_[0, np.cumsum(part)] / part.sum()
        out.append(Progress(along, _turns(difference, along), name))
    return out


def _turns(difference: Array, along: Array) -> tuple[float, ...]:
    """How many turns a way may be: as its frames look alike again, or one."""
    count = len(along)
    chosen = np.unique(np.abs(along[:, None] - np.linspace(0, 1, min(count, 96))).argmin(0))
    D, M = difference[np.ix_(chosen, chosen)], len(chosen)
    by_lag = np.array([np.diagonal(D, lag).mean() for lag in range(M)])
    one = [1 - 1 / M, 1.0]
    # The end against the beginning: the gap between them is where they differ as frames of that lag do.
    w = max(M // 8, 2)
    ends = D[-w:, :w]
    apart = np.arange(w - 1, -1, -1)[:, None] + np.arange(w)
    lags = np.arange(-w, M // 3)
    misfit = [np.abs(ends - by_lag[np.abs(lag + apart).clip(max=M - 1)]).mean() for lag in lags]
    closing = [(M - 1) / (M - 1 + lags[int(np.argmin(misfit))])]
    # The same side again, on the way: a valley of the difference by lag.
    usual = np.median(by_lag)
    valleys = [
        lag
        for lag in range(M // 5, M - max(M // 10, 2))
        if by_lag[lag] <= by_lag[lag - 1 : lag + 2].min() and by_lag[lag] < _ALIKE * usual
    ]
    again = [(M - 1) / lag for lag in sorted(valleys, key=lambda lag: by_lag[lag])[:2]]
    return tuple(dict.fromkeys(round(float(turn), 4) for turn in [*one, *closing, *again]))
