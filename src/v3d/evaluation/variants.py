"""What an ablation varies: a base and its variants, each another in one thing.

Two halves, each with a base and a table of its own. A `GenerationChoice` is a way to generate the orbit of
the photo (weights, guidance, sampler, steps), a `BuildChoice` a way to make an asset of views (how many,
carving, perceptual loss, texture refinement).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from v3d.cameras import ORBIT_VIEWS
from v3d.errors import V3DError
from v3d.evaluation.report import ResultFile
from v3d.evaluation.settings import AblationSettings, SamplerName
from v3d.objects.presets import PRESETS, Preset
from v3d.settings import Quality
from v3d.texture.refine import RefineSettings


@dataclass(frozen=True)
class GenerationChoice:
    """A way to generate an orbit; None is the model's own choice. Fields as in `AblationSettings`."""

    model: str = "mini"
    guidance: float | None = None
    steps: int | None = None
    sampler: SamplerName | None = None
    seed: int = 0


@dataclass(frozen=True)
class BuildChoice:
    """A way to make an asset of views; None is the preset's own choice. Fields as in `AblationSettings`."""

    orbit: Literal["true", "perturbed", "generated"] = "true"
    views: int = ORBIT_VIEWS
    photo: bool = True
    carving: bool = True
    perceptual: bool | None = None
    refine: bool | None = None
    mesh: bool = True
    quality: Quality = "standard"
    seed: int = 0

    @property
    def preset(self) -> Preset:
        """The quality's preset, with the perceptual term and the texture's refinement as chosen."""
        preset = PRESETS[self.quality]
        if self.perceptual is not None:
            preset = replace(preset, perceptual=self.perceptual)
        if self.refine is not None:
            preset = replace(preset, refine=(preset.refine or RefineSettings()) if self.refine else None)
        return preset


Choice = TypeVar("Choice", GenerationChoice, BuildChoice)


@dataclass(frozen=True)
class Variant(Generic[Choice]):
    """A row of the table.

    Attributes:
        axis: what differs from the base, "" for the base itself.
        value: and how.
        choice: everything that was chosen.
    """

    axis: str
    value: Any
    choice: Choice

    @property
    def label(self) -> str:
        """The row's name."""
        if not self.axis:
            return "base"
        if isinstance(self.value, bool):
            return f"{self.axis} {'on' if self.value else 'off'}"
        return f"{self.axis} {self.value}"


def base_generation(settings: AblationSettings) -> GenerationChoice:
    """The first value of every axis of generation."""
    return GenerationChoice(
        model=settings.model[0],
        guidance=_first(settings.guidance),
        steps=_first(settings.steps),
        sampler=_first(settings.sampler),
        seed=settings.seed,
    )


def generation_variants(settings: AblationSettings) -> list[Variant[GenerationChoice]]:
    """The base and its variants; nothing where no axis of generation is varied."""
    axes = {name: getattr(settings, name) for name in ("model", "guidance", "steps", "sampler")}
    return _vary(base_generation(settings), axes)


def build_variants(settings: AblationSettings) -> list[Variant[BuildChoice]]:
    """The base and its variants; nothing where no axis of reconstruction is varied.

    Raises:
        V3DError: a number of views does not divide the orbit's, refinement is varied without a mesh, or the
            photo's trust without a generated orbit.
    """
    for n in settings.views:
        if n < 2 or ORBIT_VIEWS % n:
            raise V3DError(
                f"An orbit of {ORBIT_VIEWS} views has no {n} of even spacing; choose 18, 9, 6, 3 or 2."
            )
    if len(settings.refine) > 1 and not settings.mesh:
        raise V3DError("Texture refinement can be compared on meshes only; leave out --no-mesh.")
    if len(settings.photo) > 1 and settings.orbit != "generated":
        raise V3DError("Only generated orbits have a photo to trust; give --orbit generated.")
    base = BuildChoice(
        orbit=settings.orbit,
        views=settings.views[0],
        photo=settings.photo[0],
        carving=settings.carving[0],
        perceptual=_first(settings.perceptual),
        refine=_first(settings.refine),
        mesh=settings.mesh,
        quality=settings.quality,
        seed=settings.seed,
    )
    names = ("views", "photo", "carving", "perceptual", "refine")
    return _vary(base, {name: getattr(settings, name) for name in names})


def open_file(folder: Path, choice: GenerationChoice | BuildChoice, header: dict[str, Any]) -> ResultFile:
    """The results of one variant, in a file named after everything that decides them.

    So whatever was measured once is not measured again, even if other things are varied the next time.
    """
    kind = "generation" if isinstance(choice, GenerationChoice) else "build"
    header = {"kind": kind, "choice": asdict(choice), **header}
    mark = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:16]
    return ResultFile(folder / f"{kind}-{mark}.jsonl", header)


def _first(values: Sequence[Any]) -> Any:
    return values[0] if values else None


def _vary(base: Choice, axes: Mapping[str, Sequence[Any]]) -> list[Variant[Choice]]:
    variants = [Variant("", None, base)]
    for axis, values in axes.items():
        variants += [Variant(axis, value, replace(base, **{axis: value})) for value in values[1:]]
    return variants if len(variants) > 1 else []
