"""A chiral object made of Gaussians, and whether a picture shows it."""

from __future__ import annotations

import torch

from v3d.cameras import Cameras, orbit
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import splat_renderer

_ROWS = ("####", "#...", "###.", "#...", "#...", "#...")  # an F, as who looks at the front sees it


def letter() -> Splats:
    """An F in the plane x = 0, readable from the front: needles that lean, of three colours.

    It is alike in no mirror, and neither are its Gaussians: each is a needle in a corner of its own.
    """
    cells = [(r, c) for r, row in enumerate(_ROWS) for c, cell in enumerate(row) if cell == "#"]
    # From the front (+x) with z up, the viewer's right is +y.
    means = torch.tensor([[0.02 * r, 0.15 * (c - 1.5), 0.15 * (2.5 - r)] for r, c in cells])
    tilt = torch.linspace(0.2, 1.2, len(cells))  # about x: seen from the front, counter-clockwise
    half = tilt / 2
    quats = torch.stack([half.cos(), half.sin(), 0.1 * half, 0.2 * half], -1)
    log_scales = torch.tensor([0.02, 0.09, 0.03]).log().expand(len(cells), 3).contiguous()
    rgb = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.6, 0.2], [0.2, 0.3, 0.9]])
    colours = torch.stack([rgb[0 if r == 0 else 1 if c == 0 else 2] for r, c in cells])
    return Splats(means, quats, log_scales, torch.full((len(cells),), 2.0), colours)


def seen(splats: Splats) -> torch.Tensor:
    """Pictures [4, 96, 96, 3] from around."""
    cameras: Cameras = orbit(4, size=96)
    return splat_renderer(splats)(cameras)
