"""Size and place of a mesh: `80mm` long, standing on z = 0."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Literal

from v3d.errors import V3DError
from v3d.meshes.mesh import Mesh

_UNITS = {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "in": 0.0254, "ft": 0.3048}


def metres(size: str) -> float:
    """A length with its unit, such as 80mm, 12 cm, 0.3m, 5in or 1ft, in metres.

    Raises:
        V3DError: it is no length between a thousandth of a millimetre and 100 km, or has no unit.
    """
    match = re.fullmatch(r"\s*([0-9]*[.,]?[0-9]+)\s*([a-z]*)\s*", size.lower())
    if match is None:
        raise V3DError(f"The size {size!r} is no length; write 80mm, 12cm, 0.3m or 5in.")
    if match[2] not in _UNITS:
        unit = f"has the unknown unit {match[2]}" if match[2] else "has no unit"
        raise V3DError(f"The size {size!r} {unit}; write 80mm, 12cm, 0.3m or 5in.")
    length = float(match[1].replace(",", ".")) * _UNITS[match[2]]
    if not (1e-6 <= length <= 1e5 and math.isfinite(length)):
        raise V3DError(f"The size {size!r} is none that a thing can have; write 80mm, 12cm, 0.3m or 5in.")
    return length


def scaled(mesh: Mesh, longest: float) -> Mesh:
    """The mesh with the longest side of its box `longest` metres long."""
    sides = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    return replace(mesh, vertices=mesh.vertices * (longest / float(sides.max().clamp_min(1e-9))))


def with_origin(mesh: Mesh, origin: Literal["centre", "base"]) -> Mesh:
    """The mesh moved so that the centre of its box, or of its box's bottom, is the origin."""
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    at = (low + high) / 2
    if origin == "base":
        at[2] = low[2]
    return replace(mesh, vertices=mesh.vertices - at)
