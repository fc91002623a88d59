"""Where requests of every face become jobs: photos are checked and kept, settings read, the job queued."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v3d.capture.images import image_size
from v3d.errors import V3DError
from v3d.serving.manifest import SIDES
from v3d.serving.options import with_options
from v3d.serving.runner import Limits
from v3d.serving.store import Job, JobStore
from v3d.serving.tasks import GenerateTask
from v3d.serving.worker import Task
from v3d.settings import GenerateSettings

NOT_FOR_CLIENTS = ("model", "device")
"""Settings that name files or machines; a client has no say in them."""
_MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Desk:
    """Takes requests.

    Attributes:
        store: where jobs go.
        limits: what is taken.
        settings: of jobs that do not say otherwise.
    """

    store: JobStore
    limits: Limits
    settings: GenerateSettings

    def generate(self, photos: Mapping[str, bytes], options: Mapping[str, Any]) -> Job:
        """Queue an asset of one to four photos.

        Args:
            photos: side (front, left, back, right) -> bytes of an image file; the front is needed.
            options: settings, as `v3d.serving.options` reads them.

        Raises:
            V3DError: a photo is no image or too large, a setting is wrong or not for clients.
            QueueFullError: too many jobs wait.
        """
        forbidden = [name for name in options if str(name).strip().replace("-", "_") in NOT_FOR_CLIENTS]
        if forbidden:
            raise V3DError(f"The server decides on {forbidden[0]}; leave it out.")
        settings = with_options(self.settings, options)
        if "front" not in photos:
            raise V3DError("There is no photo of the front; give one, and others of left, back and right.")
        unknown = [side for side in photos if side not in SIDES]
        if unknown:
            raise V3DError(f"There is no side {unknown[0]}; there are {', '.join(SIDES)}.")
        id = self.store.new_id()
        folder = self.store.root / id / "input"
        try:
            for side, data in photos.items():
                (folder / side).write_bytes(data)
                _check_photo(folder / side, side)
            request = {"photos": sorted(photos), "settings": dataclasses.asdict(settings)}
            return self.store.add(id, "generate", request, most=self.limits.waiting)
        except BaseException:
            shutil.rmtree(folder.parent, ignore_errors=True)
            raise


def task_of(job: Job, store: JobStore) -> Task:
    """What a job of the store asks for.

    Raises:
        V3DError: its request is not one of this version's.
    """
    folder = store.root / job.id
    try:
        if job.kind != "generate":
            raise KeyError(job.kind)
        photos = {SIDES[side]: folder / "input" / side for side in job.request["photos"]}
        settings = with_options(GenerateSettings(), job.request["settings"])
        return GenerateTask(photos, folder, settings, "result")
    except (KeyError, TypeError, AttributeError) as error:
        raise V3DError(f"This version of V3D cannot carry out the job ({error}).") from error


def _check_photo(path: Path, side: str) -> None:
    """See that an upload is an image of a size that can be worked with.

    Raises:
        V3DError: it is not.
    """
    try:
        width, height = image_size(path)
    except V3DError as error:
        raise V3DError(
            f"The photo of the {side} is not an image that can be read; give a PNG, JPEG or WebP."
        ) from error
    if width * height > _MAX_PIXELS:
        raise V3DError(f"The photo of the {side} has {width} x {height} pixels; make it smaller first.")
