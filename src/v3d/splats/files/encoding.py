"""What readers and writers of Gaussians share: bytes, quaternions, limits, and what a reader hands on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v3d.errors import V3DError, in_words
from v3d.splats.files.axes import WORLD, turned
from v3d.splats.gaussians import Splats

SH_DC = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi)): rgb = 0.5 + SH_DC * f_dc."""
MOST_GAUSSIANS = 10_000_000
"""Of a compressed file, which could otherwise grow without bounds."""

_MOST_BYTES = 4 << 30
_FARTHEST_LOGIT = 20.0  # stands for an opacity of 0 or 1; in float32 it is 1 to the last bit
_LEAST_LOG_SCALE = -30.0  # stands for a size of 0

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FileSplats:
    """What a file says.

    Attributes:
        splats: in the axes of the file.
        axes: of the file, three letters (`v3d.splats.files.axes`).
        harmonics: degree of the spherical harmonics in the file, of which `Splats` keeps degree 0.
        notes: what is guessed or left out, a sentence each.
    """

    splats: Splats
    axes: str
    harmonics: int = 0
    notes: tuple[str, ...] = ()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in what goes wrong while it is read.

    Raises:
        V3DError: whatever went wrong, in one sentence.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except V3DError as error:
        raise V3DError(f"{path.name} cannot be read: {str(error).rstrip('.')}.") from None
    except MemoryError:
        raise V3DError(f"{path.name} needs more memory than there is; make a smaller one.") from None
    except Exception as error:  # broken files fail in every imaginable way
        raise V3DError(f"{path.name} is broken or holds no Gaussians ({in_words(error)}).") from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file.

    Raises:
        V3DError: it is no ordinary file, too large, or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise V3DError(f"There is no file {path}.")
    if path.stat().st_size > _MOST_BYTES:
        raise V3DError(f"{path} is larger than {_MOST_BYTES >> 30} GB; make a smaller one.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise V3DError(f"Cannot read {path}: {error.strerror}.") from error


def in_world(found: FileSplats, axes: str | None = None) -> tuple[Splats, tuple[str, ...]]:
    """The Gaussians of a file in V3D's world, and notes on what was left out.

    Args:
        found: what the file says.
        axes: of the file, where they are not those it is taken to have.

    Raises:
        V3DError: none of them is finite.
    """
    notes = [*found.notes]
    if found.harmonics:
        notes.append(
            f"Its spherical harmonics of degree 1 to {found.harmonics} were left out: V3D keeps one colour "
            "for all directions."
        )
    splats = found.splats
    # Other programs write an opacity of 1 and a size of 0 as infinities.
    logits = splats.logit_opacity.clamp(-_FARTHEST_LOGIT, _FARTHEST_LOGIT)
    scales = splats.log_scales.clamp_min(_LEAST_LOG_SCALE)
    splats = replace(
        splats,
        logit_opacity=torch.where(splats.logit_opacity.isinf(), logits, splats.logit_opacity),
        log_scales=torch.where(splats.log_scales.isinf(), scales, splats.log_scales),
    )
    finite = splats.is_finite
    if not bool(finite.all()):
        if not bool(finite.any()):
            raise V3DError("none of its Gaussians is made of finite numbers")
        notes.append(f"Gaussians that are not finite numbers were left out: {int((~finite).sum())}.")
        splats = splats[finite]
    return turned(splats, axes or found.axes, WORLD), tuple(notes)


def made_of(means: Array, quats: Array, log_scales: Array, logit_opacity: Array, rgb: Array) -> Splats:
    """Gaussians of arrays [N, ...] of any numbers."""
    arrays = (means, quats, log_scales, logit_opacity, rgb)
    return Splats(*(torch.from_numpy(np.array(a, dtype=np.float32)) for a in arrays))


def logit(opacity: Array) -> Array:
    """Opacity [N] of 8 bits, in [0, 1], before the sigmoid; 0 and 1 stand half a step from there."""
    inside = np.clip(opacity, 0.5 / 255, 1 - 0.5 / 255)
    return np.asarray(np.log(inside / (1 - inside)))


def check_count(count: int) -> int:
    """Refuse more Gaussians than memory is meant for.

    Raises:
        V3DError: there are.
    """
    if count > MOST_GAUSSIANS:
        raise V3DError(f"it claims {count:,} Gaussians where {MOST_GAUSSIANS:,} are the most V3D unpacks")
    return count


def three_smallest(quats: Tensor) -> tuple[Array, Array]:
    """Which component of the quaternions [N, 4] is the largest, and the others [N, 3] in their order.

    Signs are such that the largest is positive, so that it follows from the others.
    """
    units = to_numpy(unit_quaternions(quats)).astype(np.float64)
    largest = np.abs(units).argmax(1)
    units *= np.where(np.take_along_axis(units, largest[:, None], 1) < 0, -1, 1)
    return largest, units[_others(largest)].reshape(-1, 3)


def with_largest(largest: Array, three: Array) -> Array:
    """The quaternions [N, 4] that `three_smallest` made three numbers of."""
    quats = np.empty((len(three), 4))
    quats[_others(largest)] = three.reshape(-1)
    rest = np.sqrt(np.clip(1 - (three**2).sum(1), 0, None))
    np.put_along_axis(quats, largest[:, None].astype(np.int64), rest[:, None], 1)
    return quats


def unit_quaternions(quats: Tensor) -> Tensor:
    """Quaternions [..., 4] at length 1."""
    return torch.nn.functional.normalize(quats, dim=-1)


def to_numpy(x: Tensor) -> np.ndarray:
    """A tensor of any device, with or without gradient, as an array."""
    return x.detach().cpu().numpy()


def to_bytes(x: Tensor) -> np.ndarray:
    """Numbers rounded and clamped to uint8 [0, 255]."""
    return to_numpy(x.round().clamp(0, 255).to(torch.uint8))


def _others(largest: Array) -> Array:
    return np.asarray(np.arange(4) != largest[:, None])
