"""The options of `v3d render` and `v3d render-scenes`. (Imports nothing heavy.)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from v3d.checks import COUNT, ELEVATION, NOT_NEGATIVE, POSITIVE, SHARE, SMALL_SEED, check_numbers, whole


@dataclass(frozen=True)
class RenderSettings:
    """Which objects become orbits, seen how, and in what files.

    Attributes:
        rounds: random variants of every object.
        views: images of an orbit; the orbit model trains on 18.
        around: further images, from random directions above, below and beside: PixelNeRF learns tops and
            undersides from them.
        elevation: lowest and highest elevation in degrees; drawn once an orbit.
        cameras: "orbit" stands them evenly on a circle, "random" puts all but the first anywhere around the
            object, each at an elevation of its own.
        appearance: "random" draws front, light, mirroring, proportions and colours; "plain" keeps the object
            as it is, seen from its front.
        combined: share of the orbits that show two objects together, one on top of the other or beside it.
        light: "random" (with random appearance), "soft" for one mild light, "none" for the bare texture.
        size: pixels of a view's side.
        depth, normal: also keep camera z and world normals.
        format: "shards" (safetensors), "tar" (WebDataset), "folders" (PNG and transforms.json).
        per_shard: orbits of a shard.
        index: JSON list with `id`, `split`, `licence` of objects that come without them (packed corpora).
        split: only objects of this split; "all" takes every one.
        untextured: take objects without colours, in grey.
        seed: of every random choice.
    """

    rounds: int = 1
    views: int = 18
    around: int = 0
    elevation: tuple[float, float] = (0.0, 0.0)
    cameras: Literal["orbit", "random"] = "orbit"
    appearance: Literal["random", "plain"] = "random"
    combined: float = 0.0
    light: Literal["random", "soft", "none"] = "random"
    size: int = 128
    depth: bool = False
    normal: bool = False
    format: Literal["shards", "tar", "folders"] = "shards"
    per_shard: int = 64
    index: Path | None = None
    split: str = "all"
    untextured: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(
            self,
            rounds=COUNT,
            views=whole(1, 10_000),
            around=whole(0, 10_000),
            elevation=ELEVATION,
            combined=SHARE,
            size=whole(4, 8192),
            per_shard=COUNT,
            seed=SMALL_SEED,
        )


@dataclass(frozen=True)
class RenderScenesSettings:
    """Which objects become scenes, and how many.

    Attributes:
        scenes: how many.
        views: images of a scene's clip.
        size: pixels of a view's side, a multiple of 4.
        per_shard: scenes of a shard.
        index: JSON list with `id`, `split`, `licence` of objects that come without them (packed corpora).
        split: only objects of this split; "all" takes every one.
        untextured: take objects without colours, in grey.
        seed: of every random choice.
    """

    scenes: int = 100
    views: int = 16
    size: int = 128
    per_shard: int = 50
    index: Path | None = None
    split: str = "all"
    untextured: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(
            self,
            scenes=COUNT,
            views=whole(1, 10_000),
            size=whole(4, 8192),
            per_shard=COUNT,
            seed=SMALL_SEED,
        )


@dataclass(frozen=True)
class FreshOrbits:
    """Orbits that are rendered while a network trains on them, instead of shards on disk.

    Attributes:
        meshes: mesh files, folders, manifests (.json), packed corpora (.npz); none of them: train on `data`.
        index: JSON list with `id`, `split`, `licence` of objects that come without them (packed corpora).
        split: only objects of this split; "all" takes every one.
        untextured: take objects without colours, in grey.
        procedural: share of the orbits whose object is made up (`v3d make-objects`).
        combined: share of the orbits that show two objects together, one on top of the other or beside it.
        tilted: share of the orbits whose photo is taken from another height: the object leans towards it.
        elevations: lowest and highest elevation of those photos, in degrees.
        first_orbits: rendered before the first step.
        orbits_per_step: new ones in every step, on average; steps wait for them.
        orbit_gigabytes: memory of the training device that orbits fill; then the newest replace the oldest.
    """

    meshes: tuple[Path, ...] = ()
    index: Path | None = None
    split: str = "all"
    untextured: bool = False
    procedural: float = 0.3
    combined: float = 0.12
    tilted: float = 0.4
    elevations: tuple[float, float] = (-10.0, 40.0)
    first_orbits: int = 200
    orbits_per_step: float = 0.5
    orbit_gigabytes: float = 2.0

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(
            self,
            procedural=SHARE,
            combined=SHARE,
            tilted=SHARE,
            elevations=ELEVATION,
            first_orbits=COUNT,
            orbits_per_step=NOT_NEGATIVE,
            orbit_gigabytes=POSITIVE,
        )

    def rendered_by(self, step: int) -> int:
        """Orbits that step number `step` (from 0) waits for: how far rendering must have come."""
        return self.first_orbits + int(step * self.orbits_per_step)
