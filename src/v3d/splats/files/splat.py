"""Gaussians as `.splat`: 32 bytes each, as antimatter15's web viewer reads them.

The axes are V3D's own, as in `v3d.splats.files.ply`.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.splats.files.encoding import read_bytes, to_bytes, to_numpy, unit_quaternions
from v3d.splats.gaussians import Splats

_SPLAT = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def save_splat(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write the `.splat` layout of web viewers: 32 bytes a Gaussian, the most important first.

    float32 position[3], float32 standard deviation[3], uint8 r g b opacity, uint8 rotation wxyz (128 + 128
    q). Importance is volume times opacity, so that a viewer that streams shows the large parts first.

    Raises:
        V3DError: the file cannot be written.
    """
    importance = splats.log_scales.sum(-1).exp() * splats.opacity
    splats = splats[importance.argsort(descending=True, stable=True)]
    rows = np.empty(len(splats), _SPLAT)
    rows["position"], rows["scale"] = to_numpy(splats.means), to_numpy(splats.scales)
    rows["rgba"] = to_bytes(torch.cat([splats.rgb, splats.opacity[:, None]], -1) * 255)
    rows["rotation"] = to_bytes(unit_quaternions(splats.quats) * 128 + 128)
    with atomic(path) as temporary:
        temporary.write_bytes(rows.tobytes())


def load_splat(path: str | os.PathLike[str]) -> Splats:
    """Read a `.splat` file. Colour, opacity and rotation come back in 8 bits.

    Raises:
        V3DError: the file cannot be read, or its length is not a whole number of Gaussians.
    """
    data = read_bytes(path)
    if len(data) % _SPLAT.itemsize:
        raise V3DError(f"{path} is not a whole .splat file: its length is no multiple of 32 bytes.")
    rows = np.frombuffer(data, _SPLAT)
    rgba = torch.from_numpy(rows["rgba"].astype(np.float32)) / 255
    return Splats(
        means=torch.from_numpy(rows["position"].astype(np.float32)),
        quats=unit_quaternions(torch.from_numpy(rows["rotation"].astype(np.float32)) - 128),
        log_scales=torch.from_numpy(rows["scale"].astype(np.float32)).clamp_min(1e-12).log(),
        logit_opacity=rgba[:, 3].clamp(0.5 / 255, 1 - 0.5 / 255).logit(),
        rgb=rgba[:, :3],
    )
