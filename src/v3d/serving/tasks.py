"""What a worker can be asked to do: the product's own functions with their arguments, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from v3d.callbacks import OnProgress
from v3d.capture.photo_files import SUFFIXES
from v3d.errors import V3DError
from v3d.settings import FinishSettings, GenerateSettings, OrbitSettings, ReconstructSettings, SceneSettings


@dataclass(frozen=True)
class Made:
    """What a task left behind.

    Attributes:
        folder: of the results.
        warnings: what the user should know, one sentence each.
        files: names of the results in the folder.
    """

    folder: Path
    warnings: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class GenerateTask:
    """Photos of one object become an asset.

    Attributes:
        photos: azimuth in degrees -> image file; 0 is the front.
        out: the folder that gets the asset's folder.
        settings: of the run.
        name: of the asset's folder; by default that of the front photo.
        masks: azimuth -> image file that says where the object is; for some photos or none.
        finish: what the mesh is made ready for.
        title: of the object in files; by default the folder's name.
    """

    photos: Mapping[float, Path]
    out: Path
    settings: GenerateSettings
    name: str | None = None
    masks: Mapping[float, Path] = field(default_factory=dict)
    finish: FinishSettings = field(default_factory=FinishSettings)
    title: str | None = None

    def __call__(self, on_progress: OnProgress) -> Made:
        """Carry the task out.

        Raises:
            V3DError: a photo, the weights or the folder cannot be used.
        """
        from v3d.objects import pipeline

        asset = pipeline.generate(
            dict(self.photos),
            self.out,
            self.settings,
            name=self.name,
            title=self.title,
            masks=dict(self.masks),
            finish=self.finish,
            on_progress=on_progress,
        )
        return _made(asset.folder, asset.report)


@dataclass(frozen=True)
class ReconstructTask:
    """Views of one object become an asset.

    Attributes:
        views: a folder of posed photos; with `orbit` pictures without cameras: a folder, a video, an image.
        out: the folder that gets the asset's folder.
        settings: of the run.
        orbit: what is known of the pictures' cameras; None where the views have their own.
        name: of the asset's folder; by default that of the views.
        notes: on the views, one sentence each.
        finish: what the mesh is made ready for.
        title: of the object in files; by default the folder's name.
    """

    views: Path
    out: Path
    settings: ReconstructSettings
    orbit: OrbitSettings | None = None
    name: str | None = None
    notes: tuple[str, ...] = ()
    finish: FinishSettings = field(default_factory=FinishSettings)
    title: str | None = None

    def __call__(self, on_progress: OnProgress) -> Made:
        """Carry the task out.

        Raises:
            V3DError: the views or the folder cannot be used.
        """
        from v3d.objects import pipeline

        if self.orbit is None:
            check_inside(self.views)
        asset = pipeline.reconstruct(
            self.views,
            self.out,
            self.settings,
            orbit=self.orbit,
            name=self.name,
            title=self.title,
            finish=self.finish,
            on_progress=on_progress,
        )
        return _made(asset.folder, asset.report, self.notes)


@dataclass(frozen=True)
class SceneTask:
    """Posed photos of a scene become views along a path, and Gaussians.

    Attributes:
        photos: a folder of posed photos.
        out: the folder that gets the scene's folder.
        settings: of the run.
        name: of the scene's folder; by default that of the photos.
        notes: on the photos, one sentence each.
    """

    photos: Path
    out: Path
    settings: SceneSettings
    name: str | None = None
    notes: tuple[str, ...] = ()

    def __call__(self, on_progress: OnProgress) -> Made:
        """Carry the task out.

        Raises:
            V3DError: the photos, the weights or the folder cannot be used.
        """
        from v3d.scene import pipeline

        check_inside(self.photos)
        scene = pipeline.generate_scene(
            self.photos, self.out, self.settings, name=self.name, on_progress=on_progress
        )
        return _made(scene.folder, scene.report, self.notes)


@dataclass(frozen=True)
class TextureTask:
    """A given mesh gets the colours of photos.

    Attributes:
        mesh: its file.
        source: azimuth in degrees -> photo, or a folder of posed views.
        out: the folder that gets the result's folder.
        settings: of the run.
        name: of the result's folder; by default that of the mesh.
        notes: on the source, one sentence each.
    """

    mesh: Path
    source: Path | Mapping[float, Path]
    out: Path
    settings: GenerateSettings
    name: str | None = None
    notes: tuple[str, ...] = ()

    def __call__(self, on_progress: OnProgress) -> Made:
        """Carry the task out.

        Raises:
            V3DError: the mesh, a photo, the weights or the folder cannot be used.
        """
        from v3d.objects.texturing import texture_mesh

        if isinstance(self.source, Path):
            check_inside(self.source)
        source = self.source if isinstance(self.source, Path) else dict(self.source)
        asset = texture_mesh(
            self.mesh, source, self.out, self.settings, name=self.name, on_progress=on_progress
        )
        return _made(asset.folder, asset.report, self.notes)


def check_inside(capture: Path) -> None:
    """See that the cameras of an uploaded capture name photos of its own.

    Raises:
        V3DError: a photo or mask lies elsewhere, or the capture cannot be read.
    """
    from v3d.capture.readers import find_photos

    if all(file.suffix.lower() in SUFFIXES for file in capture.rglob("*") if file.is_file()):
        return  # nothing names a file; the cameras are still to be found
    home = capture.resolve()
    for photo in find_photos(capture).photos:
        for file in (photo.file, photo.mask):
            if file is not None and not file.resolve().is_relative_to(home):
                raise V3DError(
                    f"The cameras name {file.name}, which is not in the upload; pack it with them."
                )


def _made(folder: Path, report: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Made:
    """What a run's report says it left."""
    files = [file for stage in report["stages"].values() for file in stage["files"]]
    return Made(folder, (*notes, *report["warnings"]), tuple(files))
