"""Held-out views of scenes: what 1, 3 or 6 posed photos are worth, against views that nobody was shown."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from v3d.cameras import Cameras
from v3d.capture.readers import find_photos, read_scene_views
from v3d.data.scene_shards import SceneShards
from v3d.digests import digest
from v3d.errors import V3DError
from v3d.evaluation.report import ObjectResult, ResultFile, make_report
from v3d.evaluation.settings import EvaluateScenes, OnObject, SceneEvaluationSettings
from v3d.evaluation.splits import Split, read_splits, scene_name
from v3d.metrics import psnr, ssim
from v3d.networks.perceptual import Perceptual
from v3d.provenance import provenance
from v3d.runtime import pick_device, tune_malloc
from v3d.scene.clips import ClipModel, generate_path, spread
from v3d.scene.fit import fit_scene
from v3d.scene.model import SceneModel, SceneViews, square
from v3d.scene.normalise import normalise
from v3d.scene.presets import SCENE_PRESETS
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import rasterize
from v3d.views import Views


def run(command: EvaluateScenes, on_object: OnObject | None = None) -> dict[str, Any]:
    """Measure every scene that `command.out` has no result of yet; returns the report.

    Raises:
        V3DError: scenes or weights are missing, or `command.out` holds results of other settings.
    """
    tune_malloc()
    if not command.sources or min(command.sources) < 1:
        raise V3DError("Give --sources numbers of photos of 1 or more.")
    protocol = SceneProtocol(sources=command.sources, size=command.size or SceneProtocol.size)
    splits = _splits(command)
    paths = list(splits) or command.scenes
    ids = scene_ids(paths, command.limit)
    model: ClipModel | None = None
    if command.model != "none":
        model = SceneModel.load(command.model, pick_device(command.device))
    networks = [Perceptual.load(kind) for kind in command.perceptual]
    header = {
        "protocol": protocol.as_dict(),
        "settings": asdict(command.settings),
        "preset": asdict(SCENE_PRESETS[command.settings.quality]),
        "model": command.model,
        "model_hash": model.hash if model else None,
        "perceptual": [network.name for network in networks],
        "split": command.split.name if command.split else None,
    }
    file = ResultFile(command.out / "results.jsonl", header)
    missing = [name for name in ids if name not in file.done]
    for scene in load_scenes(paths, missing, protocol, splits):
        file.add(evaluate_scene(scene, protocol, command.settings, model, networks))
        if on_object:
            on_object(scene.id, len(file.done & set(ids)), len(ids))
    results = [r for r in file.results if r.id in ids]
    return make_report("Held-out views of scenes", results, header | provenance(), command.out)


@dataclass(frozen=True)
class SceneProtocol:
    """Which views are shown and which are asked for.

    Sources are the views that differ most (`v3d.scene.clips.spread`), so fewer are a part of more. Targets
    are the views that are never a source, whatever the number of sources.

    Attributes:
        version: changes whenever numbers would.
        size: pixels of a view's side; photos that are not square lose their ends.
        views: at most so many of a scene, evenly spread over its list.
        sources: numbers of source views.
    """

    version: str = "scenes-1"
    size: int = 128
    views: int = 24
    sources: tuple[int, ...] = (1, 3, 6)

    def as_dict(self) -> dict[str, Any]:
        """Every field, for the header of results."""
        return asdict(self)

    def split(self, cameras: Cameras) -> tuple[list[int], list[int]]:
        """Sources, best first, and targets.

        Raises:
            V3DError: no view would be left to ask for.
        """
        most = max(self.sources)
        if len(cameras) <= most:
            raise V3DError(
                f"A scene of {len(cameras)} views leaves none to compare with after {most} sources; "
                "give scenes of more views."
            )
        sources = spread(cameras, most)
        return sources, [i for i in range(len(cameras)) if i not in sources]


@dataclass(frozen=True)
class TestScene:
    """A scene in the normalised world.

    Attributes:
        id: unique name.
        views: square.
        real: photos; else rendered.
        given: so many of the first views are the sources, and all others are asked for, as a published split
            says; 0 leaves the choice to the protocol.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    id: str
    views: Views
    real: bool
    given: int = 0

    @property
    def hash(self) -> str:
        """Fingerprint of the images and cameras."""
        return digest([self.views.rgb, self.views.cameras])


