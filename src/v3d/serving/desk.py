"""Where requests of every face become jobs: uploads are checked and kept, settings read, the job queued."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from v3d.errors import V3DError
from v3d.serving import uploads
from v3d.serving.manifest import SIDES, safe_name
from v3d.serving.options import with_options
from v3d.serving.runner import Limits
from v3d.serving.store import Job, JobStore
from v3d.serving.tasks import GenerateTask, ReconstructTask, SceneTask, TextureTask
from v3d.serving.worker import Task
from v3d.settings import FinishSettings, GenerateSettings, OrbitSettings, ReconstructSettings, SceneSettings

NOT_FOR_CLIENTS = ("model", "device")
"""Settings that name files or machines; a client has no say in them."""
SCENE_PATHS = ("orbit", "spiral", "dolly", "interpolate", "none")
"""Paths of scenes that clients may ask for; others are files."""
_Settings = TypeVar("_Settings", ReconstructSettings, SceneSettings, GenerateSettings)


@dataclass(frozen=True)
class Desk:
    """Takes requests.

    All that queue a job raise `V3DError` where an upload cannot be read or is too large, or where a setting
    is wrong or not for clients, and `QueueFullError` where too many jobs wait. Options are settings as
    `v3d.serving.options` reads them; what they leave out is as `settings` say.

    Attributes:
        store: where jobs go.
        limits: what is taken.
        settings: of jobs that do not say otherwise.
    """

    store: JobStore
    limits: Limits
    settings: GenerateSettings

    def generate(
        self,
        photos: Mapping[str, bytes],
        options: Mapping[str, Any],
        masks: Mapping[str, bytes] = {},
        *,
        finish: Mapping[str, Any] = {},
        filename: str = "",
    ) -> Job:
        """Queue an asset of one to four photos.

        Args:
            photos: side (front, left, back, right) -> bytes of an image file; the front is needed.
            options: of `GenerateSettings`.
            masks: side -> bytes of an image that says where the object is in this side's photo.
            finish: options of `FinishSettings`.
            filename: what the client calls the front photo; the object is called after it in files.
        """
        settings, finished = self._settings(GenerateSettings, options), _finish(finish)
        _check_sides(photos)
        without = [side for side in masks if side not in photos]
        if without:
            raise V3DError(f"There is a mask of {without[0]} without its photo; give both.")
        with _NewJob(self.store) as job:
            self._keep_photos(photos, job.input)
            for side, data in masks.items():
                path = job.input / f"{side}_mask"
                uploads.keep_picture(data, path, f"The mask of the {side}", self.limits.upload)
            request = {"photos": sorted(photos), "masks": sorted(masks), "finish": finished}
            request["name"] = _title(filename)
            return job.queue("generate", request, settings, self.limits.waiting)

    def reconstruct(
        self,
        upload: bytes | Path,
        filename: str,
        options: Mapping[str, Any],
        orbit: Mapping[str, Any] | None = None,
        *,
        finish: Mapping[str, Any] = {},
    ) -> Job:
        """Queue an asset of views of an object.

        Args:
            upload: a zip of posed photos; with `orbit` a video, a zip of pictures, or one picture with a grid
                of them. Bytes, or a file that is copied.
            filename: what the client calls it; the object is called after it in files.
            options: of `ReconstructSettings`.
            orbit: options of `OrbitSettings`, what is known of cameras that are not given; {} where nothing
                is, and None where every photo of the zip has its camera.
            finish: options of `FinishSettings`.
        """
        settings, finished = self._settings(ReconstructSettings, options), _finish(finish)
        around = None if orbit is None else with_options(OrbitSettings(), orbit)
        with _NewJob(self.store) as job:
            kept = uploads.keep_capture(upload, filename, job.input, self.limits.upload)
            if around is None and not (job.input / kept.name).is_dir():
                raise V3DError("A video or picture has no cameras; say what is known of them (orbit).")
            request = {
                "views": kept.name,
                "notes": kept.notes,
                "orbit": None if around is None else dataclasses.asdict(around),
                "finish": finished,
                "name": _title(filename),
            }
            return job.queue("reconstruct", request, settings, self.limits.waiting)

    def scene(self, upload: bytes | Path, filename: str, options: Mapping[str, Any]) -> Job:
        """Queue views along a path and Gaussians of posed photos of a scene.

        Args:
            upload: a zip of posed photos: bytes, or a file that is copied.
            filename: what the client calls it; only sentences use it.
            options: of `SceneSettings`.
        """
        settings = self._settings(SceneSettings, options)
        if settings.path is not None and settings.path not in SCENE_PATHS:
            raise V3DError(f"There is no path {settings.path[:40]}; there are {', '.join(SCENE_PATHS)}.")
        if not 1 <= settings.frames <= 500:
            raise V3DError(f"A path has 1 to 500 frames, not {settings.frames}.")
        with _NewJob(self.store) as job:
            kept = uploads.keep_capture(upload, filename, job.input, self.limits.upload)
            if not (job.input / kept.name).is_dir():
                raise V3DError("A scene is made of photos with cameras; give a zip of their folder.")
            request = {"views": kept.name, "notes": kept.notes}
            return job.queue("scene", request, settings, self.limits.waiting)

    def texture(
        self,
        mesh: bytes,
        photos: Mapping[str, bytes],
        options: Mapping[str, Any],
        views: bytes | Path | None = None,
    ) -> Job:
        """Queue the texture of a given mesh; the result is `mesh.glb`.

        Args:
            mesh: bytes of a GLB, PLY, STL or OBJ file.
            photos: side -> bytes of an image file, as `generate` takes them; {} where views are given.
            options: of `GenerateSettings`.
            views: in place of photos a zip of posed photos: bytes, or a file that is copied.
        """
        settings = self._settings(GenerateSettings, options)
        if views is None:
            _check_sides(photos)
        elif photos:
            raise V3DError("Give photos by their side or a zip of posed photos, not both.")
        with _NewJob(self.store) as job:
            request: dict[str, Any] = {"mesh": uploads.keep_mesh(mesh, job.input).name}
            if views is None:
                self._keep_photos(photos, job.input)
                request["photos"] = sorted(photos)
            else:
                kept = uploads.keep_capture(views, "views.zip", job.input, self.limits.upload)
                if not (job.input / kept.name).is_dir():
                    raise V3DError("Views of a mesh need cameras; give a zip of posed photos.")
                request |= {"views": kept.name, "notes": kept.notes}
            return job.queue("texture", request, settings, self.limits.waiting)

    def _keep_photos(self, photos: Mapping[str, bytes], folder: Path) -> None:
        for side, data in photos.items():
            uploads.keep_picture(data, folder / side, f"The photo of the {side}", self.limits.upload)

    def _settings(self, kind: type[_Settings], options: Mapping[str, Any]) -> _Settings:
        """Settings of a job: the desk's own, as far as this kind has them, with the client's options.

        Raises:
            V3DError: an option is wrong or not for clients.
        """
        forbidden = [name for name in options if str(name).strip().replace("-", "_") in NOT_FOR_CLIENTS]
        if forbidden:
            raise V3DError(f"The server decides on {forbidden[0]}; leave it out.")
        own = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(self.settings)}
        if kind is SceneSettings:
            del own["model"]  # that of objects
        names = {field.name for field in dataclasses.fields(kind)}
        return with_options(kind(**{name: own[name] for name in own if name in names}), options)


def task_of(job: Job, store: JobStore) -> Task:
    """What a job of the store asks for.

    Raises:
        V3DError: its request is not one of this version's.
    """
    folder = store.root / job.id
    given, asked = folder / "input", job.request
    try:
        notes, name = tuple(asked.get("notes", ())), asked.get("name")
        finish = with_options(FinishSettings(), asked.get("finish", {}))
        if job.kind == "generate":
            settings = with_options(GenerateSettings(), asked["settings"])
            masks = {SIDES[side]: given / f"{side}_mask" for side in asked.get("masks", ())}
            return GenerateTask(_photos(asked, given), folder, settings, "result", masks, finish, name)
        if job.kind == "reconstruct":
            orbit = None if asked["orbit"] is None else with_options(OrbitSettings(), asked["orbit"])
            of_views = with_options(ReconstructSettings(), asked["settings"])
            views = given / asked["views"]
            return ReconstructTask(views, folder, of_views, orbit, "result", notes, finish, name)
        if job.kind == "scene":
            of_scene = with_options(SceneSettings(), asked["settings"])
            return SceneTask(given / asked["views"], folder, of_scene, "result", notes)
        if job.kind == "texture":
            source = given / asked["views"] if "views" in asked else _photos(asked, given)
            settings = with_options(GenerateSettings(), asked["settings"])
            return TextureTask(given / asked["mesh"], source, folder, settings, "result", notes)
        raise KeyError(job.kind)
    except (KeyError, TypeError, AttributeError) as error:
        raise V3DError(f"This version of V3D cannot carry out the job ({error}).") from error


def _finish(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a finish as plain values.

    Raises:
        V3DError: one is wrong, or two do not go together.
    """
    from v3d.finishing.purposes import plan_of

    finish = with_options(FinishSettings(), options)
    plan_of(finish)
    return dataclasses.asdict(finish)


