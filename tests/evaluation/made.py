"""What tests of generation share: a generator made of a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from v3d.diffusion.photos import OrbitPhotos
from v3d.views import Views


@dataclass
class Made:
    """Draws orbits by `draw`."""

    draw: Callable[..., Views]
    agrees_in_colour: bool = True

    def __call__(self, photos: OrbitPhotos, *, seed: int, steps: int | None, guidance: float | None) -> Views:
        return self.draw(photos, seed=seed, steps=steps, guidance=guidance)
