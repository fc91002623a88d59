"""The side of the page that shows a job: its state, viewers of what it made, downloads, and earlier jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from v3d.serving.desk import Desk
from v3d.serving.page.actions import Actions
from v3d.serving.page.shown import Shown
from v3d.serving.page.status import frame, status, title, turning
from v3d.serving.store import Job

_SMALL_PARTS = (".png", ".json")
"""Suffixes of what stands at the end of the downloads."""


@dataclass(frozen=True)
class Panel:
    """The components, and what fills them.

    Attributes:
        history: of earlier jobs.
        cancel, again, remove: buttons.
        filled: what `Results.show` fills, in its order.
    """

    history: gr.Dropdown
    cancel: gr.Button
    again: gr.Button
    remove: gr.Button
    filled: list[Any]


def make_panel(seen: gr.State) -> Panel:
    """Make the components; `seen` remembers what they show."""
    history = gr.Dropdown([], label="Jobs", elem_id="v3d-history", allow_custom_value=True)
    with gr.Row():
        cancel = gr.Button("Cancel", elem_id="v3d-cancel", size="sm", min_width=80)
        again = gr.Button("Use again", elem_id="v3d-again", size="sm", min_width=80)
        remove = gr.Button("Remove", elem_id="v3d-remove", size="sm", min_width=80)
    line = gr.HTML(elem_id="v3d-status")
    with gr.Tabs(elem_id="v3d-results") as tabs:
        with gr.Tab("3D", id="viewer"):
            viewer = gr.HTML(elem_id="v3d-viewer")
        with gr.Tab("Views", id="views"):
            views = gr.HTML(elem_id="v3d-views")
        with gr.Tab("Videos", id="videos"):
            orbit = gr.Video(label="Views", loop=True, autoplay=True, height=320)
            turntable = gr.Video(label="Turntable", loop=True, autoplay=True, height=320)
        with gr.Tab("Sheet", id="sheet"):
            sheet = gr.Image(label="Everything", type="filepath", elem_id="v3d-sheet")
    files = gr.Files(label="Downloads", elem_id="v3d-files", height=260, interactive=False)
    filled = [line, history, tabs, viewer, views, orbit, turntable, sheet, files, seen]
    return Panel(history, cancel, again, remove, filled)


class Results:
    """What is shown of the jobs of a desk."""

    def __init__(self, desk: Desk, actions: Actions, shown: Shown) -> None:
        """Nothing is kept here; `shown` links files for browsers."""
        self._desk, self._actions, self._shown = desk, actions, shown

    def load(self, id: str) -> list[Any]:
        """Everything, for a page that has just been opened."""
        self._shown.tidy()
        return self.show(id, ("", ""))

    def show(self, id: str, seen: tuple[str, str]) -> list[Any]:
        """What changed since the page last looked: `seen` says what it showed then."""
        store = self._desk.store
        job = self._actions.job(id)
        waiting = store.waiting_before(job) if job else 0
        line = status(job, waiting, store.root / id / "result" if job else store.root)
        jobs = store.jobs(limit=100)
        listed = f"{id} " + " ".join(f"{other.id}{other.state}" for other in jobs)
        choices = [(title(other), other.id) for other in jobs]
        history = gr.skip() if listed == seen[1] else gr.Dropdown(choices=choices, value=id if job else None)
        stamp = "" if job is None else f"{job.id} {job.state} {job.stage}"
        if stamp == seen[0]:
            return [line, history, *[gr.skip()] * 7, (stamp, listed)]
        return [line, history, *self._viewers(job, seen[0]), (stamp, listed)]

    def _viewers(self, job: Job | None, before: str) -> list[Any]:
        """Tabs, viewer, views, two videos, sheet and files of a job."""
        given = {} if job is None else self._shown.results(job)
        views = [] if job is None else self._shown.views(job)
        files = list(given.values())
        files.sort(key=lambda file: file.endswith(_SMALL_PARTS))  # stable: the others come first
        if job is not None and job.state == "done" and files:
            files.insert(0, self._shown.archive(job, given))
        return [
            _tab(job, given, before),
            frame(job) if job is not None and _has_shape(job, given) else "",
            turning(views),
            given.get("views.mp4"),
            given.get("turntable.mp4") or given.get("splats.mp4"),
            given.get("preview.png"),
            files or None,
        ]


def _tab(job: Job | None, given: dict[str, str], before: str) -> Any:
    """The tab that a job is shown in when it has ended; otherwise the user's own choice stays."""
    if job is None or job.state != "done":
        return gr.skip()
    return gr.Tabs(selected="viewer" if _has_shape(job, given) else "sheet")


def _has_shape(job: Job, given: dict[str, str]) -> bool:
    """Whether a job is done and has something to turn."""
    return job.state == "done" and ("mesh.glb" in given or "splats.ply" in given)
