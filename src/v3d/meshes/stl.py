"""Meshes as binary STL, the printer's format: millimetres, z up, standing centred on z = 0."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from v3d.files import atomic
from v3d.meshes.files import check_savable, to_print_axes
from v3d.meshes.look import PLAIN, Look, identifier
from v3d.meshes.mesh import Mesh
from v3d.meshes.weld import weld, without_slivers

_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def save_stl(mesh: Mesh, path: str | Path, look: Look = PLAIN) -> None:
    """Write a binary STL file. The format has neither unit nor colours; its numbers are millimetres.

    Args:
        mesh: in metres.
        path: of the .stl file.
        look: its name goes into the header.

    Raises:
        V3DError: the mesh has no faces or its numbers are not finite, or the file cannot be written.
    """
    check_savable(mesh)
    places, faces, _ = weld(mesh)
    corners = to_print_axes(places)[faces[without_slivers(faces)]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    records = np.zeros(len(corners), _RECORD)
    records["normal"], records["corners"] = normal, corners
    # Not "solid ...": some programs take that for the format's text form.
    header = f"V3D {identifier(look.name)} UNITS=mm".encode()[:80].ljust(80)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(header + struct.pack("<I", len(records)))
        file.write(records.tobytes())