def _title(filename: str) -> str:
    """What the object of an upload is called."""
    return safe_name(Path(filename.replace("\\", "/")).stem)


def _photos(asked: Mapping[str, Any], given: Path) -> dict[float, Path]:
    return {SIDES[side]: given / side for side in asked["photos"]}


def _check_sides(photos: Mapping[str, bytes]) -> None:
    """See that there is a front, and no side that there is not.

    Raises:
        V3DError: otherwise.
    """
    if "front" not in photos:
        raise V3DError("There is no photo of the front; give one, and others of left, back and right.")
    unknown = [side for side in photos if side not in SIDES]
    if unknown:
        raise V3DError(f"There is no side {unknown[0]}; there are {', '.join(SIDES)}.")


class _NewJob:
    """A job whose input is being written; it is gone again where that fails."""

    def __init__(self, store: JobStore) -> None:
        self._store, self._id = store, store.new_id()
        self.input = store.root / self._id / "input"

    def __enter__(self) -> _NewJob:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.input.parent, ignore_errors=True)

    def queue(self, kind: str, request: dict[str, Any], settings: Any, most: int) -> Job:
        """Queue it, for `most` jobs at most."""
        asked = {**request, "settings": dataclasses.asdict(settings)}
        return self._store.add(self._id, kind, asked, most=most)
