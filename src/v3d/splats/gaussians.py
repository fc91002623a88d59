"""`Splats`: a cloud of 3D Gaussians."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Splats:
    """N coloured 3D Gaussians (spherical harmonics of degree 0, that is, one colour each).

    Attributes:
        means: [N, 3] centres in the world.
        quats: [N, 4] rotations (w, x, y, z), any non-zero norm.
        log_scales: [N, 3] natural logarithm of the standard deviations along the rotated axes.
        logit_opacity: [N] opacity before the sigmoid.
        rgb: [N, 3] colour, sRGB-encoded; may leave [0, 1] while fitting.
    """

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    logit_opacity: Tensor
    rgb: Tensor

    def __len__(self) -> int:
        return self.means.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Splats:
        return Splats(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device: torch.device | str) -> Splats:
        return Splats(*(getattr(self, f.name).to(device) for f in fields(self)))

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations."""
        return self.log_scales.exp()

    @property
    def opacity(self) -> Tensor:
        """[N] in (0, 1)."""
        return self.logit_opacity.sigmoid()
