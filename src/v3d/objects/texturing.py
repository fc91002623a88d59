"""A given mesh gets a new texture, of posed views or of photos; its vertices and uv stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from v3d.callbacks import OnProgress
from v3d.capture.readers import find_photos, read_object_views
from v3d.diffusion.generator import Generator, load_generator
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.meshes.files import read_mesh
from v3d.meshes.folders import SCANNED_OBJ, is_scanned_object
from v3d.meshes.reading.parts import Part
from v3d.objects.build import BuildInputs
from v3d.objects.mesh_in_views import Laid, find_in_views, framed, lay_drawn, lay_photos, move, moved
from v3d.objects.output_stages import export_stage, preview_stage
from v3d.objects.pipeline import Asset, checked_sides
from v3d.objects.presets import preset_of
from v3d.objects.stages import generate_stage, photo_stage, photos_of_run, views_stage
from v3d.objects.texture_stages import Shape, texture_stage, uv_stage
from v3d.placement import Similarity
from v3d.run import RunFolder, changed_files, other_than
from v3d.runtime import pick_device, tune_malloc
from v3d.settings import GenerateSettings, Up
from v3d.texture.project import register_photo
from v3d.texture.tiles import area_seen
from v3d.views import Views

_GOOD_IOU = 0.85  # of the mesh and the views
_SMALL = 0.01  # of the surface: less is not worth a word
Source = str | Path | Mapping[float, str | Path]


def texture_mesh(
    mesh: str | Path,
    source: Source | None,
    out: str | Path,
    settings: GenerateSettings | None = None,
    *,
    up: Up = "auto",
    name: str | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Asset:
    """Give a mesh a new texture, in the folder `out/<name of the mesh>`; nothing else of it changes.

    `mesh.glb` there has the nodes, the meshes, the vertices and the uv of a glTF file to the bit, or those of
    a file of another format; only what has no uv is unwrapped. An OBJ with uv comes back as `mesh.obj` too.

    Args:
        mesh: a GLB, glTF, OBJ, PLY or STL file; or the folder of a run, which has `mesh.glb` and its views.
        source: where colours come from. Photos of the object: the file of the front's, or several by their
            azimuth in degrees, as for `v3d.objects.pipeline.generate`; the mesh is laid under them by its
            outlines, and what they do not show is drawn by the model. Or posed views around the mesh, in any
            format that `v3d.capture.readers` knows, in whose world the mesh stands. None for a run's own
            views: those that were changed since the run wrote them win over the others.
        out: the folder that gets the run's folder.
        settings: quality, texture size, formats, and of photos the model's. `faces` and `until` do not count.
        up: the axis of the views' world that is up; auto finds it from the cameras.
        name: of the run's folder, in place of the mesh's.
        force: compute finished stages anew.
        on_progress: called as the stages go on, see `v3d.callbacks.OnProgress`.

    Returns:
        The asset, without splats.

    Raises:
        V3DError: the mesh, the photos or the views cannot be used, or do not belong together.
    """
    settings = settings or GenerateSettings()
    file, found_name, source = _inputs(Path(mesh), source)
    device = pick_device(settings.device)
    tune_malloc()
    folder = other_than(file.parent, Path(out) / (name or found_name))
    opened = partial(RunFolder, folder, settings, force=force, on_progress=on_progress)
    photos = _photos(source)
    if photos is not None:
        sides = checked_sides(photos, settings.elevation)
        generator = load_generator(settings.model, device)
        with opened() as run:
            shape = uv_stage(run, file, preset_of(settings), found_name)
            return _textured(run, shape, _photographed(run, sides, generator, settings), settings, device)
    assert not isinstance(source, Mapping)
    other_than(Path(source), folder)
    posed = _posed(source, preset_of(settings).largest_view)
    with opened(warnings=posed.notes) as run:
        shape = uv_stage(run, file, preset_of(settings), found_name)
        return _textured(run, shape, _viewed(run, posed, up), settings, device)


def _textured(run: RunFolder, shape: Shape, seen: _Seen, settings: GenerateSettings, device: str) -> Asset:
    """The mesh with what was seen, and pictures of it."""
    preset = preset_of(settings)
    key = texture_stage(run, shape, seen.lay, seen.keys, preset, device)
    result = read_mesh(run / "mesh.glb")
    formats = tuple(f for f in settings.formats if not (f == "obj" and shape.keeps_obj))
    export_stage(run, None, result.mesh, [key], formats)
    place = Similarity(torch.tensor(run.report["stages"]["texture"]["placement"], dtype=torch.float64))
    vertices = result.mesh.vertices.double() + torch.tensor(result.origin, dtype=torch.float64)
    shown = replace(result.mesh, vertices=move(vertices, place))
    preview_stage(run, seen.inputs, None, shown, [key], preset)
    return Asset(run.path, seen.inputs.views, None, result.mesh, run.report)


@dataclass(frozen=True)
class _Posed:
    """Views with cameras, before they are brought to the world of the orbit.

    Attributes:
        views: as they were read.
        changed: numbers of those that were changed since a run of V3D wrote them.
        photos: of the run that wrote them: what it was made from.
        notes: of reading them.
    """

    views: Views
    changed: tuple[int, ...] = ()
    photos: OrbitPhotos | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Seen:
    """What a texture is made of.

    Attributes:
        inputs: for the preview.
        keys: all that decides what `lay` returns, beside the mesh.
        lay: the parts of the mesh in V3D's axes -> views and photos on it.
    """

    inputs: BuildInputs
    keys: list[Any]
    lay: Callable[[Sequence[Part]], Laid]


def _inputs(mesh: Path, source: Source | None) -> tuple[Path, str, Source]:
    """The mesh's file, the name of what it shows, and where its colours come from.

    Raises:
        V3DError: there is no such mesh, or nothing to texture it from.
    """
    if is_scanned_object(mesh):
        file, name = mesh / SCANNED_OBJ, mesh.name
    elif mesh.is_dir():
        file, name = mesh / "mesh.glb", mesh.resolve().name
        if not file.is_file():
            raise V3DError(f"The folder {mesh} has no mesh.glb; give a mesh file, or the folder of a run.")
        if source is None and (mesh / "transforms.json").is_file():
            source = mesh
    else:
        file = mesh
        name = mesh.resolve().parent.name if mesh.name == "mesh.glb" else mesh.stem
    if source is None:
        raise V3DError(f"Give photos or posed views to texture {mesh} from.")
    return file, name, source


def _photos(source: Source) -> Mapping[float, str | Path] | None:
    """Photos by azimuth; None where the source is no photo."""
    if isinstance(source, Mapping):
        return source
    path = Path(source)
    return None if path.is_dir() or path.suffix.lower() == ".json" else {0.0: path}


def _photographed(
    run: RunFolder, sides: Mapping[float, Path], generator: Generator, settings: GenerateSettings
) -> _Seen:
    """Photos, and views that are drawn from them, to be laid on a mesh."""
    photos, key = photo_stage(run, sides, elevation=settings.elevation, recentre=settings.recentre)
    views, views_key = generate_stage(run, generator, photos, key, settings)

    def lay(parts: Sequence[Part]) -> Laid:
        place = framed(parts, photos.elevation)
        mesh = moved(parts, place)
        images = dict(zip(photos.azimuths, photos.images, strict=True))
        on_mesh, notes = lay_photos(mesh, images, photos.elevation)
        unseen = 1 - area_seen(mesh, [photo.cameras for photo in on_mesh])
        standing = photos.numbers(views.cameras).values()
        drawn = lay_drawn(mesh, views[[v for v in range(len(views)) if v not in standing]])
        how = (
            "continues the colours around it" if drawn is None else f"was drawn by the model {settings.model}"
        )
        if unseen > _SMALL:
            notes.append(f"{unseen:.0%} of the surface is seen by no photo and {how}: a guess.")
        return Laid(place, drawn or on_mesh[0], tuple(on_mesh), tuple(notes))

    return _Seen(BuildInputs(views, photos.among(views.cameras)), [key, views_key], lay)


def _posed(source: str | Path, max_size: int) -> _Posed:
    """Read posed views, reduced to `max_size` pixels along their longer side.

    Raises:
        V3DError: they cannot be used.
    """
    capture = find_photos(source)
    notes = list(capture.notes)
    views = read_object_views(capture.photos, max_size=max_size, warn=notes.append)
    home = Path(source).parent if Path(source).suffix == ".json" else Path(source)
    of_run = {home / file for file in changed_files(home)}
    changed = tuple(i for i, photo in enumerate(capture.photos) if photo.file in of_run)
    return _Posed(views, changed, photos_of_run(home), tuple(notes))


def _viewed(run: RunFolder, posed: _Posed, up: Up) -> _Seen:
    """Posed views, to be laid on a mesh."""
    views, key = views_stage(run, posed.views, up)
    placement = Similarity(torch.tensor(run.report["stages"]["views"]["placement"]["matrix"]).double())
    photos = {} if posed.photos is None else posed.photos.among(views.cameras)
    photos = {v: photo for v, photo in photos.items() if v not in posed.changed}

    def lay(parts: Sequence[Part]) -> Laid:
        notes = []
        place, iou = find_in_views(parts, views, placement)
        if iou < _GOOD_IOU:
            notes.append(
                f"The mesh fits {iou:.0%} of the views' outlines; expect colours beside their place."
            )
        strong = [views[v] for v in posed.changed]
        if strong:
            numbers = ", ".join(map(str, posed.changed))
            notes.append(
                f"View {numbers} was changed since it was made, and wins wherever it sees the surface."
            )
        registered = (register_photo(photo, views[v]) for v, photo in photos.items())
        strong += [photo for photo in registered if photo is not None]
        others = [v for v in range(len(views)) if v not in posed.changed]
        return Laid(place, views[others] if others else views, tuple(strong), tuple(notes))

    return _Seen(BuildInputs(views, photos), [key, posed.changed, sorted(photos.items())], lay)
