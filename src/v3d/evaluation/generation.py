"""Generation on test objects: orbits generated from true photos, one to four, against the true orbit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from v3d.cameras import Cameras
from v3d.compositing import over_white
from v3d.diffusion.generator import Generator
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.evaluation.assets import MeasuredBuild, Metrics
from v3d.evaluation.comparison import compare_views, silhouette_consistency, warp_consistency
from v3d.evaluation.nearest import NearestObject
from v3d.evaluation.photos import TruePhotos, check_photos
from v3d.evaluation.protocol import GENERATION, ObjectProtocol
from v3d.evaluation.report import ObjectResult
from v3d.evaluation.runner import evaluate_objects
from v3d.evaluation.settings import EvaluateGeneration, GenerationSettings, OnObject
from v3d.evaluation.sheet import SheetRow, choose_objects, generation_sheet
from v3d.evaluation.testset import TestObject, load_objects, object_ids
from v3d.files import atomic
from v3d.meshes.mesh import Mesh
from v3d.networks.perceptual import Perceptual
from v3d.objects import build
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS, Preset
from v3d.runtime import pick_device
from v3d.surface.extract import extract_mesh
from v3d.views import Views

NOTE = (
    "Photos are of the front (1), the left side (2), the back (3) and the right side (4), each cut to its own"
    " framing and then registered. Views that photos were given of are left out; the baselines are given the"
    " front. `back.` is the half of the orbit behind the object. Chamfer distances are in world units (the"
    " orbit's radius is 2), F-scores are at 0.01. Seconds are CPU time, `mesh.seconds` from the views to the"
    " untextured mesh. `report.json` has every metric."
)
COLUMNS = (
    "psnr",
    "ssim",
    "foreground_psnr",
    "mask_iou",
    "lpips-alex",
    "lpips-vgg16",
    "vae-mini",
    "back.psnr",
    "back.mask_iou",
    "consistency.iou",
    *(f"{shape}.{metric}" for shape in ("hull", "mesh") for metric in ("chamfer", "iou", "f_score")),
    "seconds",
    "mesh.seconds",
)
"""The metrics that tables show; the JSON has all."""


class OrbitGenerator(Protocol):
    """`v3d.diffusion.generator.Generator`, or anything that is called like it."""

    @property
    def agrees_in_colour(self) -> bool:
        """Whether the colours of its views may shape a surface."""
        ...

    def __call__(self, photos: OrbitPhotos, *, seed: int, steps: int | None, guidance: float | None) -> Views:
        """The orbit of photos."""
        ...


def run(command: EvaluateGeneration, on_object: OnObject | None = None) -> dict[str, Any]:
    """Measure every object that `command.out` has no result of yet; returns the report.

    Raises:
        V3DError: objects or weights are missing, or `command.out` holds results of other settings.
    """
    settings = command.settings
    check_photos(settings.photos, settings.elevation)
    protocol = replace(GENERATION, size=command.size or GENERATION.size, elevation=settings.elevation)
    generator: Generator | None = None
    if command.model != "none":
        generator = Generator.from_pretrained(command.model, device=pick_device(command.device))
    elif command.sheet:
        raise V3DError("A contact sheet shows generated views; name a --model.")
    nearest = None
    if command.train_corpus is not None:
        if settings.elevation != 0:
            raise V3DError("The nearest training object is looked up from elevation 0 only.")
        index = command.train_index or command.out / "nearest.safetensors"
        exclude = set(object_ids(command.objects))
        nearest = NearestObject.open(command.train_corpus, index, protocol, exclude=exclude)
    network = Perceptual.load(command.perceptual) if command.perceptual else None
    preset = None if settings.mesh == "none" else PRESETS[settings.mesh]
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

    title = f"Generation from true photos at elevation {settings.elevation:g}"
    look = {"note": NOTE, "columns": COLUMNS}
    report = evaluate_objects(
        command.out, title, command.objects, header, measure, on_object, shard=command.shard, look=look
    )
    if command.sheet and generator is not None:
        _draw_sheet(command, protocol, generator, [ObjectResult(**one) for one in report["objects"]])
    return report


def method_of(count: int) -> str:
    """The name of generation from so many photos, in tables."""
    return f"generated, {count} photo{'s' if count > 1 else ''}"


def evaluate_generation(
    item: TestObject,
    protocol: ObjectProtocol,
    settings: GenerationSettings,
    generator: OrbitGenerator | None,
    nearest: NearestObject | None = None,
    perceptual: Perceptual | None = None,
    preset: Preset | None = None,
) -> ObjectResult:
    """Generate the orbit of one object from its true photos; compare the views not given with the true ones.

    Methods: "true views", "repeat the photo", "nearest training object" where its index is given, and where
    there is a generator "generated, k photos" for every number of `settings.photos`. The baselines are given
    the front alone. A method that fails with a `V3DError` is listed as a failure.

    Args:
        item: the object.
        protocol: places it and says what is seen of it.
        settings: numbers of photos, and of the sampler.
        generator: makes orbits of photos; None leaves the baselines.
        nearest: the index of the training objects.
        perceptual: also measures its distance.
        preset: builds the shape of every method's views, as the product would from the generator's, to
            compare it with the object; None builds none.
    """
    truth = protocol.true_orbit(item)
    true_mesh = protocol.place(item.mesh)
    photos_of = TruePhotos(item, protocol, truth)
    front = photos_of(1)
    methods: dict[str, Callable[[], tuple[Views, OrbitPhotos]]] = {
        "true views": lambda: (truth, front),
        "repeat the photo": lambda: (repeat_photo(front.images[0], truth), front),
    }
    if nearest is not None:
        methods["nearest training object"] = lambda: (nearest(front.images[0], protocol), front)
    if generator is not None:
        for count in settings.photos:
            methods[method_of(count)] = partial(_generate, generator, photos_of, count, settings)
    result = ObjectResult(item.id, item.hash, item.real_scan, {}, {})
    for method, make in methods.items():
        try:
            start = time.process_time()
            views, photos = make()
            seconds = time.process_time() - start
            given = photos.among(truth.cameras)
            scores = orbit_scores(views_at(truth.cameras, views), truth, perceptual, given=given)
            scores["seconds"] = seconds
            if preset is not None:
                agree = generator is None or generator.agrees_in_colour
                inputs = BuildInputs(views, photos.among(views.cameras), agree)
                scores |= shape_scores(inputs, true_mesh, protocol, preset, settings.seed)
            result.scores[method] = scores
        except V3DError as error:
            result.failures[method] = str(error)
    return result


def _generate(
    generator: OrbitGenerator, photos_of: TruePhotos, count: int, settings: GenerationSettings
) -> tuple[Views, OrbitPhotos]:
    """The generated views at the protocol's size, and the photos that they were generated from."""
    photos, size = photos_of(count), photos_of.protocol.size
    views = generator(photos, seed=settings.seed, steps=settings.steps, guidance=settings.guidance)
    return views.resized(size, size), photos


