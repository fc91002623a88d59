"""Whether a mesh can be printed, and what to do where it cannot."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from v3d.finishing.rays import RayGrid
from v3d.finishing.solids import contact_area
from v3d.finishing.surface_checks import SurfaceCheck, check_surface
from v3d.meshes.mesh import Mesh

THIN = 0.8
"""Millimetres: two lines of a common 0.4 mm nozzle; walls below print badly."""
STEEP = 45.0
"""Degrees from upright that a face may lean outward before it needs support."""
_SAMPLES = 20_000
_BED = 0.3  # mm: a first layer's height


@dataclass(frozen=True)
class PrintReport:
    """What a printer wants to know of a mesh.

    Attributes:
        size_mm: along x, y and z.
        volume_cm3: enclosed, as if filled; None where the surface is not closed.
        surface: what keeps the surface from enclosing a solid.
        thinnest_mm: a hundredth of the surface has a wall behind it that is thinner than this; None where no
            wall is found.
        overhang: share of the surface that leans outward more than 45 degrees and does not lie on the bed.
        overhang_where: where most of that is, in words; "" where there is none.
        contact_mm2: area that lies on the bed.
        advice: one sentence for each fault, and what to do about it.
    """

    size_mm: tuple[float, float, float]
    volume_cm3: float | None
    surface: SurfaceCheck
    thinnest_mm: float | None
    overhang: float
    overhang_where: str
    contact_mm2: float
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, lengths rounded to a hundredth of a millimetre."""
        surface = {name: n for name, n in asdict(self.surface).items() if name != "volume"}
        volume = self.volume_cm3
        return {
            "size_mm": [round(side, 2) for side in self.size_mm],
            "volume_cm3": None if volume is None else round(volume, 3),
            "watertight": self.surface.watertight,
            **surface,
            "thinnest_mm": None if self.thinnest_mm is None else round(self.thinnest_mm, 2),
            "overhang": round(self.overhang, 4),
            "overhang_where": self.overhang_where,
            "contact_mm2": round(self.contact_mm2, 1),
            "advice": list(self.advice),
        }


def report_print(mesh: Mesh) -> PrintReport:
    """Measure a mesh in metres that has faces with an area; z is up, its lowest point lies on the bed."""
    surface = check_surface(mesh)
    sides = ((mesh.vertices.amax(0) - mesh.vertices.amin(0)) * 1000).tolist()
    thinnest, thin_share = _walls(mesh)
    share, where = _overhangs(mesh)
    contact = contact_area(mesh, _BED / 1000) * 1e6
    return PrintReport(
        size_mm=(sides[0], sides[1], sides[2]),
        volume_cm3=None if surface.volume is None else surface.volume * 1e6,
        surface=surface,
        thinnest_mm=thinnest,
        overhang=share,
        overhang_where=where,
        contact_mm2=contact,
        advice=(
            *_advice_on_surface(surface),
            *_advice_on_shape(sides, thinnest, thin_share, share, where, contact),
        ),
    )


def _walls(mesh: Mesh) -> tuple[float | None, float]:
    """The wall, in mm, that a hundredth of the surface is thinner than, and the share thinner than `THIN`.

    From points spread evenly over the surface rays go straight in, to where they come out again.
    """
    area = mesh.face_areas.double().numpy()
    # A fixed seed: the same mesh gets the same report.
    chance = np.random.default_rng(0)
    face = chance.choice(len(area), _SAMPLES, p=area / area.sum())
    u, v = chance.random((2, _SAMPLES))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    corners = mesh.vertices.double().numpy()[mesh.faces.numpy()[face]]
    weights = np.stack([1 - u - v, u, v], 1)
    inward = -mesh.face_normals.double().numpy()[face]
    start = (corners * weights[..., None]).sum(1) + inward * 1e-6
    hits = RayGrid(mesh).first_hits(start, inward)
    if not hits.found.any():
        return None, 0.0
    wall = (hits.distance[hits.found] + 1e-6) * 1000
    return float(np.quantile(wall, 0.01)), float((wall < THIN).sum() / _SAMPLES)


