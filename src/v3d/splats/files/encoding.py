"""What files of Gaussians have in common."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v3d.errors import V3DError


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise V3DError(f"Cannot read {path}: {error.strerror}.") from error


def unit_quaternions(quats: Tensor) -> Tensor:
    return torch.nn.functional.normalize(quats, dim=-1)


def to_numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def to_bytes(x: Tensor) -> np.ndarray:
    return to_numpy(x.round().clamp(0, 255).to(torch.uint8))
