"""Ablations: one thing varied at a time, every variant on the same objects and seeds.

Two halves, each with a base and its own table. A `Drawing` is a way to draw the orbit from the photo (weights,
guidance, sampler, steps), a `Fitting` a way to make an asset of views (how many, carving, perceptual loss, texture
refinement). Every variant has a file of its own, named after what decides its numbers, so whatever was measured
once is not measured again, even if other things are varied the next time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from v3d.cameras import ORBIT_VIEWS
from v3d.errors import V3DError
from v3d.evaluation.generation import OrbitGenerator, asset_scores, orbit_scores
from v3d.evaluation.objects import TestObject
from v3d.evaluation.protocol import ObjectProtocol, perturb
from v3d.evaluation.reconstruction import Case
from v3d.evaluation.report import ObjectResult, ResultFile
from v3d.evaluation.settings import AblationSettings, GenerationSettings, ReconstructionSettings, SamplerName
from v3d.framing import photo_of
from v3d.networks.perceptual import Perceptual
from v3d.objects.presets import PRESETS
from v3d.settings import Quality
from v3d.texture.refine import RefineSettings
from v3d.views import Views

Scores = dict[str, float]


@dataclass(frozen=True)
class Drawing:
    """A way to draw an orbit; None is the model's own choice. See `AblationSettings`."""

    model: str = "mini"
    guidance: float | None = None
    steps: int | None = None
    sampler: SamplerName | None = None
    seed: int = 0


