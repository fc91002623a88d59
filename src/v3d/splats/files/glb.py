"""Gaussians as glTF: `.glb` with the extension KHR_gaussian_splatting, in glTF's own axes (`LUF`).

Programs that do not know the extension show coloured points.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from v3d.errors import V3DError
from v3d.meshes.gltf import ARRAY_BUFFER, GltfBuffer
from v3d.meshes.reading.gltf_document import GltfDocument
from v3d.meshes.reading.gltf_scene import places_of
from v3d.splats.files.axes import WORLD, turned
from v3d.splats.files.encoding import (
    SH_DC,
    Array,
    FileSplats,
    check_count,
    made_of,
    to_numpy,
    unit_quaternions,
)
from v3d.splats.gaussians import Splats, cat_splats, rotations

AXES = "LUF"
_NAME = "KHR_gaussian_splatting"
_WITHIN = 1e-6  # opacities of 0 and 1 stand this far from there


def save_splats_glb(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write one primitive of points with rotations xyzw, scales and opacities (both linear), and colours.

    Raises:
        V3DError: there are no Gaussians, or the file cannot be written.
    """
    if len(splats) == 0:
        raise V3DError("There are no Gaussians, so there is nothing to save.")
    splats = turned(splats, WORLD, AXES)
    buffer = GltfBuffer()
    opacity = splats.opacity[:, None]
    encoded = splats.rgb.clamp(0, 1)  # what programs show that know no Gaussians, in linear light
    linear = torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    arrays = {
        "POSITION": splats.means,
        f"{_NAME}:ROTATION": unit_quaternions(splats.quats)[:, [1, 2, 3, 0]],
        f"{_NAME}:SCALE": splats.scales,
        f"{_NAME}:OPACITY": splats.opacity,
        f"{_NAME}:SH_DEGREE_0_COEF_0": (splats.rgb - 0.5) / SH_DC,
        "COLOR_0": torch.cat([linear, opacity], -1),
    }
    attributes = {
        name: buffer.add_accessor(to_numpy(x).astype(np.float32), ARRAY_BUFFER, bounds=name == "POSITION")
        for name, x in arrays.items()
    }
    about = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    about |= {"projection": "perspective", "sortingMethod": "cameraDistance"}
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "V3D"},
        "extensionsUsed": [_NAME],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "splats"}],
        "meshes": [
            {
                "name": "splats",
                "primitives": [{"mode": 0, "attributes": attributes, "extensions": {_NAME: about}}],
            }
        ],
    }
    buffer.save(path, document)


def read_splats_gltf(path: Path) -> FileSplats:
    """The Gaussians of a `.glb` or `.gltf` file as its scene places them.

    Raises:
        V3DError: it has none, is broken, or holds them in a way that V3D does not read.
    """
    document = GltfDocument(path)
    parts, degree, notes = [], 0, []
    total = 0
    for node, place in places_of(document).items():
        entry = document.item("nodes", node)
        primitives = document.item("meshes", entry["mesh"])["primitives"] if "mesh" in entry else []
        for primitive in primitives:
            about = (primitive.get("extensions") or {}).get(_NAME)
            if about is None:
                continue
            if about.get("extensions"):
                raise V3DError(
                    f"its Gaussians are packed by {sorted(about['extensions'])[0]}; save them plainly"
                )
            if about.get("colorSpace") == "lin_rec709_display":
                notes.append("Its colours are of linear light and were encoded as sRGB.")
            part, found = _part(document, primitive["attributes"], about.get("colorSpace"))
            total = check_count(total + len(part))
            parts.append(_placed(part, place))
            degree = max(degree, found)
    if not parts:
        raise V3DError(f"it holds no Gaussians (no primitive with {_NAME}); as a mesh V3D reads it")
    return FileSplats(cat_splats(parts), AXES, degree, tuple(dict.fromkeys(notes)))


def _part(document: GltfDocument, attributes: dict[str, Any], space: str | None) -> tuple[Splats, int]:
    """The Gaussians of a primitive, and the degree of its spherical harmonics."""

    def array(name: str, width: int) -> Array:
        values = document.array(attributes.get(name, attributes.get(f"{_NAME}:{name}")))
        if values.shape[1] != width:
            raise V3DError(f"its {name} has {values.shape[1]} components instead of {width}")
        return values

    arrays = [array(n, w) for n, w in (("POSITION", 3), ("ROTATION", 4), ("SCALE", 3), ("OPACITY", 1))]
    means, turns, scales, opacity = arrays
    rgb = 0.5 + SH_DC * array("SH_DEGREE_0_COEF_0", 3)
    if len({len(values) for values in (*arrays, rgb)}) > 1:
        raise V3DError("its attributes are of different lengths")
    if space == "lin_rec709_display":
        linear = np.clip(rgb, 0, None)
        rgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    inside = np.clip(opacity[:, 0].astype(np.float64), _WITHIN, 1 - _WITHIN)
    log_scales = np.log(np.maximum(scales, 1e-12))
    splats = made_of(means, turns[:, [3, 0, 1, 2]], log_scales, np.log(inside / (1 - inside)), rgb)
    degree = max(k for k in range(4) if k == 0 or f"{_NAME}:SH_DEGREE_{k}_COEF_0" in attributes)
    return splats, degree


def _placed(splats: Splats, place: Array) -> Splats:
    """Gaussians moved by a matrix [4, 4], which may also scale, shear and mirror them."""
    if np.array_equal(place, np.eye(4)) or len(splats) == 0:
        return splats
    matrix = torch.from_numpy(place[:3, :3].astype(np.float64))
    if not bool(torch.isfinite(matrix).all()):
        raise V3DError("a node of it stands nowhere: its matrix is not finite")
    half = matrix @ rotations(splats.quats.double()) @ torch.diag_embed(splats.scales.double())
    turns, scales, _ = torch.linalg.svd(half.nan_to_num())
    turns = turns * torch.linalg.det(turns).sign()[:, None, None]
    quats = Rotation.from_matrix(turns.numpy()).as_quat()[:, [3, 0, 1, 2]]
    means = splats.means.double() @ matrix.T + torch.from_numpy(place[:3, 3].astype(np.float64))
    return replace(
        splats,
        means=means.float(),
        quats=torch.from_numpy(quats).float(),
        log_scales=scales.clamp_min(1e-12).log().float(),
    )
