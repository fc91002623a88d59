"""Ablations: one thing varied at a time, every variant on the same objects and seeds; see `variants`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

from v3d.cameras import ORBIT_VIEWS
from v3d.diffusion import edm
from v3d.diffusion.generator import Generator
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.evaluation.ablation_report import make_ablation_report
from v3d.evaluation.assets import MeasuredBuild, Metrics, Truth
from v3d.evaluation.generation import orbit_scores, shape_scores
from v3d.evaluation.protocol import GENERATION, RECONSTRUCTION, ObjectProtocol, perturb
from v3d.evaluation.report import ObjectResult, ResultFile
from v3d.evaluation.settings import AblationSettings, EvaluateAblation, OnObject
from v3d.evaluation.testset import TestObject, load_objects, object_ids
from v3d.evaluation.variants import (
    BuildChoice,
    GenerationChoice,
    Variant,
    base_generation,
    build_variants,
    generation_variants,
    open_file,
)
from v3d.framing import photo_of
from v3d.networks.perceptual import Perceptual
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS
from v3d.provenance import provenance
from v3d.runtime import pick_device, tune_malloc
from v3d.settings import Quality
from v3d.views import Views

_SHAPE = ("chamfer", "f_score", "normal_consistency", "iou", "front_iou")
_HULL_QUALITY: Quality = "draft"  # of the hulls of generated orbits
_SCORES = "scores"  # the one method in a variant's file


def run(command: EvaluateAblation, on_object: OnObject | None = None) -> dict[str, Any]:
    """Measure what `command.out` does not hold yet; returns the report.

    Raises:
        V3DError: nothing is varied, an axis has no value, the choices do not fit together, objects or weights
            are missing.
    """
    tune_malloc()
    settings = command.settings
    for name in ("model", "views", "photo", "carving"):
        if not getattr(settings, name):
            raise V3DError(f"Give --{name} at least one value, that of the base.")
    generation, builds = generation_variants(settings), build_variants(settings)
    if not generation and not builds:
        raise V3DError("Nothing is varied; give an option two values, for example --guidance 1 1.5.")
    bench = Bench.of(command, generation, builds)
    folder = command.out / "variants"
    generation_files = {
        v.label: open_file(folder, v.choice, bench.generation_header(v.choice)) for v in generation
    }
    build_files = {v.label: open_file(folder, v.choice, bench.build_header(v.choice)) for v in builds}
    files = [*generation_files.values(), *build_files.values()]
    ids = object_ids(command.objects)
    missing = [name for name in ids if any(name not in file.done for file in files)]
    for item in load_objects(command.objects, missing):
        one = ObjectVariants(item, bench)
        for variant in generation:
            _measure(item, generation_files[variant.label], partial(one.generation_scores, variant.choice))
        for build in builds:
            _measure(item, build_files[build.label], partial(one.build_scores, build.choice))
        if on_object:
            on_object(item.id, len(ids) - len(missing) + missing.index(item.id) + 1, len(ids))
    halves: dict[str, tuple[Sequence[Variant[Any]], Sequence[ObjectResult]]] = {}
    if generation:
        halves["orbits"] = generation, merge(generation_files, ids)
    if builds:
        halves["assets"] = builds, merge(build_files, ids)
    about = {
        "settings": asdict(settings),
        "protocols": [bench.orbits.as_dict(), bench.assets.as_dict()],
        "models": {v.choice.model: bench.generator(v.choice).hash for v in generation},
    }
    return make_ablation_report(halves, about | provenance(), command.out)


@dataclass(frozen=True)
class Bench:
    """What the variants of all objects share.

    Attributes:
        settings: what is varied.
        orbits: protocol by which generated orbits are judged.
        assets: protocol by which assets are judged.
        load: name of a model -> its generator, read once.
        perceptual: the network of fits with a perceptual term; None where no fit has one.
        judge: measures the perceptual distance of generated orbits.
    """

    settings: AblationSettings
    orbits: ObjectProtocol
    assets: ObjectProtocol
    load: Callable[[str], Generator]
    perceptual: Perceptual | None = None
    judge: Perceptual | None = None

    @classmethod
    def of(
        cls,
        command: EvaluateAblation,
        generation: Sequence[Variant[GenerationChoice]],
        builds: Sequence[Variant[BuildChoice]],
    ) -> Bench:
        """Load the networks that the variants need."""
        orbits = replace(GENERATION, size=command.size or GENERATION.size)
        assets = replace(RECONSTRUCTION, size=command.size or RECONSTRUCTION.size)
        device = pick_device(command.device)
        wanted = any(v.choice.preset.perceptual for v in builds)
        return cls(
            command.settings,
            orbits,
            orbits if command.settings.orbit == "generated" else assets,
            cache(lambda name: Generator.from_pretrained(name, device=device)),
            Perceptual.load(command.perceptual_network) if wanted else None,
            Perceptual.load("lpips") if generation else None,
        )

    def generator(self, choice: GenerationChoice) -> Generator:
        """The generator with the sampler that the choice asks for.

        Raises:
            V3DError: the model leaves no choice of sampler.
        """
        plain = self.load(choice.model)
        if choice.sampler is None:
            return plain
        try:
            # Not every model is a dataclass with a sampler; then this is a TypeError.
            model = replace(plain.model, sampler=getattr(edm, choice.sampler))  # type: ignore[type-var]
        except TypeError:
            raise V3DError(f"The model {choice.model} leaves no choice of sampler.") from None
        return Generator(model, plain.name)

    def generation_header(self, choice: GenerationChoice) -> dict[str, Any]:
        """What else decides the numbers of an orbit."""
        preset = asdict(PRESETS[_HULL_QUALITY]) if self.settings.hull else None
        header = {"protocol": self.orbits.as_dict(), "hull": preset, "judge": "lpips"}
        return header | {"model_hash": self.generator(choice).hash}

    def build_header(self, choice: BuildChoice) -> dict[str, Any]:
        """What else decides the numbers of an asset."""
        header: dict[str, Any] = {"protocol": self.assets.as_dict(), "preset": asdict(choice.preset)}
        if choice.preset.perceptual and self.perceptual is not None:
            header["perceptual"] = self.perceptual.name
        if choice.orbit == "generated":
            base = base_generation(self.settings)
            header |= {"generation": asdict(base), "model_hash": self.generator(base).hash}
        return header


class ObjectVariants:
    """One object, and everything that several variants need of it, made once."""

    def __init__(self, item: TestObject, bench: Bench) -> None:
        self.item, self.bench = item, bench
        self._made: dict[Any, Any] = {}

    def generation_scores(self, choice: GenerationChoice) -> Metrics:
        """Of the orbit that this choice generates; with `settings.hull` also of the hull that it carves."""
        bench = self.bench
        views, seconds = self._orbit(choice)
        scores = orbit_scores(views, self._true_orbit(bench.orbits), bench.judge)
        if bench.settings.hull:
            mesh = bench.orbits.place(self.item.mesh)
            inputs = BuildInputs(views, {0: self._photo()}, self.bench.generator(choice).agrees_in_colour)
            scores |= shape_scores(inputs, mesh, bench.orbits, PRESETS[_HULL_QUALITY], choice.seed)
        return scores | {"seconds": seconds}

    def build_scores(self, choice: BuildChoice) -> Metrics:
        """Of the Gaussians and, with `choice.mesh`, the mesh that the product makes by this choice."""
        truth: Truth = self._once("truth", lambda: Truth.of(self.item, self.bench.assets))
        inputs, preset = self._inputs(choice), choice.preset
        measured = MeasuredBuild(inputs, preset, choice.seed)
        network = self.bench.perceptual if preset.perceptual else None
        splats = measured.splats(network, carving=choice.carving)
        scores = {f"splats.{k}": v for k, v in truth.splat_scores(splats).items()}
        if choice.mesh:
            made = truth.mesh_scores(measured.mesh, inputs.views)
            scores |= {k if k in _SHAPE else f"mesh.{k}": v for k, v in made.items()}
        return scores | {"seconds": sum(measured.seconds.values())}

    def _inputs(self, choice: BuildChoice) -> BuildInputs:
        step = ORBIT_VIEWS // choice.views
        if choice.orbit == "generated":
            views, _ = self._orbit(base_generation(self.bench.settings))
            photos = {0: self._photo()} if choice.photo else {}
            return BuildInputs(views[::step], photos, self._base_generator().agrees_in_colour)
        truth = self._true_orbit(self.bench.assets)
        return BuildInputs((truth if choice.orbit == "true" else perturb(truth, choice.seed))[::step])

    def _base_generator(self) -> Generator:
        return self.bench.generator(base_generation(self.bench.settings))

    def _photo(self) -> Any:
        return photo_of(self._true_orbit(self.bench.orbits))

    def _orbit(self, choice: GenerationChoice) -> tuple[Views, float]:
        """The generated views, and the CPU seconds that they took."""

        def generate() -> tuple[Views, float]:
            photo, generator, size = self._photo(), self.bench.generator(choice), self.bench.orbits.size
            start = time.process_time()
            views = generator(
                OrbitPhotos((photo,)), seed=choice.seed, steps=choice.steps, guidance=choice.guidance
            )
            return views.resized(size, size), time.process_time() - start

        made: tuple[Views, float] = self._once(choice, generate)
        return made

    def _true_orbit(self, protocol: ObjectProtocol) -> Views:
        made: Views = self._once(protocol, partial(protocol.true_orbit, self.item))
        return made

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def merge(files: Mapping[str, ResultFile], ids: Sequence[str]) -> list[ObjectResult]:
    """The results of several variants as methods of one: id -> label -> metric -> value."""
    merged: dict[str, ObjectResult] = {}
    for label, file in files.items():
        for r in file.results:
            if r.id in set(ids):
                one = merged.setdefault(r.id, ObjectResult(r.id, r.hash, r.real_scan, {}, {}))
                if _SCORES in r.scores:
                    one.scores[label] = r.scores[_SCORES]
                if _SCORES in r.failures:
                    one.failures[label] = r.failures[_SCORES]
    return [merged[name] for name in ids if name in merged]


def _measure(item: TestObject, file: ResultFile, scores: Callable[[], Metrics]) -> None:
    """Add the object to the file, unless it is there."""
    if item.id in file.done:
        return
    result = ObjectResult(item.id, item.hash, item.real_scan, {}, {})
    try:
        result.scores[_SCORES] = scores()
    except V3DError as error:
        result.failures[_SCORES] = str(error)
    file.add(result)
