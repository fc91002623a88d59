"""A few posed photos -> a scene: views along a camera path (the paper's third part), then Gaussians.

photos -> normalised world -> views, clip by clip -> Gaussians of photos and views -> videos. Finished stages
are kept in the run's folder, see `v3d.run.RunFolder`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from v3d.callbacks import OnProgress
from v3d.cameras import Cameras
from v3d.capture.posed import Capture
from v3d.capture.readers import find_photos, load_scene_views, read_scene_views
from v3d.digests import file_digest
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.placement import Similarity, single_precision, up_sentence
from v3d.preview import sheet_of_rows
from v3d.run import RunFolder, Stage, other_than, run_name, save_tensors
from v3d.runtime import pick_device, tune_malloc
from v3d.scene.clips import ClipModel, generate_path
from v3d.scene.depth import content_depth
from v3d.scene.fit import fit_scene
from v3d.scene.model import SceneModel, SceneViews
from v3d.scene.normalise import meet_clearly, normalise
from v3d.scene.path_files import read_path
from v3d.scene.paths import dolly_path, orbit_path, spiral_path, through_path
from v3d.scene.presets import SCENE_PRESETS, ScenePreset
from v3d.settings import SceneSettings, Up
from v3d.splats.files.ply import load_ply, save_ply
from v3d.splats.gaussians import Splats
from v3d.splats.live import LIVE, LivePicture
from v3d.splats.rasterize import splat_renderer
from v3d.video import save_video
from v3d.views import Views, save_views

_DEPTH = ".stages/depth.safetensors"
PATHS: dict[str, Callable[[Cameras, int], Cameras]] = {
    "orbit": orbit_path,
    "spiral": spiral_path,
    "dolly": dolly_path,
    "interpolate": through_path,
}
CLOSED = ("orbit", "spiral")


@dataclass(frozen=True)
class SceneAsset:
    """What a run made, in the normalised world (z up, the farthest photo at 1.5).

    Attributes:
        folder: where its files are.
        given: the photos, without lens distortion.
        views: generated along the path; None for `--path none`.
        splats: Gaussians of the scene.
        report: what `report.json` says; `report["stages"]["read"]["normalisation"]` maps the photos' own
            world to the normalised one.
    """

    folder: Path
    given: Views
    views: Views | None
    splats: Splats
    report: dict[str, Any]


def generate_scene(
    path: str | Path,
    out: str | Path,
    settings: SceneSettings | None = None,
    *,
    up: Up = "auto",
    name: str | None = None,
    model: ClipModel | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> SceneAsset:
    """Make views along a camera path and Gaussians of a scene, in the folder `out/<name of the input>`.

    Args:
        path: posed photos, in any format that `v3d.capture.readers` knows.
        out: the folder that gets the run's folder.
        settings: defaults of `SceneSettings` where there are none.
        up: the axis of the photos' world that is up; auto finds it from the cameras.
        name: of the run's folder, in place of the input's.
        model: in place of the one that the settings name, for example one that is already loaded.
        force: compute finished stages anew.
        on_progress: called as the stages go on, see `v3d.callbacks.OnProgress`.

    Raises:
        V3DError: the photos, the path, the weights or the folder cannot be used.
    """
    settings = settings or SceneSettings()
    path = Path(path)
    device = pick_device(settings.device)
    preset = SCENE_PRESETS[settings.quality]
    capture = find_photos(path)
    path_name = settings.path or ("interpolate" if len(capture.photos) > 1 else "spiral")
    _check(settings, path_name, len(capture.photos))
    path_file = read_path(path_name) if path_name.endswith(".json") else None  # in the photos' own world
    tune_malloc()
    if model is None and path_name != "none":
        model = SceneModel.load(settings.model, device)
    folder = other_than(path, Path(out) / (name or run_name(path)))
    with RunFolder(folder, settings, warnings=capture.notes, force=force, on_progress=on_progress) as run:
        given, key = read_stage(run, capture, preset, up)
        if path_file is not None:
            matrix = run.report["stages"]["read"]["normalisation"]["matrix"]
            to_normalised = Similarity(torch.tensor(matrix, dtype=torch.float64))
            route = single_precision(to_normalised.apply(path_file))
        else:  # Gaussians of photos alone are shown from between the photos
            route = PATHS["interpolate" if path_name == "none" else path_name](given.cameras, settings.frames)
        generated, depth, keys = None, None, [key]
        if model is not None and path_name != "none":
            sources = given[settings.sources] if settings.sources else given
            closed = path_name in CLOSED
            (generated, depth), key = path_views_stage(run, sources, route, closed, key, model, settings)
            keys.append(key)
        splats, key = scene_splats_stage(run, given, generated, depth, keys, preset, settings.seed, device)
        video_stage(run, given, generated, splats, route, [*keys, key], preset)
        return SceneAsset(run.path, given, generated, splats, run.report)


def read_stage(run: RunFolder, capture: Capture, preset: ScenePreset, up: Up) -> tuple[Views, str]:
    """The photos as views without lens distortion, in the normalised world."""
    photos = capture.photos

    def compute(stage: Stage) -> Views:
        views = read_scene_views(photos, max_size=preset.view_size, warn=stage.warn)
        depth = None if meet_clearly(views.cameras) else content_depth(views, capture.points)
        if depth is None and not meet_clearly(views.cameras):
            stage.warn(
                "Neither the directions of the cameras nor what the photos share says how far away the scene "
                "is, so its scale is a guess; photos that look at one thing from several sides tell."
            )
        cameras, similarity = normalise(views.cameras, up=up, depth=depth)
        if up == "auto" and similarity.turns:
            stage.warn(up_sentence(similarity))
        stage.facts |= {"photos": len(views), "depth": depth, "normalisation": similarity.to_json()}
        return Views(views.rgb, views.alpha, single_precision(cameras))

    return run.stage(
        "read",
        version=2,
        inputs=[
            [[file_digest(p.file), p.c2w, p.lens] for p in photos],
            preset.view_size,
            up,
            capture.points,
        ],
        files=["given/views", "given/transforms.json"],
        compute=compute,
        save=lambda views: save_views(views, run / "given"),
        load=lambda: load_scene_views(run / "given"),
    )


def path_views_stage(
    run: RunFolder,
    sources: Views,
    route: Cameras,
    closed: bool,
    key: str,
    model: ClipModel,
    settings: SceneSettings,
) -> tuple[tuple[Views, Tensor], str]:
    """Views along the path, and their camera depth [V, h, w] (0 where unknown)."""

    def compute(stage: Stage) -> SceneViews:
        stage.facts["model"] = {"name": settings.model, "hash": model.hash}
        return generate_path(
            model, sources, route, closed=closed, seed=settings.seed, steps=settings.steps, on_step=stage.step
        )

    def save(generated: SceneViews) -> None:
        save_views(generated.views, run.path)
        save_tensors(run / _DEPTH, {"depth": generated.depth.float()})

    return run.stage(
        "views",
        version=1,
        inputs=[key, sources.cameras, route, closed, model.hash, settings.seed, settings.steps],
        files=["views", "transforms.json", _DEPTH],
        compute=compute,
        save=save,
        load=lambda: (load_scene_views(run.path), load_file(run / _DEPTH)["depth"]),
    )


def scene_splats_stage(
    run: RunFolder,
    given: Views,
    generated: Views | None,
    depth: Tensor | None,
    keys: list[str],
    preset: ScenePreset,
    seed: int,
    device: str,
) -> tuple[Splats, str]:
    """Gaussians of the photos and the generated views."""

    def compute(stage: Stage) -> Splats:
        with LivePicture(run / LIVE, given.cameras[0]) as live:
            splats = fit_scene(
                given.to(device),
                None if generated is None else generated.to(device),
                None if depth is None else depth.to(device),
                preset.fit,
                on_step=stage.step,
                on_splats=live,
                seed=seed,
            ).to("cpu")
        stage.facts |= {"gaussians": len(splats), "device": device}
        return splats

    return run.stage(
        "splats",
        version=2,
        inputs=[keys, preset.fit, seed],
        files=["splats.ply"],
        compute=compute,
        save=lambda splats: save_ply(run / "splats.ply", splats),
        load=lambda: load_ply(run / "splats.ply"),
    )


def video_stage(
    run: RunFolder,
    given: Views,
    generated: Views | None,
    splats: Splats,
    route: Cameras,
    keys: list[str],
    preset: ScenePreset,
) -> None:
    """The generated views and the Gaussians along the path as videos, and one sheet of everything."""
    render = splat_renderer(splats)
    scale = preset.video_size / max(route.width, route.height)
    # Even sides: the video format asks for them.
    width, height = (2 * max(1, round(side * scale / 2)) for side in (route.width, route.height))

    def save(frames: Tensor) -> None:
        rows = {"Photos": given.rgb}
        if generated is not None:
            rows["Views"] = generated.rgb
            save_video(generated.rgb, run / "views.mp4")
        save_video(frames, run / "splats.mp4")
        with atomic(run / "preview.png") as temporary:
            sheet_of_rows(rows | {"Gaussians": frames}).save(temporary)

    run.stage(
        "video",
        version=1,
        inputs=[keys, route, preset.video_size],
        files=["preview.png", "splats.mp4", *(["views.mp4"] if generated is not None else [])],
        compute=lambda stage: render(route.resized(width, height)),
        save=save,
        load=lambda: None,
    )


def _check(settings: SceneSettings, path_name: str, photos: int) -> None:
    """Refuse settings that do not fit the number of photos.

    Raises:
        V3DError: there is no such path or photo, or nothing to make Gaussians of.
    """
    if path_name not in PATHS and path_name != "none" and not path_name.endswith(".json"):
        raise V3DError(f"There is no path {path_name!r}; choose {', '.join(PATHS)}, none, or a .json file.")
    if path_name == "none" and photos < 2:
        raise V3DError(
            "One photo alone makes no Gaussians of a scene; choose a --path to generate views along."
        )
    missing = [i for i in settings.sources if not 0 <= i < photos]
    if missing:
        raise V3DError(f"There is no photo number {missing[0]}: there are {photos}, counted from 0.")
