"""`v3d evaluate`: runs a protocol over test objects, or compares what is already on disk with the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from v3d.cameras import Cameras
from v3d.capture.readers import load_views
from v3d.errors import V3DError
from v3d.evaluation.ablation import (
    Bench,
    Drawing,
    Fitting,
    base_drawing,
    drawings,
    fittings,
    merge,
    open_file,
)
from v3d.evaluation.ablation_report import make_ablation_report
from v3d.evaluation.generation import OrbitGenerator, evaluate_generation
from v3d.evaluation.metrics import compare_views
from v3d.evaluation.nearest import NearestObject
from v3d.evaluation.objects import TestObject, load_objects, object_ids
from v3d.evaluation.protocol import GENERATION, RECONSTRUCTION, ObjectProtocol
from v3d.evaluation.reconstruction import evaluate_reconstruction, image_scores
from v3d.evaluation.report import ObjectResult, ResultFile, Scores, make_report
from v3d.evaluation.scenes import SceneProtocol, evaluate_scene, load_scenes, scene_ids
from v3d.evaluation.settings import (
    EvaluateAblation,
    EvaluateAsset,
    EvaluateGeneration,
    EvaluateReconstruction,
    EvaluateScenes,
    EvaluateViews,
    Evaluation,
    ObjectSource,
)
from v3d.evaluation.sheet import SheetRow, choose_objects, generation_sheet
from v3d.files import atomic
from v3d.framing import photo_of
from v3d.meshes.files import load_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.networks.perceptual import Perceptual
from v3d.objects.presets import PRESETS
from v3d.provenance import provenance
from v3d.runtime import tune_malloc
from v3d.scene.draw import SceneDrawer
from v3d.scene.model import SceneModel
from v3d.scene.presets import SCENE_PRESETS
from v3d.views import Views

OnObject = Callable[[str, int, int], None]
"""Called with the name of the object just done, the number done and the number in all."""


def evaluate(command: Evaluation, *, on_object: OnObject | None = None) -> dict[str, Any]:
    """Run one evaluation and return its report, which `report.markdown` turns into tables.

    Raises:
        V3DError: inputs are missing or do not fit, or `out` holds results of other settings.
    """
    tune_malloc()
    if isinstance(command, EvaluateReconstruction):
        return _evaluate_reconstruction(command, on_object)
    if isinstance(command, EvaluateGeneration):
        return _evaluate_generation(command, on_object)
    if isinstance(command, EvaluateAblation):
        return _evaluate_ablation(command, on_object)
    if isinstance(command, EvaluateScenes):
        return _evaluate_scenes(command, on_object)
    if isinstance(command, EvaluateViews):
        return _evaluate_views(command)
    return _evaluate_asset(command)


def _evaluate_reconstruction(command: EvaluateReconstruction, on_object: OnObject | None) -> dict[str, Any]:
    protocol = replace(RECONSTRUCTION, size=command.size or RECONSTRUCTION.size)
    network = Perceptual.load(command.perceptual_network) if any(command.settings.perceptual) else None
    header = {
        "protocol": protocol.as_dict(),
        "settings": asdict(command.settings),
        "preset": asdict(PRESETS[command.settings.quality]),
        "perceptual": network.name if network else None,
    }

    def run(item: TestObject) -> ObjectResult:
        return evaluate_reconstruction(item, protocol, command.settings, network)

    return _over_objects(
        command.out, "Reconstruction from true orbits", command.objects, header, run, on_object
    )


def _evaluate_generation(command: EvaluateGeneration, on_object: OnObject | None) -> dict[str, Any]:
    protocol = replace(GENERATION, size=command.size or GENERATION.size)
    generator: OrbitGenerator | None = None
    model_hash = None
    if command.model != "none":
        from v3d.diffusion.generator import Generator

        generator = Generator.from_pretrained(command.model, device=command.device)
        model_hash = generator.hash
    nearest = None
    if command.train_corpus is not None:
        cache = command.train_index or command.out / "nearest.safetensors"
        nearest = NearestObject.open(
            command.train_corpus, cache, protocol, exclude=set(object_ids(command.objects))
        )
    header = {
        "protocol": protocol.as_dict(),
        "settings": asdict(command.settings),
        "model": command.model,
        "model_hash": model_hash,
        "nearest": command.train_corpus is not None,
    }
    network = Perceptual.load(command.perceptual) if command.perceptual else None
    if network is not None:
        header["perceptual"] = network.name
    if command.sheet and generator is None:
        raise V3DError("A contact sheet shows generated views; name a --model.")

    def run(item: TestObject) -> ObjectResult:
        return evaluate_generation(item, protocol, command.settings, generator, nearest, network)

    report = _over_objects(
        command.out, "Generation from true front views", command.objects, header, run, on_object
    )
    if command.sheet and generator is not None:
        _draw_sheet(command, protocol, generator, [ObjectResult(**one) for one in report["objects"]])
    return report


def _draw_sheet(
    command: EvaluateGeneration,
    protocol: ObjectProtocol,
    generator: OrbitGenerator,
    results: list[ObjectResult],
) -> None:
    """Write `contact_sheet.jpg`: the chosen objects' views are drawn again, from the same seed."""
    psnr = {r.id: r.scores["generated"]["psnr"] for r in results if "generated" in r.scores}
    settings = command.settings
    columns = []
    titles = ("Real scans, best to worst", "Made objects, best to worst")
    for title, ids in zip(titles, choose_objects(results, command.sheet), strict=True):
        rows = []
        for item in load_objects(command.objects, ids):
            truth = protocol.true_orbit(item)
            photo = photo_of(truth)
            views = generator(photo, seed=settings.seed, steps=settings.steps, guidance=settings.guidance)
            rows.append(SheetRow(f"{item.id}   {psnr[item.id]:.2f} dB", photo, views, truth))
        columns.append((title, rows))
    with atomic(command.out / "contact_sheet.jpg") as temporary:
        generation_sheet(columns).save(temporary, quality=88)


