"""Bytes of files of Gaussians: reading them, and tensors as arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v3d.errors import V3DError


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file.

    Raises:
        V3DError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise V3DError(f"Cannot read {path}: {error.strerror}.") from error


def unit_quaternions(quats: Tensor) -> Tensor:
    """Quaternions [..., 4] at length 1."""
    return torch.nn.functional.normalize(quats, dim=-1)


def to_numpy(x: Tensor) -> np.ndarray:
    """A tensor of any device, with or without gradient, as an array."""
    return x.detach().cpu().numpy()


def to_bytes(x: Tensor) -> np.ndarray:
    """Numbers rounded and clamped to uint8 [0, 255]."""
    return to_numpy(x.round().clamp(0, 255).to(torch.uint8))