def views_at(cameras: Cameras, views: Views) -> Views:
    """The views that were taken from the places of `cameras`, in the order of `cameras`."""
    return views[torch.cdist(cameras.centers, views.cameras.centers).argmin(1).tolist()]


def repeat_photo(rgba: Tensor, truth: Views) -> Views:
    """The baseline that shows the photo [H, W, 4] (straight alpha) from every side."""
    alpha = rgba[..., 3]
    rgb = over_white(rgba[..., :3], alpha)
    V = len(truth)
    return Views(rgb.expand(V, -1, -1, -1), alpha.expand(V, -1, -1), truth.cameras)


def orbit_scores(
    views: Views, truth: Views, perceptual: Perceptual | None = None, *, given: Collection[int] = (0,)
) -> Metrics:
    """Means over the views that had to be invented, and over those of them that show the back half.

    Args:
        views: the generated views of the orbit.
        truth: the true views of these cameras.
        perceptual: also measures its distance, by its name.
        given: numbers of the views that photos were given of; they are left out.

    Returns:
        Metric -> mean over the views not given; `back.` + metric -> mean over those within 90 degrees of the
        back.
    """
    each = compare_views(views, truth)
    if perceptual is not None:
        with torch.no_grad():
            each[perceptual.name] = perceptual.distances(views.rgb, perceptual.prepare(truth.rgb))
    invented = torch.tensor([v not in given for v in range(len(truth))])
    turn = torch.arange(len(truth)) * 360.0 / len(truth)
    back = invented & ((turn - 180).abs() < 90)
    means = {name: float(values[invented].mean()) for name, values in each.items()}
    return means | {f"back.{name}": float(values[back].mean()) for name, values in each.items()}


