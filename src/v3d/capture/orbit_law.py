"""Where unposed pictures around an object were taken from: a law of their cameras.

A law says directions and the field of view. The distance is left open, and with it the object's unit: cameras
stand where they see the orbit's world (`v3d.placement.HALF_WIDTH`) from edge to edge. Azimuths are V3D's:
counter-clockwise seen from above, 0 is the photo that the pictures were made from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from v3d.cameras import ORBIT_FOV, Cameras, around
from v3d.errors import V3DError
from v3d.placement import HALF_WIDTH
from v3d.settings import GeneratorName, OrbitSettings

ORTHOGRAPHIC = 2.0
"""Field of view in degrees that stands for parallel rays: sizes change by 3 % over the depth of an object."""


@dataclass(frozen=True)
class OrbitLaw:
    """Directions of n pictures around an object.

    Attributes:
        azimuths: [n] degrees.
        elevations: [n] degrees above the horizon, in (-90, 90).
        fov: full field of view in degrees.
        directed: whether the azimuths' sense is known; otherwise the pictures may go the other way round.
        elevated: whether the elevations are known.
        grid: rows and columns of the one image that the generator writes; None where it writes several.
        sides: names of the pictures' files end with these, in the order of the azimuths; () where the files'
            own order counts.
    """

    azimuths: tuple[float, ...]
    elevations: tuple[float, ...]
    fov: float = ORBIT_FOV
    directed: bool = True
    elevated: bool = True
    grid: tuple[int, int] | None = None
    sides: tuple[str, ...] = ()

    def __len__(self) -> int:
        """n, the number of pictures."""
        return len(self.azimuths)

    @property
    def reversed(self) -> OrbitLaw:
        """The same pictures, taken the other way round."""
        return replace(self, azimuths=tuple(-azimuth % 360 for azimuth in self.azimuths))

    def among(self, chosen: Sequence[int]) -> OrbitLaw:
        """The law of some of the pictures, by their numbers."""
        azimuths, elevations = ([numbers[i] for i in chosen] for numbers in (self.azimuths, self.elevations))
        return replace(self, azimuths=tuple(azimuths), elevations=tuple(elevations), grid=None, sides=())

    def cameras(self, size: int) -> Cameras:
        """The n cameras, with square images of `size` pixels a side."""
        radius = HALF_WIDTH / math.tan(math.radians(self.fov) / 2)
        return around(self.azimuths, size=size, radius=radius, elevation=self.elevations, fov=self.fov)


def _evenly(count: int, elevation: float, fov: float, *, grid: tuple[int, int] | None = None) -> OrbitLaw:
    return OrbitLaw(tuple(360 * i / count for i in range(count)), (elevation,) * count, fov, grid=grid)


_SIX = (30.0, 90.0, 150.0, 210.0, 270.0, 330.0)
_SIDES = ("front", "front_right", "right", "back", "left", "front_left")

# As the programs of these generators lay their pictures out. SV3D's last picture is the photo, whose
# elevation all pictures have; its paper does not say which way it goes round. Wonder3D names sides as the
# viewer sees them.
_LAWS: dict[GeneratorName, OrbitLaw] = {
    "v3d": _evenly(18, 0.0, ORBIT_FOV),
    "sv3d": OrbitLaw(
        tuple(360 * (i + 1) / 21 % 360 for i in range(21)), (10.0,) * 21, 33.8, directed=False, elevated=False
    ),
    "zero123++": OrbitLaw(_SIX, (20.0, -10.0) * 3, 30.0, grid=(3, 2)),
    "zero123++-1.1": OrbitLaw(_SIX, (30.0, -20.0) * 3, 30.0, grid=(3, 2)),
    "syncdreamer": _evenly(16, 30.0, 2 * math.degrees(math.atan(16 / 35)), grid=(1, 16)),
    "wonder3d": OrbitLaw((0.0, 45.0, 90.0, 180.0, 270.0, 315.0), (0.0,) * 6, ORTHOGRAPHIC, sides=_SIDES),
}


def orbit_law(settings: OrbitSettings, count: int | None = None) -> OrbitLaw:
    """The law that the settings describe.

    Args:
        settings: a generator's name, and what differs from its law; without a name, pictures that go once
            around, evenly.
        count: number of pictures, where neither a generator nor azimuths say it.

    Raises:
        V3DError: numbers contradict each other.
    """
    if settings.law is not None:
        law = _LAWS[settings.law]
        if settings.azimuths and len(settings.azimuths) != len(law):
            raise V3DError(
                f"{settings.law} makes {len(law)} pictures; {len(settings.azimuths)} azimuths are given."
            )
    elif settings.azimuths:
        law = OrbitLaw(settings.azimuths, (0.0,) * len(settings.azimuths), elevated=False)
    else:
        if not count:
            raise V3DError("There are no pictures to pose.")
        law = replace(_evenly(count, 0.0, ORBIT_FOV), directed=False, elevated=False)
    if settings.azimuths:
        law = replace(law, azimuths=tuple(float(a) % 360 for a in settings.azimuths))
    elevations = _elevations(settings.elevation, len(law)) or law.elevations
    fov = law.fov if settings.fov is None else settings.fov
    if settings.elevation:
        law = replace(law, elevated=True)
    law = replace(law, elevations=elevations, fov=max(fov, ORTHOGRAPHIC))
    if settings.direction != "auto":
        clockwise = settings.direction == "clockwise"
        law = replace(law.reversed if clockwise else law, directed=True)
    return law


def _elevations(given: Sequence[float], count: int) -> tuple[float, ...]:
    """One elevation a picture from one for all or one for each; () from none.

    Raises:
        V3DError: there is another number of them.
    """
    if len(given) == 1:
        return tuple(given) * count
    if given and len(given) != count:
        raise V3DError(f"{len(given)} elevations are given for {count} pictures; give one, or one for each.")
    return tuple(given)


def parse_grid(text: str | None) -> tuple[int, int] | None:
    """Rows and columns of a text such as 3x2.

    Raises:
        V3DError: it is none.
    """
    if text is None:
        return None
    rows, _, columns = text.lower().partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and 1 <= int(rows) * int(columns) <= 1000):
        raise V3DError(f"--grid {text} is not ROWSxCOLUMNS, for example 3x2.")
    return int(rows), int(columns)
