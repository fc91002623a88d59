"""Tangents of a textured mesh, as MikkTSpace (Mikkelsen 2008) and so every engine computes them.

A normal map is read in the frame of tangent t, bitangent `w * cross(n, t)` and normal n. Baker and viewer
must agree on t, so the file carries it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.meshes.mesh import Mesh


def vertex_tangents(mesh: Mesh, normals: Tensor) -> Tensor:
    """Tangents [P, 4] of a mesh with uv: a unit vector along u across the normal, and w.

    w is 1, or -1 where the texture is mirrored: `w * cross(n, t)` points up in the texture's image, which is
    glTF's convention. Means over the faces around, weighted by the angle, as MikkTSpace takes them.

    Args:
        mesh: with a uv (v down).
        normals: [P, 3] unit normals of its vertices.
    """
    assert mesh.uv is not None, "the mesh has no uv"
    p, uv = mesh.vertices[mesh.faces].double(), mesh.uv[mesh.faces].double()
    e1, e2 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    d1, d2 = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    determinant = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]
    along_u = (e1 * d2[:, 1:] - e2 * d1[:, 1:]) * determinant.sign()[:, None]

    n = F.normalize(normals.double(), dim=-1)
    corner = n[mesh.faces]  # [F, 3, 3]

    def across(v: Tensor) -> Tensor:
        return F.normalize(v - (v * corner).sum(-1, keepdim=True) * corner, dim=-1)

    to_next, to_last = across(p.roll(-1, 1) - p), across(p.roll(1, 1) - p)
    angle = (to_next * to_last).sum(-1).clamp(-1, 1).acos()
    weighted = across(along_u[:, None].expand_as(p)) * angle[..., None]
    index = mesh.faces.reshape(-1)
    summed = torch.zeros_like(n).index_add_(0, index, weighted.reshape(-1, 3))
    # v runs down, so a texture that is not mirrored has a negative determinant.
    turn = torch.zeros_like(n[:, 0]).index_add_(0, index, -determinant.sign().repeat_interleave(3))

    # Where no face says a direction, any one across the normal will do.
    axis = F.one_hot(n.abs().argmin(-1), 3).to(n)
    fallback = F.normalize(torch.linalg.cross(n, axis), dim=-1)
    found = summed.norm(dim=-1, keepdim=True) > 1e-9
    tangent = torch.where(found, F.normalize(summed, dim=-1), fallback)
    return torch.cat([tangent, torch.where(turn < 0, -1.0, 1.0)[:, None]], -1).float()
