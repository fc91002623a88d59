"""Gaussians as `.ply`, in the layout of 3D Gaussian Splatting.

Neither `.ply` nor `.splat` states its axes. V3D writes its world as it is: **z up**, the object's front
towards +x. Viewers that take y or -y as up show the object lying down; turn it by 90 degrees about x there.
"""

from __future__ import annotations

import os
import re

import numpy as np
import torch
from torch import Tensor

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.splats.files.encoding import read_bytes, to_numpy, unit_quaternions
from v3d.splats.gaussians import Splats

SH_DC = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi)): rgb = 0.5 + SH_DC * f_dc."""

_PLY_FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacity",
    *("scale_0", "scale_1", "scale_2"),
    *("rot_0", "rot_1", "rot_2", "rot_3"),
)
_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}


def save_ply(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write the standard 3DGS layout, binary little-endian float32.

    Properties: x y z, nx ny nz (zero), f_dc_0..2 ((rgb - 0.5) / SH_DC), opacity (logit), scale_0..2 (natural
    logarithm), rot_0..3 (unit wxyz).

    Raises:
        V3DError: the file cannot be written.
    """
    header = ["ply", "format binary_little_endian 1.0", "comment V3D: z up, front towards +x"]
    header += [
        f"element vertex {len(splats)}",
        *(f"property float {name}" for name in _PLY_FIELDS),
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
    """Read a 3DGS `.ply` (binary little-endian). Spherical harmonics above degree 0 are left out.

    Raises:
        V3DError: the file cannot be read, is not such a file, or is cut short.
    """
    header, *rest = re.split(rb"end_header\r?\n", read_bytes(path), maxsplit=1)
    lines = [line.split() for line in header.decode("latin-1").splitlines()]
    if not rest or not lines or lines[0] != ["ply"] or ["format", "binary_little_endian", "1.0"] not in lines:
        raise V3DError(f"{path} is not a binary little-endian PLY file.")
    start = next((i for i, line in enumerate(lines) if line[:2] == ["element", "vertex"]), None)
    before = lines[:start] if start is not None else []
    if start is None or any(line[:1] == ["element"] for line in before):
        raise V3DError(f"{path} holds no Gaussians: its first element is not `vertex`.")
    columns = []
    for line in lines[start + 1 :]:
        if line[:1] == ["element"]:
            break
        if line[:1] == ["property"]:
            if len(line) != 3 or line[1] not in _PLY_TYPES:
                raise V3DError(f"{path} holds no Gaussians: property {' '.join(line[1:])} is no number.")
            columns.append((line[2], "<" + _PLY_TYPES[line[1]]))
    names = {name for name, _ in columns}
    missing = set(_PLY_FIELDS) - {"nx", "ny", "nz"} - names
    if missing:
        raise V3DError(f"{path} holds no Gaussians: it lacks the properties {', '.join(sorted(missing))}.")
    if len(names) < len(columns):
        raise V3DError(f"{path} is broken: two of its properties have the same name.")
    layout, count = np.dtype(columns), " ".join(lines[start][2:])
    if not count.isdecimal():
        raise V3DError(f"{path} is broken: its number of Gaussians is stated as {count!r}.")
    if len(rest[0]) < int(count) * layout.itemsize:
        raise V3DError(f"{path} is cut short.")
    rows = np.frombuffer(rest[0], layout, int(count))

    def read(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([rows[name].astype(np.float32) for name in names], -1))

    return Splats(
        means=read("x", "y", "z"),
        quats=read("rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales=read("scale_0", "scale_1", "scale_2"),
        logit_opacity=read("opacity")[:, 0],
        rgb=0.5 + SH_DC * read("f_dc_0", "f_dc_1", "f_dc_2"),
    )
