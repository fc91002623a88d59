"""The form that asks for a job: its fields by kind, and what the desk is asked with them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.datastructures import FormData, UploadFile

from v3d.errors import V3DError
from v3d.serving.desk import Desk
from v3d.serving.manifest import SIDES
from v3d.serving.store import Job

MOST_FILES, MOST_FIELDS = 2 * len(SIDES) + 2, 5
_MASKS = tuple(f"{side}_mask" for side in SIDES)
FILES = {
    "generate": (*SIDES, *_MASKS),
    "reconstruct": ("views",),
    "scene": ("views",),
    "texture": ("mesh", *SIDES, "views"),
}
"""Kind of job -> the files that its form may have."""
_TEXTS = {"generate": ("finish",), "reconstruct": ("orbit", "finish")}  # fields beside the settings
_MOST_BYTES = 128 << 20  # of what is held in memory: a photo, a mask, a mesh
_FILE = {"type": "string", "format": "binary"}
_OF_FILES = {
    "front": "generate, texture: photo of the front; generate needs it.",
    **dict.fromkeys(("left", "back", "right"), "generate, texture: photo of this side of the object."),
    **dict.fromkeys(_MASKS, "generate: an image that says where the object is in the photo of this side."),
    "views": "reconstruct, scene, texture: a zip of photos and their cameras. reconstruct with `orbit` also "
    "takes a video, a zip of pictures or a picture with a grid of them.",
    "mesh": "texture: a GLB, PLY, STL or OBJ file.",
}
OPENAPI = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "kind": {"type": "string", "enum": list(FILES), "default": "generate"},
                    "settings": {
                        "type": "string",
                        "description": "Options of the command of this kind as JSON, with - or _.",
                    },
                    "orbit": {
                        "type": "string",
                        "description": "reconstruct: what is known of cameras that views lack, options of "
                        "v3d reconstruct --orbit as JSON; {} where nothing is.",
                    },
                    "finish": {
                        "type": "string",
                        "description": "generate, reconstruct: what the mesh is made ready for, options of "
                        "FinishSettings as JSON: purpose (game, print, web), size, origin, lods, ...",
                    },
                    **{name: {**_FILE, "description": text} for name, text in _OF_FILES.items()},
                },
            },
            "examples": {
                "generate": {"value": {"front": "cup.png", "settings": '{"quality": "draft", "seed": 1}'}},
                "print": {"value": {"front": "cup.png", "finish": '{"purpose": "print", "size": "80mm"}'}},
                "reconstruct": {"value": {"kind": "reconstruct", "views": "posed.zip"}},
                "video": {"value": {"kind": "reconstruct", "views": "turn.mp4", "orbit": "{}"}},
                "scene": {"value": {"kind": "scene", "views": "room.zip", "settings": '{"path": "orbit"}'}},
                "texture": {"value": {"kind": "texture", "mesh": "cup.glb", "front": "cup.png"}},
            },
        }
    },
}
"""The form as OpenAPI's `requestBody`."""


@dataclass(frozen=True)
class JobForm:
    """What a form asks for.

    Attributes:
        kind: of the job.
        settings: its options.
        orbit: what is known of cameras; None where the form has no such field.
        finish: what the mesh is made ready for.
        files: by field.
    """

    kind: str = "generate"
    settings: Mapping[str, Any] = field(default_factory=dict)
    orbit: Mapping[str, Any] | None = None
    finish: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, UploadFile] = field(default_factory=dict)


def read_form(form: FormData) -> JobForm:
    """A form that was sent.

    Raises:
        V3DError: it has a field that there is not, or one that is wrong.
    """
    kind = form.get("kind", "generate")
    if not isinstance(kind, str) or kind not in FILES:
        raise V3DError(f"There is no kind {str(kind)[:40]}; there are {', '.join(FILES)}.")
    known = (*FILES[kind], "kind", "settings", *_TEXTS.get(kind, ()))
    files: dict[str, UploadFile] = {}
    for name, value in form.multi_items():
        if name not in known:
            what = "side" if kind == "generate" and isinstance(value, UploadFile) else "field"
            raise V3DError(f"There is no {what} {name[:40]} of {kind}; there are {', '.join(known)}.")
        if isinstance(value, UploadFile) != (name in FILES[kind]):
            raise V3DError(f"{name} is {'a file' if name in FILES[kind] else 'text, not a file'}.")
        if isinstance(value, UploadFile):
            files[name] = value
    orbit = _object("orbit", form["orbit"]) if "orbit" in form else None
    finish = _object("finish", form.get("finish", "{}"))
    return JobForm(kind, _object("settings", form.get("settings", "{}")), orbit, finish, files)


def queue(desk: Desk, form: JobForm) -> Job:
    """Ask the desk for the job. It reads files: not for an event loop.

    Raises:
        V3DError: a file is missing or cannot be used, or a setting is wrong.
        QueueFullError: too many jobs wait.
    """
    photos = {side: _bytes(side, form.files[side]) for side in SIDES if side in form.files}
    if form.kind == "generate":
        masks = {
            mask[: -len("_mask")]: _bytes(mask, form.files[mask]) for mask in _MASKS if mask in form.files
        }
        name = (form.files["front"].filename or "") if "front" in form.files else ""
        return desk.generate(photos, form.settings, masks, finish=form.finish, filename=name)
    if form.kind == "texture":
        mesh = _bytes("mesh", _needed(form, "mesh"))
        if "views" not in form.files:
            return desk.texture(mesh, photos, form.settings)
        with _on_disk(form.files["views"]) as path:
            return desk.texture(mesh, photos, form.settings, path)
    views = _needed(form, "views")
    name = views.filename or "The file"
    with _on_disk(views) as path:
        if form.kind == "scene":
            return desk.scene(path, name, form.settings)
        return desk.reconstruct(path, name, form.settings, form.orbit, finish=form.finish)


def _needed(form: JobForm, name: str) -> UploadFile:
    if name not in form.files:
        raise V3DError(f"A form of {form.kind} needs the file {name}.")
    return form.files[name]


def _bytes(name: str, file: UploadFile) -> bytes:
    if (file.size or 0) > _MOST_BYTES:
        raise V3DError(f"The file {name} has more than {_MOST_BYTES >> 20} MB; make it smaller first.")
    return file.file.read()


@contextmanager
def _on_disk(upload: UploadFile) -> Iterator[Path]:
    """A copy of an upload that has a path, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="v3d-") as folder:
        path = Path(folder) / "upload"
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file, 1 << 20)
        yield path


def _object(name: str, text: Any) -> dict[str, Any]:
    """JSON text as an object of names and values."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError, TypeError):
        value = None
    if not isinstance(value, dict):
        raise V3DError(f'{name} is no JSON object; for example {{"quality": "draft"}}.')
    return value
