"""Gaussians in files: `.ply` (the 3D Gaussian Splatting layout) and `.splat` (32 bytes each).

Neither format states its axes. V3D writes its world as it is: **z up**, the object's front towards +x. Viewers
that take y or -y as up show the object lying down; turn it by 90 degrees about x there.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.splats.gaussians import Splats

SH_DC = 0.28209479177387814  # the constant spherical harmonic: rgb = 0.5 + SH_DC * f_dc

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
_SPLAT = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def save_ply(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write the standard 3DGS layout, binary little-endian float32.

    Properties: x y z, nx ny nz (zero), f_dc_0..2 ((rgb - 0.5) / SH_DC), opacity (logit), scale_0..2 (natural
    logarithm), rot_0..3 (unit wxyz).
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
            _unit(splats.quats),
        ],
        dim=-1,
    )
    with atomic(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + _numpy(rows).astype("<f4").tobytes())


def load_ply(path: str | os.PathLike[str]) -> Splats:
    """Read a 3DGS `.ply` (binary little-endian). Spherical harmonics above degree 0 are left out.

    Raises:
        V3DError: the file is not such a file, or is cut short.
    """
    data = _read(path)
    header, found, body = data.partition(b"end_header\n")
    lines = [line.split() for line in header.decode("latin-1").replace("\r", "").splitlines()]
    if (
        not found
        or not lines
        or lines[0] != ["ply"]
        or ["format", "binary_little_endian", "1.0"] not in lines
    ):
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
    missing = set(_PLY_FIELDS) - {"nx", "ny", "nz"} - {name for name, _ in columns}
    if missing:
        raise V3DError(f"{path} holds no Gaussians: it lacks the properties {', '.join(sorted(missing))}.")
    layout, count = np.dtype(columns), lines[start][2]
    if not count.isdigit() or len(body) < int(count) * layout.itemsize:
        raise V3DError(f"{path} is cut short.")
    rows = np.frombuffer(body, layout, int(count))

    def read(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([rows[name].astype(np.float32) for name in names], -1))

    return Splats(
        means=read("x", "y", "z"),
        quats=read("rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales=read("scale_0", "scale_1", "scale_2"),
        logit_opacity=read("opacity")[:, 0],
        rgb=0.5 + SH_DC * read("f_dc_0", "f_dc_1", "f_dc_2"),
    )


def save_splat(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write the `.splat` layout of web viewers: 32 bytes a Gaussian, the most important first.

    float32 position[3], float32 standard deviation[3], uint8 r g b opacity, uint8 rotation wxyz (128 + 128 q).
    Importance is volume times opacity, so that a viewer that streams shows the large parts first.
    """
    importance = splats.log_scales.sum(-1).exp() * splats.opacity
    splats = splats[importance.argsort(descending=True, stable=True)]
    rows = np.empty(len(splats), _SPLAT)
    rows["position"], rows["scale"] = _numpy(splats.means), _numpy(splats.scales)
    rows["rgba"] = _bytes(torch.cat([splats.rgb, splats.opacity[:, None]], -1) * 255)
    rows["rotation"] = _bytes(_unit(splats.quats) * 128 + 128)
    with atomic(path) as temporary:
        temporary.write_bytes(rows.tobytes())


def load_splat(path: str | os.PathLike[str]) -> Splats:
    """Read a `.splat` file. Colour, opacity and rotation come back in 8 bits.

    Raises:
        V3DError: the file's length is not a whole number of Gaussians.
    """
    data = _read(path)
    if len(data) % _SPLAT.itemsize:
        raise V3DError(f"{path} is not a whole .splat file: its length is no multiple of 32 bytes.")
    rows = np.frombuffer(data, _SPLAT)
    rgba = torch.from_numpy(rows["rgba"].astype(np.float32)) / 255
    return Splats(
        means=torch.from_numpy(rows["position"].astype(np.float32)),
        quats=_unit(torch.from_numpy(rows["rotation"].astype(np.float32)) - 128),
        log_scales=torch.from_numpy(rows["scale"].astype(np.float32)).clamp_min(1e-12).log(),
        logit_opacity=rgba[:, 3].clamp(0.5 / 255, 1 - 0.5 / 255).logit(),
        rgb=rgba[:, :3],
    )


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise V3DError(f"Cannot read {path}: {error.strerror}.") from error


def _unit(quats: Tensor) -> Tensor:
    return torch.nn.functional.normalize(quats, dim=-1)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def _bytes(x: Tensor) -> np.ndarray:
    return _numpy(x.round().clamp(0, 255).to(torch.uint8))
