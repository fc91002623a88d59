"""Solids: watertight surfaces as `manifold3d` keeps them."""

from __future__ import annotations

import manifold3d
import numpy as np
import torch

from v3d.meshes.mesh import Mesh
from v3d.meshes.weld import weld, without_slivers


def solid_of(mesh: Mesh) -> manifold3d.Manifold | None:
    """The mesh as a solid, without its texture; None where its surface is not closed."""
    places, faces, _ = weld(mesh)
    faces = faces[without_slivers(faces)]
    solid = manifold3d.Manifold(
        manifold3d.Mesh64(np.ascontiguousarray(places), np.ascontiguousarray(faces, np.uint64))
    )
    closed = solid.status() == manifold3d.Error.NoError and not solid.is_empty()
    return solid if closed else None


def mesh_of(solid: manifold3d.Manifold) -> Mesh:
    """A solid's surface."""
    out = solid.to_mesh64()
    vertices = torch.from_numpy(np.array(out.vert_properties[:, :3])).float()
    return Mesh(vertices, torch.from_numpy(out.tri_verts.astype(np.int64)))


def flat_base(mesh: Mesh, share: float) -> Mesh:
    """A closed mesh without the lowest `share` of its height, so that it stands on a plane.

    A mesh that is not closed comes back as it is.
    """
    solid = solid_of(mesh)
    low, high = float(mesh.vertices[:, 2].min()), float(mesh.vertices[:, 2].max())
    if solid is None:
        return mesh
    return mesh_of(solid.trim_by_plane((0.0, 0.0, 1.0), low + share * (high - low)))


def contact_area(mesh: Mesh, within: float) -> float:
    """Square units of the faces that look down and lie `within` of the lowest point."""
    corners = mesh.vertices[mesh.faces]
    low = mesh.vertices[:, 2].min()
    touching = (mesh.face_normals[:, 2] < -0.95) & (corners[..., 2].amax(1) < low + within)
    return float(mesh.face_areas[touching].sum())
