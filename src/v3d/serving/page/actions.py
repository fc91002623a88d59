"""What the page's buttons do: they ask the desk, and say in one sentence what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from v3d.errors import V3DError
from v3d.serving.desk import Desk
from v3d.serving.manifest import SIDES
from v3d.serving.page.cutouts import Correction, find
from v3d.serving.page.shown import Shown
from v3d.serving.store import Job, QueueFullError, is_id
from v3d.serving.uploads import suffix_of

Corrections = Mapping[str, Correction]
"""Side -> its photo's cut-out, as far as somebody looked at it."""


class Actions:
    """Of one page; every browser has its own state."""

    def __init__(self, desk: Desk, shown: Shown) -> None:
        """Nothing is kept here."""
        self._desk, self._shown = desk, shown

    def job(self, id: str) -> Job | None:
        """The job of an id, if it is there."""
        try:
            return self._desk.store.get(id) if id and is_id(id) else None
        except KeyError:
            return None

    def photos(self, *values: Any) -> str:
        """Queue an asset of photos by their sides, with corrected cut-outs; returns its job's id."""
        paths, values = values[: len(SIDES)], values[len(SIDES) :]
        quality, seed, purpose, size, faces, texture, elevation, *cutout = values
        editor, side, threshold, corrections = cutout
        corrections = folded(corrections, side, threshold, editor)
        given = {name: path for name, path in zip(SIDES, paths, strict=True) if path}
        masks = {
            name: correction.png
            for name, correction in corrections.items()
            if correction.changes and given.get(name) == correction.path
        }
        options = {**_common(quality, seed), "faces": faces, "texture_size": texture, "elevation": elevation}
        finish, name = _finish(purpose, size), Path(given.get("front", "")).name
        return _asked(lambda: self._desk.generate(_read(given), options, masks, finish=finish, filename=name))

    def views(
        self,
        path: str | None,
        cameras: str,
        law: str,
        elevation: str,
        fov: str,
        direction: str,
        quality: str,
        seed: float | None,
        purpose: str,
        size: str,
    ) -> str:
        """Queue an asset of own views; returns its job's id."""
        around: dict[str, Any] | None = None
        if cameras == AROUND:
            law_or_none = law if law != UNKNOWN else None
            around = {"law": law_or_none, "elevation": elevation, "fov": fov, "direction": direction}
        upload = _given(path, "Give a zip of photos, a video or a picture.")
        options, finish = _common(quality, seed), _finish(purpose, size)
        return _asked(lambda: self._desk.reconstruct(upload, upload.name, options, around, finish=finish))

    def scene(self, path: str | None, route: str, frames: float, quality: str, seed: float | None) -> str:
        """Queue a scene; returns its job's id."""
        upload = _given(path, "Give a zip of photos with cameras.")
        options = {**_common(quality, seed), "path": route if route != AUTO else None, "frames": int(frames)}
        return _asked(lambda: self._desk.scene(upload, upload.name, options))

    def texture(self, mesh: str | None, views: str | None, *values: Any) -> str:
        """Queue the texture of a mesh; returns its job's id."""
        paths, (size, quality, seed) = values[: len(SIDES)], values[len(SIDES) :]
        data = _given(mesh, "Give a mesh: a GLB, PLY, STL or OBJ file.")
        given = {name: path for name, path in zip(SIDES, paths, strict=True) if path}
        options = {**_common(quality, seed), "texture_size": size}
        zipped = Path(views) if views else None
        return _asked(lambda: self._desk.texture(data.read_bytes(), _read(given), options, zipped))

    def cancel(self, id: str) -> None:
        """Stop the chosen job."""
        if self.job(id) is not None:
            self._desk.store.finish(id, "cancelled", reason="It was cancelled.")

    def remove(self, id: str) -> str:
        """Remove the chosen job and its files, once it has ended; returns the job that is chosen then."""
        job = self.job(id)
        if job is not None and job.state in ("queued", "running"):
            raise gr.Error("The job has not ended; cancel it first.", print_exception=False)
        if job is not None:
            self._desk.store.remove(id)
            self._shown.tidy()
        newest = self._desk.store.jobs(limit=1)
        return newest[0].id if newest else ""

    def again(self, id: str) -> list[Any]:
        """The photos of a job of photos, quality and seed, for the form."""
        job = self.job(id)
        if job is None or job.kind != "generate":
            raise gr.Error("Only jobs of photos can be used again; choose one.", print_exception=False)
        settings, slots = job.request["settings"], []
        for side in SIDES:
            path = self._desk.store.root / id / "input" / side
            suffix = suffix_of(path.read_bytes()[:16]) if path.is_file() else None
            slots.append(self._shown.link(path, id, f"input_{side}{suffix}") if suffix else None)
        return [*slots, settings["quality"], settings["seed"]]

    def look(
        self, side: str, threshold: float, editor: Any, shown: str, corrections: Corrections, *paths: str
    ) -> list[Any]:
        """The cut-out of a side's photo to look at and paint on, what was painted on the last one kept.

        Returns:
            The picture for the editor, the threshold, the side that is shown, all corrections, a note.
        """
        corrections = dict(folded(corrections, shown, threshold, editor))
        path = dict(zip(SIDES, paths, strict=True)).get(side)
        if not path:
            return [None, 0.5, "", corrections, f"There is no photo of the {side} yet."]
        if side not in corrections or corrections[side].path != path:
            try:
                corrections[side] = find(path)
            except V3DError as error:
                raise gr.Error(str(error), print_exception=False) from error
        found = corrections[side]
        picture = {"background": found.picture, "layers": [], "composite": None}
        note = found.note or "The faded parts are cut away."
        return [picture, found.threshold, side, corrections, note]

    def reset(self, side: str, corrections: Corrections, *paths: str) -> list[Any]:
        """`look` at a side whose corrections are forgotten."""
        others = {name: correction for name, correction in corrections.items() if name != side}
        return self.look(side, 0.5, None, "", others, *paths)


