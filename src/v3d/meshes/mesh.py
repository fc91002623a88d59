"""`Mesh`: triangles in V3D's world, z up, front towards +x; `v3d.meshes.files` states the axes of files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

# Vertices repeated along a texture seam share one normal unless they differ more than this: a hard edge.
_CREASE_COSINE = 0.9


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, optionally textured.

    Attributes:
        vertices: [P, 3] float32, world coordinates (z up).
        faces: [F, 3] int64, counter-clockwise seen from outside.
        uv: [P, 2] float32 in [0, 1], u to the right, v *down* (as image rows: v = 0 is the texture's first
            row), or None. Vertices on a seam are repeated, one for each chart.
        texture: [T, T', 3] float32 in [0, 1], sRGB-encoded, or None.
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor | None = None
    texture: Tensor | None = None

    def to(self, device: torch.device | str) -> Mesh:
        """Move the tensors to a device."""
        return replace(
            self,
            vertices=self.vertices.to(device),
            faces=self.faces.to(device),
            uv=None if self.uv is None else self.uv.to(device),
            texture=None if self.texture is None else self.texture.to(device),
        )

    @property
    def face_normals(self) -> Tensor:
        """[F, 3] unit normals, outward; zero for faces without area."""
        return torch.nn.functional.normalize(self._area_vectors, dim=-1)

    @property
    def face_areas(self) -> Tensor:
        """[F] in square world units."""
        areas: Tensor = self._area_vectors.norm(dim=-1) / 2
        return areas

    @cached_property
    def vertex_normals(self) -> Tensor:
        """[P, 3] unit normals: means over the faces around, weighted by area; zero without such faces.

        Vertices repeated along a texture seam get one common normal, so that shading shows no seam; along a
        hard edge (more than 26 degrees off the common one) each keeps its own.
        """
        weighted = self._area_vectors[:, None].expand(-1, 3, -1).reshape(-1, 3)
        summed = torch.zeros_like(self.vertices).index_add_(0, self.faces.reshape(-1), weighted)
        own = torch.nn.functional.normalize(summed, dim=-1)
        places, place = torch.unique(self.vertices, dim=0, return_inverse=True)
        if len(places) == len(self.vertices):
            return own
        common = torch.zeros_like(places).index_add_(0, place, summed)
        common = torch.nn.functional.normalize(common, dim=-1)[place]
        return torch.where((own * common).sum(-1, keepdim=True) > _CREASE_COSINE, common, own)

    @property
    def _area_vectors(self) -> Tensor:
        """[F, 3] outward normals, as long as twice the faces' areas."""
        a, b, c = self.vertices[self.faces].unbind(1)
        vectors: Tensor = torch.linalg.cross(b - a, c - a)
        return vectors
