"""`Grid`: a signed distance field on a regular lattice, the paper's implicit surface without a network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A node-centred signed distance field: node (i, j, k) stands at `origin + voxel * (i, j, k)`.

    Attributes:
        values: [X, Y, Z] float32 signed distance in world units, negative inside.
        origin: [3] world position of node (0, 0, 0).
        voxel: distance between neighbouring nodes.
    """

    values: Tensor
    origin: Tensor
    voxel: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Nodes along x, y and z."""
        x, y, z = self.values.shape
        return x, y, z

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """World positions [3] of the first and the last node."""
        last = torch.tensor(self.shape, device=self.origin.device) - 1
        return self.origin, self.origin + self.voxel * last

    def to(self, device: torch.device | str) -> Grid:
        """Move the tensors to a device."""
        return replace(self, values=self.values.to(device), origin=self.origin.to(device))

    def axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """World coordinates of the nodes along x [X], y [Y] and z [Z]."""
        x, y, z = (
            self.origin[i] + self.voxel * torch.arange(n, dtype=self.origin.dtype, device=self.origin.device)
            for i, n in enumerate(self.shape)
        )
        return x, y, z

    def points(self) -> Tensor:
        """World positions of all nodes [X, Y, Z, 3]."""
        return torch.stack(torch.meshgrid(*self.axes(), indexing="ij"), dim=-1)

    def sample(self, points: Tensor) -> Tensor:
        """Trilinear value at world points [..., 3] -> [...]; outside the box, the value on its boundary."""
        index, weight = self.around(points.reshape(-1, 3))
        return gather(self.values.reshape(-1, 1), index, weight).reshape(points.shape[:-1])

    def around(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Indices [P, 8] into the flat lattice of the nodes around points [P, 3], and their weights."""
        return trilinear(self.shape, self.origin, self.voxel, points)


def empty_grid(shape: list[int], origin: Tensor, voxel: float) -> Grid:
    """A field of zeros with the given number of nodes along x, y, z."""
    return Grid(torch.zeros(shape, dtype=origin.dtype, device=origin.device), origin, voxel)


def trilinear(
    shape: tuple[int, int, int], origin: Tensor, voxel: float, points: Tensor
) -> tuple[Tensor, Tensor]:
    """The 8 nodes around every point and their weights.

    Gathering 8 nodes from a flat lattice is about three times faster on a CPU than `grid_sample` in
    3D, and fields on one lattice (distance, colour) share the plan.

    Args:
        points: [P, 3] in the world; points outside the box are moved to its boundary.

    Returns:
        index [P, 8] into the flattened lattice and weight [P, 8], which adds up to 1.
    """
    nx, ny, nz = shape
    limit = torch.tensor([nx - 1, ny - 1, nz - 1], dtype=points.dtype, device=points.device)
    position = torch.minimum(((points - origin) / voxel).clamp_min(0), limit)
    cell = torch.minimum(position.floor(), limit - 1)
    f = position - cell
    cell = cell.long()
    base = (cell[:, 0] * ny + cell[:, 1]) * nz + cell[:, 2]
    steps = torch.tensor([0, 1, nz, nz + 1], device=points.device)
    offset = torch.cat([steps, steps + ny * nz])
    x, y, z = f.unbind(1)
    x_, y_, z_ = (1 - f).unbind(1)
    ll, lh, hl, hh = x_ * y_, x_ * y, x * y_, x * y
    weight = torch.stack([ll * z_, ll * z, lh * z_, lh * z, hl * z_, hl * z, hh * z_, hh * z], dim=1)
    return base[:, None] + offset, weight


def gather(values: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums over nodes of a flat lattice: values [N, C], index and weight [P, 8] -> [P, C]."""
    picked = values.index_select(0, index.reshape(-1)).view(*index.shape, -1)
    return (picked * weight[..., None]).sum(1)
