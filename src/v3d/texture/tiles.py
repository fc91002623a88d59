"""Meshes of other programs, to be textured as they are: several materials, uv that repeat or are shared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from v3d.cameras import Cameras
from v3d.meshes.mesh import Mesh
from v3d.meshes.reading.parts import Part
from v3d.meshes.reading.pieces import cut_part
from v3d.meshes.reading.texturing import welded
from v3d.meshes.reading.wrapping import cut_at_borders
from v3d.meshes.rendering import rasterize_mesh, rasterize_uv

_LARGEST = 4096  # texels of the side of all tiles together
_MOST_REPEATS = 64  # of a texture within one face; beyond it the face takes no part
_SLACK = 1e-4  # uv this far outside of [0, 1] is rounding


@dataclass(frozen=True)
class Tiled:
    """Parts as one mesh whose uv lie in a square of tiles, one for each material.

    Attributes:
        mesh: without texture; its vertices are those of the parts, and new ones where a texture begins anew.
        materials: the number of each tile's material, row by row.
        tile: side of a tile in texels.
    """

    mesh: Mesh
    materials: tuple[int, ...]
    tile: int

    @property
    def rows(self) -> int:
        """Tiles along a side."""
        return math.isqrt(len(self.materials) - 1) + 1

    @property
    def size(self) -> int:
        """Side of the whole texture in texels."""
        return self.rows * self.tile

    def textures(self, texture: Tensor) -> dict[int, Tensor]:
        """The texture [size, size, 3] of all tiles -> that of every material [tile, tile, 3]."""
        rows, n = self.rows, self.tile
        return {
            m: texture[i // rows * n :, i % rows * n :][:n, :n].contiguous()
            for i, m in enumerate(self.materials)
        }

    def shared(self) -> float:
        """How much of the surface shares its texels with other parts of it, in [0, 1), by area in the uv."""
        assert self.mesh.uv is not None
        a, b, c = self.mesh.uv[self.mesh.faces].double().unbind(1)
        u, v = b - a, c - a
        area = float((u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).abs().sum()) / 2
        covered = float((rasterize_uv(self.mesh, self.size).face >= 0).double().mean())
        return max(0.0, 1 - covered / max(area, 1e-12))


def tiled(parts: Sequence[Part], size: int) -> Tiled:
    """Parts with a uv as one mesh.

    Faces are cut where their texture begins anew, and moved into it.

    Args:
        parts: at least one, each with a uv; vertices that float32 can hold.
        size: side of a tile in texels; less where all tiles would pass 4096 a side.
    """
    materials = tuple(sorted({part.material for part in parts}))
    rows = math.isqrt(len(materials) - 1) + 1
    vertices, faces, uvs, first = [], [], [], 0
    for part in parts:
        folded = _folded(part)
        assert folded.uv is not None
        placed = welded(folded, folded.uv, np.zeros((1, 1, 3), np.uint8))
        i = materials.index(part.material)
        vertices.append(placed.vertices)
        faces.append(placed.faces + first)
        uvs.append((placed.uv + np.array([i % rows, i // rows])) / rows)
        first += len(placed.vertices)
    mesh = Mesh(
        torch.from_numpy(np.concatenate(vertices).astype(np.float32)),
        torch.from_numpy(np.concatenate(faces).astype(np.int64)),
        torch.from_numpy(np.concatenate(uvs).astype(np.float32)),
    )
    return Tiled(mesh, materials, min(size, _LARGEST // rows))


def _folded(part: Part) -> Part:
    """The part with every face's uv in [0, 1]; faces are cut at whole numbers."""
    uv = part.uv
    assert uv is not None
    if uv.min() >= -_SLACK and uv.max() <= 1 + _SLACK:
        return replace(part, uv=uv.clip(0, 1))
    uv = uv - np.floor(uv.min(1, keepdims=True))
    spans = np.prod(np.floor(uv.max(1)) + 1, axis=1)
    # What repeats too often to be painted still hides what is behind it.
    uv = np.where((spans > _MOST_REPEATS)[:, None, None], 0.0, uv)
    pieces = cut_at_borders(uv, ("repeat", "repeat"), np.arange(len(uv)))
    cut = cut_part(replace(part, uv=uv, layers=(), colours=None), pieces)
    assert cut.uv is not None
    return replace(cut, uv=(cut.uv - np.floor(cut.uv.mean(1, keepdims=True))).clip(0, 1))


def facing(mesh: Mesh, cameras: Cameras) -> tuple[Mesh, float]:
    """The mesh with faces turned that the cameras see more from behind, and their share of those seen.

    Programs show both sides of a face, so that nobody sees a mesh that is inside out; a texture is made from
    the front.
    """
    seen = rasterize_mesh(mesh, cameras).face
    normals, corners = mesh.face_normals, mesh.vertices[mesh.faces].mean(1)
    votes = torch.zeros(len(mesh.faces), device=seen.device)
    for v in range(len(cameras)):
        face = seen[v][seen[v] >= 0]
        toward = ((cameras.centers[v] - corners[face]) * normals[face]).sum(-1)
        votes.index_add_(0, face, toward.sign())
    turned = votes < 0
    share = float(turned.sum()) / max(1.0, float((votes != 0).sum()))
    faces = torch.where(turned[:, None], mesh.faces.flip(1), mesh.faces)
    return replace(mesh, faces=faces), share


def area_seen(mesh: Mesh, cameras: Sequence[Cameras]) -> float:
    """The share of a mesh's area, in [0, 1], in faces of which some camera (batches of one) sees a bit."""
    seen = torch.zeros(len(mesh.faces), dtype=torch.bool, device=mesh.vertices.device)
    for camera in cameras:
        face = rasterize_mesh(mesh, camera).face
        seen[face[face >= 0]] = True
    areas = mesh.face_areas
    return float(areas[seen].sum() / areas.sum().clamp_min(1e-12))
