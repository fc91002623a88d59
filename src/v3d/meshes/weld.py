"""Vertices that stand in one place become one: what printers and measures of solids need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from v3d.meshes.mesh import Mesh


def weld(mesh: Mesh) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The surface without the repeated vertices of its texture's seams.

    Returns:
        Places [N, 3]; faces [F, 3] that number them, in the mesh's order, those of two equal corners
        included; and the place of every vertex of the mesh [P].
    """
    points = mesh.vertices.cpu().double().numpy()
    # -0 and 0 are one number, but differ as bytes.
    places, place = np.unique(points + 0.0, axis=0, return_inverse=True)
    place = place.reshape(-1).astype(np.int64)
    return places, place[mesh.faces.cpu().numpy()], place


def without_slivers(faces: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[F] Which faces [F, 3] have three corners."""
    a, b, c = faces.T
    kept: NDArray[np.bool_] = (a != b) & (b != c) & (c != a)
    return kept