def _evaluate_ablation(command: EvaluateAblation, on_object: OnObject | None) -> dict[str, Any]:
    settings = command.settings
    drawn = replace(GENERATION, size=command.size or GENERATION.size)
    fitted = replace(RECONSTRUCTION, size=command.size or RECONSTRUCTION.size)
    if settings.orbit == "generated":
        fitted = drawn
    halves = {"orbits": drawings(settings), "assets": fittings(settings)}
    if not any(halves.values()):
        raise V3DError("Nothing is varied; give an option two values, for example --guidance 1 1.5.")
    network = Perceptual.load(command.perceptual_network) if any(settings.perceptual) else None
    judge = Perceptual.load("lpips") if halves["orbits"] else None
    generators = _generators(command.device)
    base = base_drawing(settings)

    def header(choice: Drawing | Fitting) -> dict[str, Any]:
        """What else decides the numbers of a variant."""
        if isinstance(choice, Drawing):
            about = {"protocol": drawn.as_dict(), "hull": settings.hull, "judge": "lpips"}
            return about | {"model_hash": generators(choice).hash}
        about = {"protocol": fitted.as_dict(), "preset": asdict(PRESETS[choice.quality])}
        if choice.perceptual and network is not None:
            about["perceptual"] = network.name
        if choice.orbit == "generated":
            about |= {"drawing": asdict(base), "model_hash": generators(base).hash}
        return about

    files = {
        half: {v.label: open_file(command.out / "variants", v.choice, header(v.choice)) for v in variants}
        for half, variants in halves.items()
    }
    todo = [(v.choice, files[half][v.label]) for half, variants in halves.items() for v in variants]
    ids = object_ids(command.objects)
    left = [name for name in ids if any(name not in file.done for _, file in todo)]
    for item in load_objects(command.objects, left):
        bench = Bench(item, drawn, fitted, generators, base, hull=settings.hull, network=network, judge=judge)
        for choice, file in todo:
            if item.id not in file.done:
                file.add(bench.measure(choice))
        if on_object:
            on_object(item.id, len(ids) - len(left) + left.index(item.id) + 1, len(ids))
    about = {
        "settings": asdict(settings),
        "protocols": [drawn.as_dict(), fitted.as_dict()],
        "models": {name: generators(Drawing(name)).hash for name in settings.model if halves["orbits"]},
    }
    results = {half: (halves[half], merge(files[half], ids)) for half in halves if halves[half]}
    return make_ablation_report(results, about | provenance(), command.out)


def _generators(device: str) -> Callable[[Drawing], Any]:
    """Drawing -> its `Generator`, weights read once, with the sampler that the drawing asks for."""
    from v3d.diffusion import edm
    from v3d.diffusion.generator import Generator

    load = cache(lambda name: Generator.from_pretrained(name, device=device))

    def generator(drawing: Drawing) -> Generator:
        plain = load(drawing.model)
        if drawing.sampler is None:
            return plain
        try:
            model = replace(plain.model, sampler=getattr(edm, drawing.sampler))  # type: ignore[type-var]
            return Generator(model, plain.name)
        except TypeError:
            raise V3DError(f"The model {drawing.model} leaves no choice of sampler.") from None

    return generator