def scene_ids(paths: Sequence[Path], limit: int = 0) -> list[str]:
    """Names of the scenes of shard folders and captures, in order; `limit` evenly spread ones (0: all).

    Raises:
        V3DError: there is no scene.
    """
    names = [name for path in paths for name in _names(path)]
    if not names:
        raise V3DError("There is no scene to evaluate; give folders of rendered scenes or of posed photos.")
    if limit and len(names) > limit:
        names = [names[i * len(names) // limit] for i in range(limit)]
    return names


def load_scenes(
    paths: Sequence[Path],
    ids: Sequence[str],
    protocol: SceneProtocol,
    splits: Mapping[Path, Split] | None = None,
) -> Iterator[TestScene]:
    """The scenes of these names, one at a time.

    Args:
        splits: of captures: which of their frames are given and asked for.

    Raises:
        V3DError: a capture cannot be read, or has not the frames of its split.
    """
    splits = splits or {}
    for path in paths:
        shards = SceneShards(path) if _holds_shards(path) else None
        for k, name in enumerate(_names(path)):
            if name not in ids:
                continue
            if shards is not None:
                rgb, cameras, _ = shards[k]
                views = Views(rgb.float() / 255, torch.ones(rgb.shape[:3]), cameras)
                views = views[_evenly(len(views), protocol.views)]
            else:
                views = _photographed(path, protocol, splits.get(path))
            if views.cameras.width != protocol.size:
                views = views.resized(protocol.size, protocol.size)
            given = len(splits[path].given) if path in splits else 0
            yield TestScene(name, views, real=shards is None, given=given)


def _photographed(path: Path, protocol: SceneProtocol, split: Split | None) -> Views:
    """The views of a capture: those of its split, given ones first, or some evenly spread ones."""
    capture = find_photos(path)
    for note in capture.notes:
        warnings.warn(note, stacklevel=2)
    count = len(capture.photos)
    numbers: Sequence[int] = _evenly(count, protocol.views)
    if split is not None:
        if capture.missing:
            raise V3DError(
                f"{len(capture.missing)} photos of {path} are missing, such as {capture.missing[0]}; a split "
                "counts all frames, so give the whole capture."
            )
        split = split.checked(count, scene_name(path))
        numbers = (*split.given, *split.asked)
    views = square(read_scene_views([capture.photos[i] for i in numbers], max_size=4 * protocol.size))
    return Views(views.rgb, views.alpha, normalise(views.cameras)[0].to_float32())


def evaluate_scene(
    scene: TestScene,
    protocol: SceneProtocol,
    settings: SceneEvaluationSettings,
    model: ClipModel | None,
    networks: Sequence[Perceptual] = (),
) -> ObjectResult:
    """Every method from every number of photos, compared with the views that are never a source.

    Methods, each after "k photos: ": "nearest source view"; "generated" and "PixelNeRF RGB alone" (with a
    model); "splats of the photos" (with `settings.splats`) and "splats of photos and generated" (with both).
    Metrics: mean PSNR and SSIM, the mean distance by each network's name, and CPU `seconds`; later methods
    take what earlier ones made. A method that fails with a `V3DError` is listed as a failure.
    """
    counts: tuple[int, ...] = protocol.sources
    if scene.given:
        counts, frames = (scene.given,), list(range(len(scene.views)))
        order, targets = frames[: scene.given], frames[scene.given :]
    else:
        order, targets = protocol.split(scene.views.cameras)
    truth = scene.views[targets]
    features = [network.prepare(truth.rgb) for network in networks]
    result = ObjectResult(scene.id, scene.hash, scene.real, {}, {})

    def judge(views: Views) -> dict[str, float]:
        scores = {
            "psnr": float(psnr(views.rgb, truth.rgb).mean()),
            "ssim": float(ssim(views.rgb, truth.rgb).mean()),
        }
        with torch.no_grad():
            for network, target in zip(networks, features, strict=True):
                scores[network.name] = float(network(views.rgb, target))
        return scores

    for count in counts:
        for method, make in _methods(scene.views[order[:count]], truth.cameras, settings, model).items():
            name = f"{count} {'photo' if count == 1 else 'photos'}: {method}"
            try:
                start = time.process_time()
                views = make()
                seconds = time.process_time() - start
                result.scores[name] = judge(views) | {"seconds": seconds}
            except V3DError as error:
                result.failures[name] = str(error)
    return result


def _methods(
    sources: Views, targets: Cameras, settings: SceneEvaluationSettings, model: ClipModel | None
) -> dict[str, Callable[[], Views]]:
    """What makes the targets of the sources, by name; later ones use what earlier ones made."""
    fit = SCENE_PRESETS[settings.quality].fit

    @cache
    def generated() -> SceneViews:
        assert model is not None
        return generate_path(model, sources, targets, seed=settings.seed, steps=settings.steps)

    def splats(more: SceneViews | None) -> Views:
        views, depth = (None, None) if more is None else (more.views, more.depth)
        return _rendered(fit_scene(sources, views, depth, fit, seed=settings.seed), targets)

    methods: dict[str, Callable[[], Views]] = {
        "nearest source view": lambda: nearest_source(sources, targets)
    }
    if model is not None:
        methods["generated"] = lambda: generated().views.resized(targets.width, targets.height)
        methods["PixelNeRF RGB alone"] = lambda: generated().guide.resized(targets.width, targets.height)
    if settings.splats:
        methods["splats of the photos"] = lambda: splats(None)
    if settings.splats and model is not None:
        methods["splats of photos and generated"] = lambda: splats(generated())
    return methods


def nearest_source(sources: Views, targets: Cameras) -> Views:
    """The baseline that shows the source whose camera is nearest.

    The distance of two cameras is that of their centres plus that of their unit viewing directions (in the
    normalised world, where the farthest camera stands at 1.5).
    """
    distance = torch.cdist(targets.centers, sources.cameras.centers)
    distance = distance + torch.cdist(targets.c2w[:, :3, 2], sources.cameras.c2w[:, :3, 2])
    nearest = distance.argmin(1).tolist()
    return Views(sources.rgb[nearest], sources.alpha[nearest], targets)


@torch.no_grad()
def _rendered(splats: Splats, cameras: Cameras) -> Views:
    images = rasterize(splats, cameras)
    return Views(images.over(1.0).clamp(0, 1), images.alpha, cameras)


def _splits(command: EvaluateScenes) -> dict[Path, Split]:
    """The captures that the command's split is of, with theirs; none without a split."""
    if command.split is None:
        return {}
    if rendered := [path for path in command.scenes if _holds_shards(path)]:
        raise V3DError(f"{rendered[0]} holds rendered scenes; a split is of captures with a transforms.json.")
    return read_splits(command.split, command.scenes)


def _names(path: Path) -> list[str]:
    """`folder-00007` for the scenes of a shard folder, the folder's name for a capture."""
    if not _holds_shards(path):
        return [scene_name(path)]
    return [f"{path.resolve().name}-{i:05d}" for i in range(len(SceneShards(path)))]


def _holds_shards(path: Path) -> bool:
    return path.is_dir() and any(path.glob("scenes-*.safetensors"))


def _evenly(count: int, most: int) -> list[int]:
    return [i * count // min(most, count) for i in range(min(most, count))]
