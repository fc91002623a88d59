"""UV unwrap: cut the surface into charts and pack them into one square texture (xatlas)."""

from __future__ import annotations

import numpy as np
import torch
import xatlas
from torch import Tensor

from v3d.meshes.mesh import Mesh

# Texels between charts: enough for bilinear reading, and for the mip maps of large textures, which are shown
# small more often.
_LEAST_PADDING, _PADDING = 3, 1 / 128
# The longest outline of a chart, over the root of the surface's area. xatlas takes long to grow large charts:
# this halves its time, and makes up to 12 % more vertices.
_OUTLINE = 2.0


def unwrap(mesh: Mesh, *, size: int = 1024) -> Mesh:
    """The same surface with a uv (v down); any uv and texture it had are dropped.

    Faces keep their order. Vertices along the cuts are repeated. Costs about 1 s for 20k faces and grows
    faster than linearly. Faces without area get a uv without area.

    Args:
        mesh: any triangles.
        size: width and height of the texture the charts are packed for, in texels.
    """
    if len(mesh.faces) == 0:
        return Mesh(mesh.vertices, mesh.faces, mesh.vertices.new_zeros(len(mesh.vertices), 2))
    vertex, faces, uv = charts(mesh, size=size)
    return Mesh(mesh.vertices[vertex], faces, uv)


def charts(mesh: Mesh, *, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where `unwrap` cuts a mesh of at least one face, and where it puts the pieces.

    Args:
        mesh: P vertices, F faces.
        size: width and height of the texture in texels.

    Returns:
        vertex [P']: which of the mesh's vertices each new one is; faces [F, 3] of new vertices, in the
        mesh's order; uv [P', 2] in [0, 1], v down.
    """
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.cpu().numpy().astype(np.float32), mesh.faces.cpu().numpy().astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = (
        size,
        max(_LEAST_PADDING, round(size * _PADDING)),
        True,
    )
    cutting = xatlas.ChartOptions()
    cutting.max_boundary_length = _OUTLINE * float(mesh.face_areas.sum()) ** 0.5
    atlas.generate(cutting, packing, False)
    vertex, faces, uv = atlas[0]
    device = mesh.vertices.device
    return (
        torch.from_numpy(vertex.astype(np.int64)).to(device),
        torch.from_numpy(faces.astype(np.int64)).to(device),
        torch.from_numpy(uv.astype(np.float32)).to(device),
    )
