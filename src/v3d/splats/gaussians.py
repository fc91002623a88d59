"""`Splats`: a cloud of 3D Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
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
        """N, the number of Gaussians."""
        return self.means.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Splats:
        """The Gaussians of a slice, a mask or an index."""
        return Splats(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device: torch.device | str) -> Splats:
        """Move the tensors to a device."""
        return Splats(*(getattr(self, f.name).to(device) for f in fields(self)))

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations."""
        return self.log_scales.exp()

    @property
    def opacity(self) -> Tensor:
        """[N] in (0, 1)."""
        return self.logit_opacity.sigmoid()

    @property
    def is_finite(self) -> Tensor:
        """[N] bool: no NaN, no infinity, and a quaternion that is a rotation."""
        logits = self.logit_opacity[:, None]
        numbers = torch.cat([self.means, self.quats, self.scales, logits, self.rgb], dim=-1)
        rotates: Tensor = self.quats.norm(dim=-1) > 1e-12
        return torch.isfinite(numbers).all(-1) & rotates


def cat_splats(parts: Sequence[Splats]) -> Splats:
    """Join clouds, in order."""
    return Splats(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Splats)))


def morton_order(points: Tensor) -> Tensor:
    """The order [N] of points [N, 3] along the Z-curve through their box, of 1024 cells a side.

    Neighbours in space become neighbours in memory, which on large clouds saves the CPU rasterizer a quarter
    of its time.
    """
    if len(points) == 0:
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    low = points.amin(0)
    extent = (points.amax(0) - low).max().clamp_min(1e-12)
    cell = ((points - low) / extent * 1023).long().clamp(0, 1023)
    code = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for bit in range(10):
        for axis in range(3):
            code |= ((cell[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code.argsort(stable=True)


def rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions wxyz [..., 4] of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
