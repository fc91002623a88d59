"""Photos of test objects, as users give them: each cut to its own framing, so that their scales are lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from v3d.cameras import around
from v3d.diffusion.photos import OrbitPhotos, check_sides
from v3d.errors import V3DError
from v3d.evaluation.protocol import ObjectProtocol
from v3d.evaluation.testset import TestObject
from v3d.framing import frame_photo, photo_of
from v3d.surface.registration import register_photos
from v3d.views import Views, straight_rgba

SIDES = {"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0}
"""Side of an object -> azimuth of its photo, degrees. So many photos are of the first so many sides."""


@dataclass(frozen=True)
class TruePhotos:
    """Photos of one object from the height of its true orbit.

    Attributes:
        item: the object.
        protocol: places it, lights it, and says from which height it is seen.
        truth: its true orbit.
    """

    item: TestObject
    protocol: ObjectProtocol
    truth: Views

    def __call__(self, count: int) -> OrbitPhotos:
        """Photos of the first `count` of `SIDES`, registered as the product does.

        A single photo is the orbit's own first view, framed at its size. Several are rendered at twice that
        size, since their registration reads outlines, and are of 8 bits.

        Raises:
            V3DError: a side shows nothing, or the photos do not fit together.
        """
        elevation = self.protocol.elevation
        if count == 1:
            return OrbitPhotos((photo_of(self.truth),), elevation=elevation)
        azimuths = tuple(SIDES.values())[:count]
        images = straight_rgba(self._sides.rgb[:count], self._sides.alpha[:count]).float() / 255
        framed = [frame_photo(image) for image in images]
        registered = register_photos(framed, azimuths, elevation=elevation)
        return OrbitPhotos(registered.photos, azimuths, elevation)

    @cached_property
    def _sides(self) -> Views:
        cameras = around(
            tuple(SIDES.values()), size=2 * self.protocol.size, elevation=self.protocol.elevation
        )
        return self.protocol.true_views(self.item, cameras)


def check_photos(counts: Sequence[int], elevation: float) -> None:
    """See that orbits can be generated from so many photos, each number a case, from this height.

    Raises:
        V3DError: no number is given, one is out of range, or the elevation is.
    """
    if not counts or not all(1 <= count <= len(SIDES) for count in counts):
        raise V3DError(f"Give --photos numbers from 1 to {len(SIDES)}: {', '.join(SIDES)}, in this order.")
    check_sides((0.0,), elevation)
