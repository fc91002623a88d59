"""Gaussians as `.ply`, in the layout of 3D Gaussian Splatting.

Axes are `RDF`, as that work trains them and its viewers show them: x to the object's right, y down, z to the
front. A comment in the header says so. Files that V3D wrote before stand in its world, and say that.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.meshes.reading.ply_table import Lists, read_table
from v3d.splats.files.axes import WORLD, turned
from v3d.splats.files.encoding import (
    SH_DC,
    Array,
    FileSplats,
    in_world,
    made_of,
    naming,
    read_bytes,
    to_numpy,
    unit_quaternions,
)
from v3d.splats.gaussians import Splats

AXES = "RDF"
"""Of `.ply` files that do not say."""

_FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacity",
    *("scale_0", "scale_1", "scale_2"),
    *("rot_0", "rot_1", "rot_2", "rot_3"),
)
_IN_WORLD = "V3D: z up, front towards +x"  # the comment of older versions
COMMENT = "V3D: x right, y down, z front (RDF)"
"""What the header of a `.ply` says of its axes."""


def save_ply(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write the standard 3DGS layout, binary little-endian float32, in the axes RDF.

    Properties: x y z, nx ny nz (zero), f_dc_0..2 ((rgb - 0.5) / SH_DC), opacity (logit), scale_0..2 (natural
    logarithm), rot_0..3 (unit wxyz).

    Raises:
        V3DError: the file cannot be written.
    """
    splats = turned(splats, WORLD, AXES)
    header = [
        *("ply", "format binary_little_endian 1.0", f"comment {COMMENT}"),
        f"element vertex {len(splats)}",
        *(f"property float {name}" for name in _FIELDS),
        "end_header",
        "",
    ]
    rows = torch.cat(
        [
            splats.means,
            torch.zeros_like(splats.means),
            (splats.rgb - 0.5) / SH_DC,
            splats.logit_opacity[:, None],
            splats.log_scales,
            unit_quaternions(splats.quats),
        ],
        dim=-1,
    )
    with atomic(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + to_numpy(rows).astype("<f4").tobytes())


def load_ply(path: str | os.PathLike[str]) -> Splats:
    """Read a 3DGS `.ply` into V3D's world. Spherical harmonics above degree 0 are left out.

    Raises:
        V3DError: the file cannot be read, is not such a file, or is cut short.
    """
    data = read_bytes(path)
    with naming(Path(path)):
        return in_world(read_ply(data))[0]


def read_ply(data: bytes) -> FileSplats:
    """The Gaussians of a `.ply` of any encoding.

    Raises:
        V3DError: it is not such a file, or is cut short.
    """
    tables, comments = read_table(data)
    columns = tables.get("vertex", {})
    missing = set(_FIELDS) - {"nx", "ny", "nz"} - {k for k, v in columns.items() if not isinstance(v, Lists)}
    if missing:
        what = "a mesh or a point cloud" if {"x", "y", "z"} <= set(columns) else "something else"
        raise V3DError(f"it is {what}: it lacks the properties {', '.join(sorted(missing))} of Gaussians")

    def read(*names: str) -> Array:
        return np.stack([np.asarray(columns[name], np.float32) for name in names], -1)

    splats = made_of(
        read("x", "y", "z"),
        read("rot_0", "rot_1", "rot_2", "rot_3"),
        read("scale_0", "scale_1", "scale_2"),
        read("opacity")[:, 0],
        0.5 + np.float32(SH_DC) * read("f_dc_0", "f_dc_1", "f_dc_2"),
    )
    rest = sum(name.startswith("f_rest_") for name in columns)
    degree = round((1 + rest / 3) ** 0.5) - 1
    return FileSplats(splats, WORLD if _IN_WORLD in comments else AXES, degree)