@dataclass(frozen=True)
class Fitting:
    """A way to make an asset of views. See `AblationSettings`."""

    orbit: Literal["true", "perturbed", "generated"] = "true"
    views: int = ORBIT_VIEWS
    above: bool = True
    filled: bool = True
    carving: bool = True
    perceptual: bool = False
    refine: bool = True
    mesh: bool = True
    quality: Quality = "standard"
    seed: int = 0


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        axis: what differs from the base, "" for the base itself.
        value: and how.
        choice: everything that was chosen.
    """

    axis: str
    value: Any
    choice: Drawing | Fitting

    @property
    def label(self) -> str:
        if not self.axis:
            return "base"
        if isinstance(self.value, bool):
            return f"{self.axis} {'on' if self.value else 'off'}"
        return f"{self.axis} {self.value}"


def base_drawing(settings: AblationSettings) -> Drawing:
    """The first value of every axis of drawing."""
    return Drawing(
        model=settings.model[0],
        guidance=settings.guidance[0] if settings.guidance else None,
        steps=settings.steps[0] if settings.steps else None,
        sampler=settings.sampler[0] if settings.sampler else None,
        seed=settings.seed,
    )


def drawings(settings: AblationSettings) -> list[Variant]:
    """The base and its variants; nothing where no axis of drawing is varied."""
    axes = {name: getattr(settings, name) for name in ("model", "guidance", "steps", "sampler")}
    return _vary(base_drawing(settings), axes)


def fittings(settings: AblationSettings) -> list[Variant]:
    """The base and its variants; nothing where no axis of reconstruction is varied.

    Raises:
        V3DError: a number of views does not divide the orbit's, refinement is varied without a mesh, or views from above or what
            fills the photo's outline without a generated orbit.
    """
    for n in settings.views:
        if n < 2 or ORBIT_VIEWS % n:
            raise V3DError(
                f"An orbit of {ORBIT_VIEWS} views has no {n} of even spacing; choose 18, 9, 6, 3 or 2."
            )
    if len(settings.refine) > 1 and not settings.mesh:
        raise V3DError("Texture refinement can be compared on meshes only; leave out --no-mesh.")
    if max(len(settings.above), len(settings.filled)) > 1 and settings.orbit != "generated":
        raise V3DError(
            "Only generated orbits have views from above, and a photo whose outline is filled; say --orbit generated."
        )
    first = Fitting(
        settings.orbit,
        settings.views[0],
        settings.above[0],
        settings.filled[0],
        settings.carving[0],
        settings.perceptual[0],
        settings.refine[0],
        settings.mesh,
        settings.quality,
        settings.seed,
    )
    axes = {
        name: getattr(settings, name)
        for name in ("views", "above", "filled", "carving", "perceptual", "refine")
    }
    return _vary(first, axes)


def _vary(first: Any, axes: Mapping[str, Sequence[Any]]) -> list[Variant]:
    rows = [
        Variant(axis, value, replace(first, **{axis: value}))
        for axis, values in axes.items()
        for value in values[1:]
    ]
    return [Variant("", None, first), *rows] if rows else []


def open_file(folder: Path, choice: Drawing | Fitting, header: dict[str, Any]) -> ResultFile:
    """The results of one variant, in a file named after everything that decides them."""
    header = {"kind": type(choice).__name__.lower(), "choice": asdict(choice), **header}
    mark = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:16]
    return ResultFile(folder / f"{header['kind']}-{mark}.jsonl", header)


class Bench:
    """One object, and everything that several variants need of it, made once.

    Args:
        drawn, fitted: protocols of the two halves.
        generators: by drawing, with its sampler in place.
        base: the drawing whose views are fitted where generated ones are.
        hull: also judge a drawn orbit by the hull it carves.
        network: of fits with a perceptual loss.
        judge: measures the perceptual distance of drawn orbits.
    """

    def __init__(
        self,
        item: TestObject,
        drawn: ObjectProtocol,
        fitted: ObjectProtocol,
        generators: Callable[[Drawing], OrbitGenerator],
        base: Drawing,
        *,
        hull: bool = True,
        network: Perceptual | None = None,
        judge: Perceptual | None = None,
    ) -> None:
        self.item, self.drawn, self.fitted = item, drawn, fitted
        self.generators, self.base, self.hull = generators, base, hull
        self.network, self.judge = network, judge
        self._made: dict[Any, Any] = {}

    def measure(self, choice: Drawing | Fitting) -> ObjectResult:
        """The scores of one variant, under the method name "scores"."""
        result = ObjectResult(self.item.id, self.item.hash, self.item.real_scan, {}, {})
        try:
            result.scores["scores"] = (
                self.draw_scores(choice) if isinstance(choice, Drawing) else self.fit_scores(choice)
            )
        except V3DError as error:
            result.failures["scores"] = str(error)
        return result

    def draw_scores(self, drawing: Drawing) -> Scores:
        views, seconds = self._orbit(drawing)
        scores = orbit_scores(views, self._truth(self.drawn), self.judge)
        if self.hull:
            mesh = self.drawn.place(self.item.mesh)
            scores |= asset_scores(views, mesh, self.drawn, GenerationSettings(mesh="hull"))
        return scores | {"seconds": seconds}

    def fit_scores(self, fitting: Fitting) -> Scores:
        case = self._case(fitting)
        views = self._views(fitting)[:: ORBIT_VIEWS // fitting.views]
        above = self._above() if fitting.orbit == "generated" and fitting.above else None
        start = time.process_time()
        splats = case.fitted(views, fitting.carving, self.network if fitting.perceptual else None, above)
        seconds = time.process_time() - start
        scores = {f"splats.{k}": v for k, v in case.splat_scores(splats).items()}
        if fitting.mesh:
            made = case.mesh_scores(views, splats)
            seconds += made.pop("seconds")
            scores |= {k if k in _SHAPE else f"mesh.{k}": v for k, v in made.items()}
        return scores | {"seconds": seconds}

    def _case(self, fitting: Fitting) -> Case:
        preset = PRESETS[fitting.quality]
        refine = (preset.refine or RefineSettings()) if fitting.refine else None
        return Case(
            self.fitted,
            ReconstructionSettings(quality=fitting.quality, seed=fitting.seed),
            self.fitted.place(self.item.mesh),
            self._once("held out", lambda: self.fitted.held_out(self.item)),
            replace(preset, refine=refine),
            certain=0 if fitting.orbit == "generated" and fitting.filled else None,
        )

    def _views(self, fitting: Fitting) -> Views:
        if fitting.orbit == "generated":
            return self._orbit(self.base)[0]
        truth = self._truth(self.fitted)
        return truth if fitting.orbit == "true" else perturb(truth, fitting.seed)

    def _orbit(self, drawing: Drawing) -> tuple[Views, float]:
        """The drawn views, and the CPU seconds it took."""

        def draw() -> tuple[Views, float]:
            photo = photo_of(self._truth(self.drawn))
            start = time.process_time()
            views = self.generators(drawing)(
                photo, seed=drawing.seed, steps=drawing.steps, guidance=drawing.guidance
            )
            return views.resized(self.drawn.size, self.drawn.size), time.process_time() - start

        return self._once(drawing, draw)

    def _above(self) -> Views | None:
        """The base generator's views from above and below, at the size of the orbit."""

        def draw() -> Views | None:
            above = self.generators(self.base).above(photo_of(self._truth(self.drawn)))
            return None if above is None else above.resized(self.drawn.size, self.drawn.size)

        return self._once("above", draw)

    def _truth(self, protocol: ObjectProtocol) -> Views:
        return self._once(protocol, partial(protocol.true_orbit, self.item))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


_SHAPE = ("chamfer", "f_score", "normal_consistency", "iou", "front_iou")


def merge(files: Mapping[str, ResultFile], ids: Sequence[str]) -> list[ObjectResult]:
    """The results of several variants as methods of one: id -> label -> metric -> value."""
    merged: dict[str, ObjectResult] = {}
    for label, file in files.items():
        for r in file.results:
            if r.id in set(ids):
                one = merged.setdefault(r.id, ObjectResult(r.id, r.hash, r.real_scan, {}, {}))
                if "scores" in r.scores:
                    one.scores[label] = r.scores["scores"]
                if "scores" in r.failures:
                    one.failures[label] = r.failures["scores"]
    return [merged[name] for name in ids if name in merged]
