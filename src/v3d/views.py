"""`Views`: posed images of one object, in memory and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from v3d.cameras import Cameras


@dataclass(frozen=True)
class Views:
    """V posed images of one object.

    Attributes:
        rgb: [V, H, W, 3] float32 in [0, 1], sRGB-encoded, composited on white.
        alpha: [V, H, W] float32 in [0, 1], coverage of the object.
        cameras: V cameras of width W and height H.
    """

    rgb: Tensor
    alpha: Tensor
    cameras: Cameras

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int]) -> Views:
        """The chosen views, always as a batch."""
        if isinstance(index, int):
            index = [index]
        elif isinstance(index, Sequence):
            index = list(index)
        return Views(self.rgb[index], self.alpha[index], self.cameras[index])

    def to(self, device: torch.device | str) -> Views:
        return Views(self.rgb.to(device), self.alpha.to(device), self.cameras.to(device))

    def resized(self, size: int) -> Views:
        """The same views at `size` x `size` pixels (antialiased)."""
        x = torch.cat([self.rgb, self.alpha[..., None]], dim=-1).permute(0, 3, 1, 2)
        x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
        x = x.permute(0, 2, 3, 1).clamp(0, 1)
        return Views(x[..., :3], x[..., 3], self.cameras.resized(size, size))