AROUND, WITH_PHOTOS = "around the object", "with the photos"
"""Where the cameras of views come from."""
UNKNOWN, AUTO, AS_IS = "unknown", "automatic", "as it is"


def folded(corrections: Corrections, side: str, threshold: float, editor: Any) -> Corrections:
    """The corrections with what the editor, which shows a side, says now."""
    if side not in corrections:
        return corrections
    layers = editor.get("layers") if isinstance(editor, dict) else None
    changed = replace(corrections[side], threshold=min(max(threshold, 0.02), 0.98)).painted(layers)
    return {**corrections, side: changed}


def _common(quality: str, seed: float | None) -> dict[str, Any]:
    return {"quality": quality, "seed": int(seed or 0)}


def _finish(purpose: str, size: str) -> dict[str, Any]:
    return {"purpose": None if purpose == AS_IS else purpose, "size": (size or "").strip()}


def _given(path: str | None, sentence: str) -> Path:
    """The upload, or the sentence that says what is missing."""
    if not path:
        raise gr.Error(sentence, print_exception=False)
    return Path(path)


def _read(paths: Mapping[str, str]) -> dict[str, bytes]:
    return {side: Path(path).read_bytes() for side, path in paths.items()}


def _asked(ask: Callable[[], Job]) -> str:
    """The id of the job that was queued; what the desk refuses is shown as one sentence."""
    try:
        return ask().id
    except (V3DError, QueueFullError) as error:
        raise gr.Error(str(error), print_exception=False) from error
    except FileNotFoundError as error:
        raise gr.Error("An upload is no longer there; give it again.", print_exception=False) from error
    except OSError as error:
        sentence = f"The server cannot keep the upload ({error.strerror})."
        raise gr.Error(sentence, print_exception=False) from error