def _over_objects(
    out: Path,
    title: str,
    source: ObjectSource,
    header: dict[str, Any],
    run: Callable[[TestObject], ObjectResult],
    on_object: OnObject | None,
) -> dict[str, Any]:
    """Run every object that `out` has no result of yet; the report covers the chosen ones."""
    ids = object_ids(source)
    file = ResultFile(out / "results.jsonl", header)
    left = [name for name in ids if name not in file.done]
    for item in load_objects(source, left):
        file.add(run(item))
        if on_object:
            on_object(item.id, len(file.done & set(ids)), len(ids))
    chosen = set(ids)
    return make_report(title, [r for r in file.results if r.id in chosen], header | provenance(), out)


def _evaluate_scenes(command: EvaluateScenes, on_object: OnObject | None) -> dict[str, Any]:
    protocol = SceneProtocol(sources=command.sources)
    model: SceneDrawer | None = None
    if command.model != "none":
        model = SceneModel.load(command.model, command.device)
    networks = [Perceptual.load("lpips"), Perceptual.load("vae")]
    header = {
        "protocol": protocol.as_dict(),
        "settings": asdict(command.settings),
        "preset": asdict(SCENE_PRESETS[command.settings.quality]),
        "model": command.model,
        "model_hash": model.hash if model else None,
        "perceptual": [network.name for network in networks],
    }
    ids = scene_ids(command.scenes, command.limit)
    file = ResultFile(command.out / "results.jsonl", header)
    left = [name for name in ids if name not in file.done]
    for scene in load_scenes(command.scenes, left, protocol):
        file.add(evaluate_scene(scene, protocol, command.settings, model, networks))
        if on_object:
            on_object(scene.id, len(file.done & set(ids)), len(ids))
    results = [r for r in file.results if r.id in ids]
    return make_report("Held-out views of scenes", results, header | provenance(), command.out)


def _evaluate_views(command: EvaluateViews) -> dict[str, Any]:
    views, truth = load_views(command.views), load_views(command.truth)
    if len(views) != len(truth):
        raise V3DError(
            f"{command.views} has {len(views)} views, {command.truth} has {len(truth)}; compare equal orbits."
        )
    if (views.cameras.c2w - truth.cameras.c2w).abs().max() > 1e-3:
        raise V3DError(f"The cameras of {command.views} and {command.truth} stand at different places.")
    if truth.cameras.width != truth.cameras.height and views.rgb.shape != truth.rgb.shape:
        raise V3DError(f"{command.views} and {command.truth} differ in image size.")
    if views.rgb.shape != truth.rgb.shape:
        views = views.resized(truth.cameras.width, truth.cameras.height)
    each = compare_views(views, truth)
    if command.perceptual is not None:
        network = Perceptual.load(command.perceptual)
        with torch.no_grad():
            each[network.name] = network.distances(views.rgb, network.prepare(truth.rgb))
    scores = {f"view {i:03d}": {k: float(v[i]) for k, v in each.items()} for i in range(len(truth))}
    scores = {"mean": {k: float(v.mean()) for k, v in each.items()}, **scores}
    return _single("Views", command.views, scores, command.out, {"truth": str(command.truth)})


def _evaluate_asset(command: EvaluateAsset) -> dict[str, Any]:
    protocol = replace(RECONSTRUCTION, size=command.size or RECONSTRUCTION.size)
    mesh, truth = load_mesh(command.mesh), load_mesh(command.truth)
    if command.alignment == "ball":
        mesh, truth = protocol.place(mesh), protocol.place(truth)
    scores: dict[str, dict[str, float]] = {"true mesh": {}, "mesh": {}}
    for name, cameras in protocol.held_out_cameras().items():
        true_views = _unlit(truth, cameras)
        scores["true mesh"] |= image_scores(name, true_views.rgb, true_views)
        scores["mesh"] |= image_scores(name, _unlit(mesh, cameras).rgb, true_views)
    scores["true mesh"] |= protocol.compare(truth, truth)
    scores["mesh"] |= protocol.compare(mesh, truth)
    settings = {"truth": str(command.truth), "alignment": command.alignment, "protocol": protocol.as_dict()}
    return _single("Asset", command.mesh, scores, command.out, settings)


def _unlit(mesh: Mesh, cameras: Cameras) -> Views:
    image = render(mesh, cameras, supersample=3)
    return Views(image.rgb, image.alpha, cameras)


def _single(
    title: str, subject: Path, scores: Scores, out: Path | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """The report of one comparison."""
    result = ObjectResult(str(subject), "", False, scores, {})
    return make_report(title, [result], settings | provenance(), out)
