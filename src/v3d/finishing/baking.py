"""What a light mesh takes from a dense one in the shape of images: normals, occlusion, colours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.finishing.rays import Hits, RayGrid
from v3d.meshes.mesh import Mesh
from v3d.meshes.padding import pad
from v3d.meshes.rendering import rasterize_uv, sample_texture
from v3d.meshes.tangents import vertex_tangents

_CAGE = 0.03  # of the longest side: how far the two surfaces may lie apart
_LEAST_COSINE = 0.5  # between the two surfaces' normals; more is another wall, seen around an edge
_OCCLUDERS = 0.3  # of the longest side: nothing farther darkens a point
_SKY_RAYS = 32


@dataclass(frozen=True)
class Maps:
    """Images of a mesh's material.

    Attributes:
        normal: [T, T, 3] in [0, 1], tangent space (`v3d.meshes.tangents`).
        occlusion: [T, T] in [0, 1].
    """

    normal: Tensor
    occlusion: Tensor


def bake_maps(light: Mesh, dense: Mesh, size: int) -> Maps:
    """The dense mesh's normals, and how much of the sky it sees, as images of the light mesh.

    Every texel looks along the light mesh's normal, outward and inward, for the nearest point of the dense
    mesh that faces the same way. Where there is none, the surface is taken as it is.

    Args:
        light: with a uv.
        dense: of the same shape and place, with more triangles, closed, without seams.
        size: pixels of the images' side.
    """
    texels = _Texels.of(light, size)
    hits = texels.look_for(dense)
    found = torch.from_numpy(hits.found)
    normals = light.vertex_normals
    n = F.normalize(texels.at(normals), dim=-1)
    both = torch.cat([dense.vertex_normals, vertex_sky(dense)[:, None]], 1).double().numpy()
    seen = torch.from_numpy(hits.at(dense.faces.numpy(), both)).float()
    target = torch.where(found[:, None], F.normalize(seen[:, :3], dim=-1), n)

    tangents = vertex_tangents(light, normals)
    t = F.normalize(texels.at(tangents[:, :3]), dim=-1)
    b = torch.linalg.cross(n, t) * texels.at(tangents)[:, 3:].sign()
    b = F.normalize(b, dim=-1)
    # t need not be across n between the vertices: solve for the weights instead of projecting.
    lean, on_t, on_n = ((x * y).sum(-1) for x, y in ((t, n), (target, t), (target, n)))
    x = (on_t - lean * on_n) / (1 - lean**2).clamp_min(1e-3)
    local = F.normalize(torch.stack([x, (target * b).sum(-1), on_n - lean * x], -1), dim=-1)
    normal = texels.image(local * 0.5 + 0.5, torch.tensor([0.5, 0.5, 1.0]))
    sky = texels.image(seen[:, 3:], torch.ones(1), known=found)
    return Maps(normal, sky[..., 0])


def carry_colours(mesh: Mesh, source: Mesh, size: int) -> Mesh:
    """The mesh with a texture [size, size, 3] of the source's colours, point by point.

    Args:
        mesh: with a uv.
        source: of the same shape and place, with a texture.
        size: texels of the texture's side.
    """
    assert source.uv is not None and source.texture is not None, "the source has no texture"
    texels = _Texels.of(mesh, size)
    hits = texels.look_for(source)
    uv = torch.from_numpy(hits.at(source.faces.numpy(), source.uv.double().numpy())).float()
    colour = sample_texture(source.texture, uv)
    grey = source.texture.reshape(-1, 3).mean(0)
    return replace(mesh, texture=texels.image(colour, grey, known=torch.from_numpy(hits.found)))


def vertex_sky(mesh: Mesh) -> Tensor:
    """[P] Share of the sky over each vertex that the mesh itself does not hide, weighted by the cosine.

    By 32 rays a vertex, the same for all, turned into the vertex's frame; nothing farther than 0.3 of the
    mesh's longest side counts.
    """
    normal = mesh.vertex_normals.double()
    axis = F.one_hot(normal.abs().argmin(-1), 3).double()
    t = F.normalize(torch.linalg.cross(normal, axis), dim=-1)
    b = torch.linalg.cross(normal, t)
    # Malley: points even on the disc (a golden spiral), lifted to the hemisphere, are even in the cosine.
    k = torch.arange(_SKY_RAYS, dtype=torch.float64) + 0.5
    radius, turn = (k / _SKY_RAYS).sqrt(), k * 2.399963229728653
    local = torch.stack([radius * turn.cos(), radius * turn.sin(), (1 - radius**2).sqrt()], -1)
    grid, longest = RayGrid(mesh), _longest_side(mesh)
    origin = mesh.vertices.double() + normal * 1e-3 * longest
    hidden = torch.zeros(len(origin), dtype=torch.float64)
    for x, y, z in local.tolist():
        direction = t * x + b * y + normal * z
        hits = grid.first_hits(origin.numpy(), direction.numpy(), _OCCLUDERS * longest)
        hidden += torch.from_numpy(hits.found)
    return (1 - hidden / _SKY_RAYS).float()


@dataclass(frozen=True)
class _Texels:
    """The texels of a mesh's charts: `inside` [T, T] says which, corners and weights [N, 3] where."""

    mesh: Mesh
    inside: Tensor
    corners: Tensor
    weights: Tensor

    @classmethod
    def of(cls, mesh: Mesh, size: int) -> _Texels:
        """Of a texture of `size` x `size`."""
        fragments = rasterize_uv(mesh, size)
        inside = fragments.face[0] >= 0
        return cls(mesh, inside, mesh.faces[fragments.face[0][inside]], fragments.barycentric[0][inside])

    def at(self, attribute: Tensor) -> Tensor:
        """A vertex attribute [P, C] at the texels [N, C]."""
        return (attribute[self.corners] * self.weights[..., None]).sum(1)

    def look_for(self, other: Mesh) -> Hits:
        """The nearest points of the other mesh along the normals that face the same way."""
        point = self.at(self.mesh.vertices).double().numpy()
        normal = F.normalize(self.at(self.mesh.vertex_normals), dim=-1).double().numpy()
        grid, cage = RayGrid(other), _CAGE * _longest_side(other)
        face_normals = other.face_normals.double().numpy()
        distance, face = np.full(len(point), np.inf), np.full(len(point), -1, np.int64)
        weights = np.zeros((len(point), 3))
        for way in (1.0, -1.0):
            # From a little behind, or a surface in the very same place would be missed.
            start = point - normal * way * 1e-6
            hits = grid.first_hits(start, normal * way, cage)
            facing = (face_normals[hits.face] * normal).sum(1) > _LEAST_COSINE
            better = hits.found & facing & (hits.distance < distance)
            distance[better], face[better] = hits.distance[better], hits.face[better]
            weights[better] = hits.weights[better]
        return Hits(distance, face, weights)

    def image(self, values: Tensor, otherwise: Tensor, known: Tensor | None = None) -> Tensor:
        """Values [N, C] of the texels as an image [T, T, C]; others take that of the nearest known one."""
        inside = self.inside
        image = otherwise.expand(*inside.shape, values.shape[-1]).clone()
        image[inside] = values
        if known is not None:
            inside = inside.clone()
            inside[self.inside] = known
        return pad(image, inside).clamp(0, 1)


def _longest_side(mesh: Mesh) -> float:
    return float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
