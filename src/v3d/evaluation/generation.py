"""Generation on test objects: the orbit generated from a true front view, against the true orbit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from v3d.compositing import over_white
from v3d.diffusion.generator import Generator
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.evaluation.assets import MeasuredBuild, Metrics
from v3d.evaluation.comparison import compare_views, silhouette_consistency, warp_consistency
from v3d.evaluation.nearest import NearestObject
from v3d.evaluation.protocol import GENERATION, ObjectProtocol
from v3d.evaluation.report import ObjectResult
from v3d.evaluation.runner import evaluate_objects
from v3d.evaluation.settings import EvaluateGeneration, GenerationSettings, OnObject
from v3d.evaluation.sheet import SheetRow, choose_objects, generation_sheet
from v3d.evaluation.testset import TestObject, load_objects, object_ids
from v3d.files import atomic
from v3d.framing import photo_of
from v3d.meshes.mesh import Mesh
from v3d.networks.perceptual import Perceptual
from v3d.objects import build
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS, Preset, silhouettes_only
from v3d.runtime import pick_device
from v3d.surface.extract import extract_mesh
from v3d.views import Views


class OrbitGenerator(Protocol):
    """`v3d.diffusion.generator.Generator`, or anything that is called like it."""

    @property
    def agrees_in_colour(self) -> bool:
        """Whether the colours of its views may shape a surface."""
        ...

    def __call__(self, photos: OrbitPhotos, *, seed: int, steps: int | None, guidance: float | None) -> Views:
        """The orbit of photos."""
        ...

    def above(self, photos: OrbitPhotos) -> Views | None:
        """Views from above and below of the same photos; None where the model generates none."""
        ...


def run(command: EvaluateGeneration, on_object: OnObject | None = None) -> dict[str, Any]:
    """Measure every object that `command.out` has no result of yet; returns the report.

    Raises:
        V3DError: objects or weights are missing, or `command.out` holds results of other settings.
    """
    protocol = replace(GENERATION, size=command.size or GENERATION.size)
    settings = command.settings
    generator: Generator | None = None
    if command.model != "none":
        generator = Generator.from_pretrained(command.model, device=pick_device(command.device))
    elif command.sheet:
        raise V3DError("A contact sheet shows generated views; name a --model.")
    nearest = None
    if command.train_corpus is not None:
        index = command.train_index or command.out / "nearest.safetensors"
        exclude = set(object_ids(command.objects))
        nearest = NearestObject.open(command.train_corpus, index, protocol, exclude=exclude)
    network = Perceptual.load(command.perceptual) if command.perceptual else None
    preset = preset_of(settings, generator)
    header = {
        "protocol": protocol.as_dict(),
        "settings": asdict(settings),
        "preset": asdict(preset) if preset else None,
        "model": command.model,
        "model_hash": generator.hash if generator else None,
        "nearest": nearest is not None,
        "perceptual": network.name if network else None,
    }

    def measure(item: TestObject) -> ObjectResult:
        return evaluate_generation(item, protocol, settings, generator, nearest, network, preset)

    title = "Generation from true front views"
    report = evaluate_objects(command.out, title, command.objects, header, measure, on_object)
    if command.sheet and generator is not None:
        _draw_sheet(command, protocol, generator, [ObjectResult(**one) for one in report["objects"]])
    return report


def preset_of(settings: GenerationSettings, generator: OrbitGenerator | None) -> Preset | None:
    """How the product would build the assets of such views; None where no asset is asked for."""
    if settings.mesh == "none":
        return None
    preset = PRESETS[settings.mesh]
    agrees = generator is None or generator.agrees_in_colour
    return preset if agrees else silhouettes_only(preset)


def evaluate_generation(
    item: TestObject,
    protocol: ObjectProtocol,
    settings: GenerationSettings,
    generator: OrbitGenerator | None,
    nearest: NearestObject | None = None,
    perceptual: Perceptual | None = None,
    preset: Preset | None = None,
) -> ObjectResult:
    """Generate the orbit of one object from its true front view and compare frames 1.. with the true ones.

    Methods: "true views", "repeat the photo", "nearest training object" where its index is given, and
    "generated" where there is a generator. A method that fails with a `V3DError` is listed as a failure.

    Args:
        item: the object.
        protocol: places it and says what is seen of it.
        settings: of the sampler.
        generator: makes orbits of photos; None leaves the baselines.
        nearest: the index of the training objects.
        perceptual: also measures its distance.
        preset: builds the shape of every method's views, to compare it with the object; None builds none.
    """
    truth = protocol.true_orbit(item)
    photo = photo_of(truth)
    true_mesh = protocol.place(item.mesh)
    methods: dict[str, Callable[[], Views]] = {
        "true views": lambda: truth,
        "repeat the photo": lambda: repeat_photo(photo, truth),
    }
    if nearest is not None:
        methods["nearest training object"] = lambda: nearest(photo, protocol)
    if generator is not None:
        methods["generated"] = lambda: generator(
            OrbitPhotos((photo,)), seed=settings.seed, steps=settings.steps, guidance=settings.guidance
        ).resized(protocol.size, protocol.size)
    result = ObjectResult(item.id, item.hash, item.real_scan, {}, {})
    for method, make in methods.items():
        try:
            start = time.process_time()
            views = make()
            seconds = time.process_time() - start
            result.scores[method] = orbit_scores(views, truth, perceptual) | {"seconds": seconds}
            if preset is not None:
                inputs = BuildInputs(views, photos={0: photo})
                result.scores[method] |= shape_scores(inputs, true_mesh, protocol, preset, settings.seed)
        except V3DError as error:
            result.failures[method] = str(error)
    return result


def repeat_photo(rgba: Tensor, truth: Views) -> Views:
    """The baseline that shows the photo [H, W, 4] (straight alpha) from every side."""
    alpha = rgba[..., 3]
    rgb = over_white(rgba[..., :3], alpha)
    V = len(truth)
    return Views(rgb.expand(V, -1, -1, -1), alpha.expand(V, -1, -1), truth.cameras)


def orbit_scores(views: Views, truth: Views, perceptual: Perceptual | None = None) -> Metrics:
    """Means over the frames that had to be invented (all but frame 0), and over the back half.

    Args:
        views: the generated views.
        truth: the true views of these cameras.
        perceptual: also measures its distance, by its name.

    Returns:
        Metric -> mean over frames 1..; `back.` + metric -> mean over those within 90 degrees of the back.
    """
    each = compare_views(views, truth)
    if perceptual is not None:
        with torch.no_grad():
            each[perceptual.name] = perceptual.distances(views.rgb, perceptual.prepare(truth.rgb))
    turn = torch.arange(len(truth)) * 360.0 / len(truth)
    back = (turn - 180).abs() < 90
    means = {name: float(values[1:].mean()) for name, values in each.items()}
    return means | {f"back.{name}": float(values[back].mean()) for name, values in each.items()}


def shape_scores(
    inputs: BuildInputs, truth: Mesh, protocol: ObjectProtocol, preset: Preset, seed: int
) -> Metrics:
    """How far the views agree with one solid, and how near the product's shape of them is to the true mesh.

    The agreement (`consistency.*`) is that with the plain hull of the views, to which no photo adds anything.
    Views that have no solid in common score nan, and an IoU of 0.
    """
    views = inputs.views
    try:
        common = extract_mesh(build.hull(BuildInputs(views), preset), faces=preset.faces)
        consistency = {
            "consistency.iou": float(silhouette_consistency(views, common).mean()),
            "consistency.psnr": float(warp_consistency(views, common).nanmean()),
        }
        measured = MeasuredBuild(inputs, preset, seed)
        if preset.surface is not None:
            measured.splats(None)
        shape = protocol.compare(measured.shape, truth)
    except V3DError:
        nothing = dict.fromkeys(("consistency.iou", "consistency.psnr", "mesh.chamfer"), math.nan)
        return nothing | {"mesh.iou": 0.0}
    return consistency | {"mesh.chamfer": shape["chamfer"], "mesh.iou": shape["iou"]}


def _draw_sheet(
    command: EvaluateGeneration,
    protocol: ObjectProtocol,
    generator: OrbitGenerator,
    results: list[ObjectResult],
) -> None:
    """Write `contact_sheet.jpg`: the chosen objects' views are generated again, from the same seed."""
    psnr = {r.id: r.scores["generated"]["psnr"] for r in results if "generated" in r.scores}
    settings = command.settings
    columns = []
    titles = ("Real scans, best to worst", "Made objects, best to worst")
    for title, ids in zip(titles, choose_objects(results, command.sheet), strict=True):
        rows = []
        for item in load_objects(command.objects, ids):
            truth = protocol.true_orbit(item)
            photo = photo_of(truth)
            views = generator(
                OrbitPhotos((photo,)), seed=settings.seed, steps=settings.steps, guidance=settings.guidance
            )
            rows.append(SheetRow(f"{item.id}   {psnr[item.id]:.2f} dB", photo, views, truth))
        columns.append((title, rows))
    with atomic(command.out / "contact_sheet.jpg") as temporary:
        generation_sheet(columns).save(temporary, quality=88)
