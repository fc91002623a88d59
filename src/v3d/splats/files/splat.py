"""Gaussians as `.splat`: 32 bytes each, as antimatter15's web viewer reads them. Axes as in `.ply`."""

from __future__ import annotations

import os

import numpy as np
import torch

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.splats.files.axes import WORLD, turned
from v3d.splats.files.encoding import FileSplats, logit, made_of, to_bytes, to_numpy, unit_quaternions
from v3d.splats.files.ply import AXES
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
    splats = turned(splats[importance.argsort(descending=True, stable=True)], WORLD, AXES)
    rows = np.empty(len(splats), _SPLAT)
    rows["position"], rows["scale"] = to_numpy(splats.means), to_numpy(splats.scales)
    rows["rgba"] = to_bytes(torch.cat([splats.rgb, splats.opacity[:, None]], -1) * 255)
    rows["rotation"] = to_bytes(unit_quaternions(splats.quats) * 128 + 128)
    with atomic(path) as temporary:
        temporary.write_bytes(rows.tobytes())


def read_splat(data: bytes) -> FileSplats:
    """The Gaussians of a `.splat` file. Colour, opacity and rotation are of 8 bits.

    Raises:
        V3DError: its length is not a whole number of Gaussians.
    """
    if len(data) % _SPLAT.itemsize:
        raise V3DError("it is no whole .splat file: its length is no multiple of 32 bytes")
    rows = np.frombuffer(data, _SPLAT)
    rgba, rotation = rows["rgba"] / np.float32(255), rows["rotation"].astype(np.float32) - 128
    log_scales = np.log(np.maximum(rows["scale"], 1e-12))
    length = np.maximum(np.linalg.norm(rotation, axis=1, keepdims=True), 1e-6)
    splats = made_of(rows["position"], rotation / length, log_scales, logit(rgba[:, 3]), rgba[:, :3])
    return FileSplats(splats, AXES)
