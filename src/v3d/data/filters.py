"""Which objects are of no use for training, and why."""

from __future__ import annotations

import hashlib

import torch

from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import sample_texture

_FEWEST_FACES = 8
_FLAT = 5e-3  # thickness over length
_DETAIL = 200  # two objects whose vertices agree to 1/200 of their length are the same


def fault(mesh: Mesh, *, untextured: bool = False) -> str | None:
    """Why this object should not be rendered, in words that follow its name; None where nothing is wrong.

    Args:
        mesh: the object.
        untextured: objects without colours are welcome.
    """
    corners = mesh.vertices[mesh.faces]
    if not bool(torch.isfinite(corners).all()):
        return "has vertices that are not finite numbers"
    areas = mesh.face_areas
    if len(areas) == 0 or float(areas.sum()) <= 0:
        return "is empty: no triangle has an area"
    if int((areas > 0).sum()) < _FEWEST_FACES:
        return f"is tiny: it has fewer than {_FEWEST_FACES} triangles"
    points = corners.reshape(-1, 3).double()
    axes = torch.linalg.eigh(torch.cov(points.T)).eigenvectors
    extents = (points @ axes).amax(0) - (points @ axes).amin(0)
    if float(extents.min()) < _FLAT * float(extents.max()):
        return "is flat: it is a sheet without thickness"
    if mesh.texture is None and not untextured:
        return "has no colours"
    return None


def mesh_fingerprint(mesh: Mesh) -> str:
    """A digest of an object's shape and colours that ignores its place, size and order of vertices."""
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    scaled = (mesh.vertices - (low + high) / 2) / (high - low).norm().clamp_min(1e-12)
    rows = (scaled * _DETAIL).round()
    if mesh.uv is not None and mesh.texture is not None:
        # Colours where they are used: objects that share one palette differ in their uv alone.
        rows = torch.cat([rows, (sample_texture(mesh.texture, mesh.uv, nearest=True) * 255).round()], -1)
    digest = hashlib.sha256(torch.unique(rows.short(), dim=0).numpy().tobytes())
    digest.update(len(mesh.faces).to_bytes(8, "little"))
    return digest.hexdigest()
