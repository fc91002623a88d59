"""Linear interpolation in images and volumes: `torch.nn.functional.grid_sample`, or faster on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.autocast import without_autocast


@without_autocast
def interpolate(volumes: Tensor, grid: Tensor) -> Tensor:
    """Linear interpolation between cell centres; what lies outside has the value of the border.

    Args:
        volumes: [B, C, (D,) H, W]; volumes are read fastest where their channels are contiguous.
        grid: [B, P, 2 or 3] positions (x, y or x, y, z), -1 to 1 from edge to edge.

    Returns:
        [B, P, C].
    """
    gradient = torch.is_grad_enabled() and (volumes.requires_grad or grid.requires_grad)
    if volumes.ndim == 5 and min(volumes.shape[2:]) > 1 and volumes.device.type == "cpu" and not gradient:
        return _interpolate_volumes(volumes, grid)
    at = grid[:, None] if volumes.ndim == 4 else grid[:, None, None]
    values = F.grid_sample(volumes, at, mode="bilinear", padding_mode="border", align_corners=False)
    return values.flatten(2).mT


def _interpolate_volumes(volumes: Tensor, grid: Tensor) -> Tensor:
    """Weighted sums of table rows, the eight cells around a point: ten times as fast as `grid_sample`.

    That reads one channel after the other, every time from another place in memory.
    """
    B, C, *sides = volumes.shape
    table = volumes.movedim(1, -1).reshape(-1, C)
    strides = (1, sides[2], sides[1] * sides[2])
    cells = torch.arange(B, dtype=torch.int32)[:, None] * (len(table) // B)
    parts = []
    for x, side, stride in zip(grid.unbind(-1), reversed(sides), strides, strict=True):
        position = (((x + 1) * side - 1) / 2).clamp(0, side - 1)
        low = position.to(torch.int32).clamp_max(side - 2)
        cells = cells + low * stride
        part = (position - low).flatten()
        parts.append((1 - part, part))
    index = torch.empty(cells.numel(), 8, dtype=torch.int32)
    weights = table.new_empty(cells.numel(), 8)
    for corner in range(8):
        i, j, k = (corner >> axis & 1 for axis in range(3))
        torch.add(cells.flatten(), i + strides[1] * j + strides[2] * k, out=index[:, corner])
        torch.mul(parts[0][i] * parts[1][j], parts[2][k], out=weights[:, corner])
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weights).view(B, -1, C)