def _overhangs(mesh: Mesh) -> tuple[float, str]:
    """Share of the surface that leans outward too far above the bed, and where most of it is."""
    corners = mesh.vertices.double().numpy()[mesh.faces.numpy()] * 1000
    low, high = corners.min((0, 1)), corners.max((0, 1))
    area = mesh.face_areas.double().numpy()
    # A face that leans outward by 45 degrees has its normal 45 degrees below the horizon.
    leaning = mesh.face_normals.double().numpy()[:, 2] < -math.sin(math.radians(STEEP)) - 1e-6
    leaning &= corners[..., 2].max(1) > low[2] + _BED
    share = float(area[leaning].sum() / area.sum())
    if share == 0:
        return 0.0, ""
    centre, weight = corners[leaning].mean(1), area[leaning]
    order = np.argsort(centre[:, 2])
    along = weight[order].cumsum() / weight.sum()
    heights = [centre[order, 2][min(np.searchsorted(along, q), len(order) - 1)] - low[2] for q in (0.1, 0.9)]
    x, y = ((centre * weight[:, None]).sum(0) / weight.sum() - (low + high) / 2)[:2]
    return share, f"{heights[0]:.0f} to {heights[1]:.0f} mm above the bed, {_side(x, y, high - low)}"


def _side(x: float, y: float, size: NDArray[np.float64]) -> str:
    """Where a point beside the middle is, in words."""
    if abs(x) < 0.1 * size[0] and abs(y) < 0.1 * size[1]:
        return "all around"
    if abs(x) > abs(y):
        return "at the front" if x > 0 else "at the back"
    return "on its left" if y > 0 else "on its right"


def _advice_on_surface(surface: SurfaceCheck) -> list[str]:
    advice = []
    if surface.open_edges:
        advice.append(
            f"The surface has {_count(surface.holes, 'hole')} ({surface.open_edges} open edges), so it has "
            "no inside; close it, for example with Make Manifold of Blender's 3D-Print Toolbox."
        )
    if surface.branching_edges:
        advice.append(
            f"{_count(surface.branching_edges, 'edge')} with more than two faces; unite the pieces that "
            "touch there into one solid."
        )
    if surface.flipped_faces:
        advice.append(
            f"{_count(surface.flipped_faces, 'face')} inside out; recalculate the normals to the outside "
            "(Blender: Shift N)."
        )
    if surface.crossings:
        advice.append(
            f"Faces go through each other in {_count(surface.crossings, 'place')}; slicers mostly unite "
            "them, but look at the sliced layers there."
        )
    if surface.floating:
        advice.append(
            f"{surface.floating} of {_count(surface.parts, 'part')} stand on nothing; add supports or remove "
            "them."
        )
    elif surface.parts > 1:
        advice.append(f"It prints as {surface.parts} separate parts; join them if it should be one.")
    return advice


def _advice_on_shape(
    sides: list[float], thinnest: float | None, thin: float, share: float, where: str, contact: float
) -> list[str]:
    advice = []
    if thinnest is not None and thinnest < THIN:
        larger = math.ceil(round(max(sides) * THIN / thinnest, 1))
        advice.append(
            f"The thinnest walls are {thinnest:.2f} mm ({thin:.0%} of the surface is below {THIN:g} mm, two "
            f"lines of a 0.4 mm nozzle); print it larger (--size {larger}mm), or use a finer one."
        )
    if share > 0.01:
        advice.append(
            f"{share:.0%} of the surface leans outward more than {STEEP:g} degrees, mostly {where}; turn "
            "supports on in the slicer."
        )
    if contact < 0.02 * sides[0] * sides[1]:
        advice.append(
            f"Only {contact:.0f} mm2 lie on the bed; print with a brim, or cut a flat base (--base cut)."
        )
    return advice


def _count(number: int, what: str) -> str:
    """1 hole, 2 holes."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
