"""Axes of files of Gaussians, and turning Gaussians from one to another without losing a bit.

Axes are three letters, where x, y and z of the file point, seen from the object itself: its Right or Left, Up
or Down, to its Front or Back. V3D's world is `FLU`: x to the front, y to the object's left, z up. `.ply`,
`.splat` and SOG are `RDF`, as 3D Gaussian Splatting trains them; SPZ is `RUB`; glTF is `LUF`.
"""

from __future__ import annotations

from dataclasses import replace

from v3d.errors import V3DError
from v3d.splats.gaussians import Splats

WORLD = "FLU"
"""V3D's world: z up, the object's front towards +x."""

_PAIRS = {"R": 0, "L": 0, "U": 1, "D": 1, "F": 2, "B": 2}


def checked_axes(axes: str) -> str:
    """Axes in capitals.

    Raises:
        V3DError: they are no axes.
    """
    letters = axes.upper()
    if len(letters) != 3 or {_PAIRS.get(letter) for letter in letters} != {0, 1, 2}:
        raise V3DError(
            f"There are no axes {axes!r}: name where x, y and z point, as in RDF (right, down, front), RUB "
            "(right, up, back) or FLU (front, left, up)."
        )
    return letters


def turned(splats: Splats, source: str, target: str) -> Splats:
    """The same Gaussians in other axes.

    Coordinates only change places and signs, those of the scales and of the quaternion's axis with them
    (R S S R' turned by A is A R A' with the scales permuted), so that turning there and back gives the same
    bits. Axes of the other hand are mirrored, as their coordinates are; the object is not.
    """
    if source == target:
        return splats
    places = [next(j for j in range(3) if _PAIRS[source[j]] == _PAIRS[letter]) for letter in target]
    signs = [1.0 if source[j] == letter else -1.0 for j, letter in zip(places, target, strict=True)]
    order = splats.means.new_tensor(signs)
    hand = signs[0] * signs[1] * signs[2] * (1 if places in ([0, 1, 2], [1, 2, 0], [2, 0, 1]) else -1)
    quats = splats.quats.clone()
    quats[:, 1:] = splats.quats[:, [1 + j for j in places]] * (order * hand)
    return replace(
        splats, means=splats.means[:, places] * order, quats=quats, log_scales=splats.log_scales[:, places]
    )