def shape_scores(
    inputs: BuildInputs, truth: Mesh, protocol: ObjectProtocol, preset: Preset, seed: int
) -> Metrics:
    """How far the views agree with one solid, and how near the product's shapes of them are to the true mesh.

    The agreement (`consistency.*`) is that with the plain hull of the views, to which no photo adds anything.
    `mesh.*` is the product's mesh, `hull.*` the hull that its surface is fitted from; where none is fitted,
    the hull is the mesh. Views that have no solid in common score nan, an IoU and an F-score of 0.

    Returns:
        Metric -> value; `mesh.seconds` is CPU time of this process, from views to the untextured mesh.
    """
    views = inputs.views
    fitted = preset.surface is not None and inputs.agree_in_colour
    shapes = ("hull", "mesh") if fitted else ("mesh",)
    try:
        common = extract_mesh(build.hull(BuildInputs(views), preset), faces=preset.faces)
        scores = {
            "consistency.iou": float(silhouette_consistency(views, common).mean()),
            "consistency.psnr": float(warp_consistency(views, common).nanmean()),
        }
        measured = MeasuredBuild(inputs, preset, seed)
        if fitted:
            hull = build.shape(inputs, measured.hull, preset)
            scores |= _named("hull", protocol.compare(hull, truth))
            measured.splats(None)
        scores |= _named("mesh", protocol.compare(measured.shape, truth))
    except V3DError:
        nothing = {"chamfer": math.nan, "iou": 0.0, "f_score": 0.0}
        scores = dict.fromkeys(("consistency.iou", "consistency.psnr"), math.nan)
        for name in shapes:
            scores |= _named(name, nothing)
        return scores
    return scores | {"mesh.seconds": sum(measured.seconds.values())}


def _named(shape: str, scores: Metrics) -> Metrics:
    return {f"{shape}.{metric}": scores[metric] for metric in ("chamfer", "iou", "f_score")}


def _draw_sheet(
    command: EvaluateGeneration,
    protocol: ObjectProtocol,
    generator: OrbitGenerator,
    results: list[ObjectResult],
) -> None:
    """Write `contact_sheet.jpg`: the chosen objects' views are generated again, from the same seed."""
    settings = command.settings
    count = settings.photos[-1]
    method = method_of(count)
    psnr = {r.id: r.scores[method]["psnr"] for r in results if method in r.scores}
    columns = []
    titles = ("Real scans, best to worst", "Made objects, best to worst")
    for title, ids in zip(titles, choose_objects(results, method, command.sheet), strict=True):
        rows = []
        for item in load_objects(command.objects, ids):
            truth = protocol.true_orbit(item)
            views, photos = _generate(generator, TruePhotos(item, protocol, truth), count, settings)
            label = f"{item.id}   {psnr[item.id]:.2f} dB"
            rows.append(SheetRow(label, photos.images[0], views_at(truth.cameras, views), truth))
        columns.append((title, rows))
    with atomic(command.out / "contact_sheet.jpg") as temporary:
        generation_sheet(columns).save(temporary, quality=88)
