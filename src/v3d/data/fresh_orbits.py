"""Orbits by number, for networks that train while they are rendered: number and seed decide everything.

Each is one row of bytes, which goes from a worker's shared memory to the training device as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from v3d.cameras import ORBIT_VIEWS, cat_cameras, orbit
from v3d.data.corpus import CorpusObject
from v3d.data.filters import fault
from v3d.data.procedural.make import procedural_object
from v3d.data.random_numbers import integer, uniform
from v3d.data.records import OrbitRecord, on_white
from v3d.data.render_orbits import render_placed, with_partner
from v3d.data.settings import FreshOrbits
from v3d.data.sources import Source
from v3d.data.variants import around, placed_mesh, random_variant, seen_from
from v3d.errors import V3DError
from v3d.framing import visible_box

_ATTEMPTS = 30  # objects that may fail for one orbit
_NEAR, _PER_UNIT = 1.0, 127.0  # of depths as bytes: 1 is _NEAR, 255 is 2 units farther, 0 is unknown
_PROCEDURAL = 1 << 40  # procedural objects there are


@dataclass(frozen=True)
class PackedOrbits:
    """Orbits [...] of V views of S pixels a side.

    Attributes:
        c2w: [..., V, 4, 4] of the views; those of the orbit come first, the front before all.
        K: [..., V, 3, 3] intrinsics in units of the image's side.
        box: [..., V, 4] left, top, right, bottom (exclusive) of the object in pixels, of an empty view the
            whole.
        images: uint8 [..., V, S, S, 4] colour on white, then alpha.
        depth: uint8 [..., V, S, S], see `depth_of_bytes`.
        photo: uint8 [..., S, S, 4] the front, framed as photos are: colour on white, then alpha.
    """

    c2w: Tensor
    K: Tensor
    box: Tensor
    images: Tensor
    depth: Tensor
    photo: Tensor


@dataclass(frozen=True)
class OrbitLayout:
    """Where each part of an orbit lies in its row of bytes.

    Attributes:
        size: pixels of a view's side, a multiple of 2.
        views: of an orbit and from around it.
    """

    size: int
    views: int

    @property
    def parts(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of each field of `PackedOrbits`; floats come first, so that all are aligned."""
        V, S = self.views, self.size
        return {
            "c2w": (torch.float32, (V, 4, 4)),
            "K": (torch.float32, (V, 3, 3)),
            "box": (torch.float32, (V, 4)),
            "images": (torch.uint8, (V, S, S, 4)),
            "depth": (torch.uint8, (V, S, S)),
            "photo": (torch.uint8, (S, S, 4)),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of an orbit, a multiple of 4."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.parts.values())

    def unpack(self, rows: Tensor) -> PackedOrbits:
        """The orbits in rows of bytes, uint8 [..., nbytes], as views of the same memory."""
        parts, at = {}, 0
        for name, (dtype, shape) in self.parts.items():
            end = at + dtype.itemsize * math.prod(shape)
            parts[name] = rows[..., at:end].view(dtype).unflatten(-1, shape)
            at = end
        return PackedOrbits(**parts)


def depth_of_bytes(depth: Tensor) -> Tensor:
    """Camera depth in units of the world, 0 where unknown, of bytes as `PackedOrbits` keeps them."""
    return torch.where(depth > 0, (depth.float() - 1) / _PER_UNIT + _NEAR, 0.0)


@dataclass(frozen=True)
class OrbitJob:
    """What orbits are rendered; `render(number)` is a function of nothing else.

    Attributes:
        sources: the objects.
        settings: shares of what is made of them.
        size: pixels of a view's side, a multiple of 2.
        kept: views of the 18 that are rendered: the front, and others at random; 18 keep their order.
        around: further views from random directions.
        seed: of every random choice.
    """

    sources: tuple[Source, ...]
    settings: FreshOrbits
    size: int
    kept: int
    around: int
    seed: int

    @property
    def layout(self) -> OrbitLayout:
        """Of the rows that `render` returns."""
        return OrbitLayout(self.size, self.kept + self.around)

    def render(self, number: int) -> tuple[Tensor, list[str]]:
        """Orbit `number` as a row of bytes, and what was said of objects that failed before one did not.

        Raises:
            V3DError: none of many objects could be rendered.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        failures: list[str] = []
        for _ in range(_ATTEMPTS):
            source = self.sources[integer(generator, 0, len(self.sources))]
            made = uniform(generator, 0, 1) < self.settings.procedural
            try:
                item = self._procedural(generator) if made else self._load(source)
                return self._pack(self._render(item, generator)), failures
            except Exception as error:  # whatever is wrong with one object must not end a run
                failures.append(f"{'a procedural object' if made else source.id}: {error}")
        raise V3DError(f"No orbit could be rendered: {_ATTEMPTS} objects in turn failed, {failures[-1]}.")

    def _procedural(self, generator: torch.Generator) -> CorpusObject:
        return CorpusObject("procedural", procedural_object(integer(generator, 0, _PROCEDURAL)), False)

    def _load(self, source: Source) -> CorpusObject:
        item = source.load()
        reason = fault(item.mesh, untextured=self.settings.untextured)
        if reason:
            raise V3DError(reason)
        return item

    def _render(self, item: CorpusObject, generator: torch.Generator) -> OrbitRecord:
        """One orbit of an object in a random variant."""
        settings = self.settings
        if uniform(generator, 0, 1) < settings.combined:
            item, _ = with_partner(item, "", self.sources, generator)
        variant = random_variant(generator)
        if uniform(generator, 0, 1) < settings.tilted:
            variant = seen_from(variant, uniform(generator, *settings.elevations))
        cameras = orbit(ORBIT_VIEWS, size=self.size)
        placed = replace(item, mesh=placed_mesh(item.mesh, variant, cameras))
        if self.kept < ORBIT_VIEWS:
            others = 1 + torch.randperm(ORBIT_VIEWS - 1, generator=generator)[: self.kept - 1]
            cameras = cameras[[0, *others.tolist()]]
        if self.around:
            cameras = cat_cameras([cameras, around(self.around, self.size, generator)])
        return render_placed(placed, "", cameras, variant.light, depth=True)

    def _pack(self, record: OrbitRecord) -> Tensor:
        views, depth = record.views, record.depth
        assert depth is not None
        row = torch.empty(self.layout.nbytes, dtype=torch.uint8)
        packed = self.layout.unpack(row)
        packed.c2w.copy_(views.cameras.c2w)
        packed.K.copy_(views.cameras.resized(1, 1).K)
        packed.images.copy_(_bytes(torch.cat([views.rgb, views.alpha[..., None]], -1)))
        visible = packed.images[..., 3] / 255
        packed.box.copy_(torch.tensor([_box(alpha) for alpha in visible]))
        quantised = (depth - _NEAR) * _PER_UNIT + 1.5  # rounded, not cut
        packed.depth.copy_(torch.where(visible > 0.5, quantised.clamp(1, 255), 0.0))
        packed.photo.copy_(_bytes(on_white(record.photo)))
        return row


def _box(alpha: Tensor) -> tuple[int, int, int, int]:
    return visible_box(alpha) if bool((alpha > 0.5).any()) else (0, 0, alpha.shape[1], alpha.shape[0])


def _bytes(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
