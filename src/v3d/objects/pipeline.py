"""Photos -> an asset, stage by stage as in the paper.

photos -> orbit views (video diffusion) -> hull (space carving) -> splats (3D Gaussians) -> surface
(NeuS-style distance field) -> textured mesh -> files. Finished stages are kept in the run's folder, see
`v3d.run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from v3d.callbacks import OnProgress
from v3d.capture.images import existing
from v3d.capture.readers import common_size, find_photos, read_object_views
from v3d.diffusion.generator import load_generator
from v3d.diffusion.photos import check_sides
from v3d.errors import V3DError
from v3d.finishing.purposes import Plan, plan_of
from v3d.meshes.mesh import Mesh
from v3d.objects.around import views_around
from v3d.objects.build import BuildInputs, shape
from v3d.objects.finish_stage import check_finish, finish_stage
from v3d.objects.memory import affordable_side, reserve
from v3d.objects.output_stages import export_stage, preview_stage
from v3d.objects.presets import Preset, preset_of
from v3d.objects.stages import (
    edited_views,
    generate_stage,
    hull_stage,
    mesh_stage,
    photo_stage,
    splats_of_mesh_stage,
    splats_stage,
    surface_stage,
    views_stage,
)
from v3d.run import RunFolder, other_than, run_name
from v3d.runtime import pick_device, tune_malloc
from v3d.settings import FinishSettings, GenerateSettings, OrbitSettings, ReconstructSettings, Up
from v3d.splats.gaussians import Splats
from v3d.views import Views

_ALL_FACES = 300_000  # of a dense mesh: more than quality high has, and what a slicer still opens at once


@dataclass(frozen=True)
class Asset:
    """What a run made.

    Attributes:
        folder: where its files are.
        views: the orbit, or the posed views, that the rest was made from.
        splats: the Gaussians; None where the run stopped before them.
        mesh: the textured mesh; None where the run stopped before it.
        report: what `report.json` says.
    """

    folder: Path
    views: Views
    splats: Splats | None
    mesh: Mesh | None
    report: dict[str, Any]


def generate(
    photos: str | Path | Mapping[float, str | Path],
    out: str | Path,
    settings: GenerateSettings | None = None,
    *,
    name: str | None = None,
    title: str | None = None,
    masks: str | Path | Mapping[float, str | Path] | None = None,
    finish: FinishSettings | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Asset:
    """Make an asset from photos of one object, in the folder `out/<name of the front photo>`.

    Args:
        photos: an image file of the object, seen from the front; or several by their azimuth in degrees,
            counter-clockwise seen from above: `{0: front, 90: left, 180: back, 270: right}`, where left is
            the object's own left side. Any azimuths will do; the front is needed.
        out: the folder that gets the run's folder.
        settings: those of `GenerateSettings()` where none are given.
        name: of the run's folder, in place of the front photo's.
        title: of the object in files, in place of the folder's name.
        masks: images that say where the object is, by the azimuth of their photo, or that of the front alone;
            photos without one are cut out. The `cutout.png` of an earlier run will do, as it is or corrected.
        finish: make the mesh ready for a game, a print or a web page, in the run's folder `finished`.
        force: compute finished stages anew.
        on_progress: called as the stages go on, see `v3d.callbacks.OnProgress`.

    Raises:
        V3DError: a photo, the weights or the folder cannot be used, or what is asked of the mesh cannot be.
    """
    settings = settings or GenerateSettings()
    plan = _plan(finish, settings)
    sides = checked_sides(photos, settings.elevation)
    front = sides[0.0]
    given = _masks(masks, sides)
    device = pick_device(settings.device)
    tune_malloc()
    folder = other_than(front.parent, Path(out) / (name or front.stem))
    generator = load_generator(settings.model, device)  # before anything is written: the name may be wrong
    with RunFolder(folder, settings, title=title, force=force, on_progress=on_progress) as run:
        framed, key = photo_stage(
            run, sides, masks=given, elevation=settings.elevation, recentre=settings.recentre
        )
        views, views_key = generate_stage(run, generator, framed, key, settings)
        agree = generator.agrees_in_colour
        inputs = BuildInputs(views, framed.among(views.cameras), agree, edited_views(run, agree))
        return _build(run, inputs, views_key, settings, plan, device)


def _plan(finish: FinishSettings | None, settings: ReconstructSettings) -> Plan | None:
    """What is done to the mesh; None where nothing is.

    Raises:
        V3DError: it cannot be done.
    """
    plan = None if finish is None else plan_of(finish)
    check_finish(plan, settings)
    return plan


def checked_sides(photos: str | Path | Mapping[float, str | Path], elevation: float) -> dict[float, Path]:
    """Azimuth in [0, 360) -> photo, the front first, then counter-clockwise.

    Args:
        photos: as `generate` takes them.
        elevation: that they were taken from, degrees.

    Raises:
        V3DError: a file is missing, there is no front, or two photos are of one side.
    """
    given = {0.0: photos} if isinstance(photos, (str, Path)) else photos
    azimuths = tuple(sorted(float(azimuth) % 360 for azimuth in given))
    check_sides(azimuths, elevation)
    sides = {float(azimuth) % 360: existing(path) for azimuth, path in given.items()}
    return {azimuth: sides[azimuth] for azimuth in azimuths}


def _masks(
    masks: str | Path | Mapping[float, str | Path] | None, sides: Mapping[float, Path]
) -> dict[float, Path]:
    """Azimuth in [0, 360) -> mask.

    Raises:
        V3DError: a file is missing, or its photo is.
    """
    given = {} if masks is None else {0.0: masks} if isinstance(masks, (str, Path)) else masks
    found = {float(azimuth) % 360: existing(path) for azimuth, path in given.items()}
    for azimuth, path in found.items():
        if azimuth not in sides:
            raise V3DError(f"The mask {path.name} is for a photo at {azimuth:g} degrees, but there is none.")
    return found


def reconstruct(
    views: str | Path | Views,
    out: str | Path,
    settings: ReconstructSettings | None = None,
    *,
    orbit: OrbitSettings | None = None,
    photo: str | Path | None = None,
    up: Up = "auto",
    finish: FinishSettings | None = None,
    name: str | None = None,
    title: str | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Asset:
    """Make an asset from posed views, in the folder `out/<name of the views' folder>`.

    The asset stands in the world of the orbit. Where the views came in another world, the `placement` in
    `report["stages"]["views"]` says how its points x came there: matrix @ (x, 1), where the matrix
    is a turn, a scale and a shift.

    Args:
        views: a capture in any format that `v3d.capture.readers` knows, or views in memory (their run's
            folder is then `out` itself). Listed photos that do not exist are left out, with a warning. With
            `orbit` pictures without cameras: a video, a folder of images, or one image with a grid of them.
        out: the folder that gets the run's folder.
        settings: those of `ReconstructSettings()` where none are given.
        orbit: `views` are pictures around the object; says what is known of their cameras.
        photo: a sharper photo of view 0, for the texture; the shape fills this view's silhouette.
        up: the axis of the views' world that is up; auto finds it from the cameras.
        finish: make the mesh ready for a game, a print or a web page, in the run's folder `finished`.
        name: of the run's folder, in place of the views' folder's.
        title: of the object in files, in place of the folder's name.
        force: compute finished stages anew.
        on_progress: called as the stages go on, see `v3d.callbacks.OnProgress`.

    Raises:
        V3DError: the views, the photo or the folder cannot be used, or what is asked of the mesh cannot be.
    """
    settings = settings or ReconstructSettings()
    plan, device = _plan(finish, settings), pick_device(settings.device)
    photo = None if photo is None else existing(photo)
    tune_malloc()
    folder = Path(out)
    if not isinstance(views, Views):
        folder = other_than(Path(views), folder / (name or run_name(Path(views))))
    posed, notes, memory = _posed(views, orbit, preset_of(settings, plan))
    with RunFolder(
        folder, settings, title=title, warnings=notes, force=force, on_progress=on_progress
    ) as run:
        run.report["memory_estimate_mb"] = memory
        photos = {} if photo is None else {0: photo_stage(run, {0.0: photo})[0].images[0]}
        placed, key = views_stage(run, posed, up)
        del posed  # as large as what was placed
        return _build(
            run, BuildInputs(placed, photos, edited=edited_views(run, True)), key, settings, plan, device
        )


def _posed(
    views: str | Path | Views, orbit: OrbitSettings | None, preset: Preset
) -> tuple[Views, list[str], int]:
    """The views that `reconstruct` is given, notes on them, and the MB of memory that the run will take.

    Raises:
        V3DError: they cannot be read, or there is less memory.
    """
    if isinstance(views, Views):
        return views, [], reserve(len(views), views.cameras.width, views.cameras.height, preset)
    if orbit is not None:
        pictures = views_around(views, orbit, max_size=preset.largest_view)
        cameras = pictures.views.cameras
        return (
            pictures.views,
            list(pictures.notes),
            reserve(len(cameras), cameras.width, cameras.height, preset),
        )
    if Path(views).is_file() and Path(views).suffix.lower() != ".json":
        raise V3DError(
            f"{Path(views).name} has no cameras: add --orbit if its pictures go around the object, "
            "or give a folder of posed photos."
        )
    capture = find_photos(views)
    sizes = [photo.size() for photo in capture.photos]
    side, reduced = affordable_side(len(sizes), *common_size(sizes, preset.largest_view), preset)
    memory = reserve(len(sizes), *common_size(sizes, side), preset)
    notes = [*capture.notes, *reduced]
    posed = read_object_views(capture.photos, max_size=side, warn=notes.append)
    return posed, notes, memory


def _build(
    run: RunFolder,
    inputs: BuildInputs,
    views_key: str,
    settings: ReconstructSettings,
    plan: Plan | None,
    device: str,
) -> Asset:
    """Views -> hull -> splats -> surface -> textured mesh -> files, as far as the settings ask for.

    Where the views do not agree in colour, the splats are made of the mesh, and come last.
    """
    splats, mesh, keys = None, None, [views_key]
    preset, seed = preset_of(settings, plan), settings.seed
    if settings.until != "views":
        hull, hull_key = hull_stage(run, inputs, views_key, preset)
        if inputs.agree_in_colour:
            splats, key = splats_stage(run, inputs, hull, hull_key, preset, seed, device)
            keys.append(key)
        if settings.until == "mesh" or not inputs.agree_in_colour:
            needed = [hull_key, *keys[1:]]
            surface, key = surface_stage(run, inputs, hull, splats, needed, preset, seed, device)
            mesh, key = mesh_stage(run, inputs, surface, key, preset, device)
            keys.append(key)
            all_faces = replace(preset, faces=_ALL_FACES)
            finish_stage(run, mesh, lambda: shape(inputs, surface, all_faces), key, plan, settings.formats)
            if splats is None:
                splats, key = splats_of_mesh_stage(run, inputs, mesh, key, preset, seed, device)
                keys.append(key)
    unfinished = mesh if plan is None else None  # otherwise the formats are of the finished mesh
    export_stage(run, splats, unfinished, keys, settings.formats)
    preview_stage(run, inputs, splats, mesh, keys, preset)
    return Asset(run.path, inputs.views, splats, mesh, run.report)
