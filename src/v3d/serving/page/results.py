"""The side of the page that shows a job: its state, viewers of what it made, downloads, and earlier jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from v3d.serving.desk import Desk
from v3d.serving.page.actions import Actions
from v3d.serving.page.shown import Shown
from v3d.serving.page.status import status, title, turning
from v3d.serving.store import Job

_SMALL_PARTS = (".png", ".json")
"""Suffixes of what stands at the end of the downloads."""
SOLID, WIREFRAME, NORMALS = "solid", "wireframe", "normals"


@dataclass(frozen=True)
class Panel:
    """The components, and what fills them.

    Attributes:
        history: of earlier jobs.
        cancel, again, remove: buttons.
        style: of the mesh.
        mesh: its viewer.
        filled: what `Results.show` fills, in its order.
    """

    history: gr.Dropdown
    cancel: gr.Button
    again: gr.Button
    remove: gr.Button
    style: gr.Radio
    mesh: gr.Model3D
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
        with gr.Tab("Mesh", id="mesh"):
            style = gr.Radio(
                [SOLID, WIREFRAME, NORMALS], value=SOLID, label="Show", elem_id="v3d-style", container=False
            )
            mesh = gr.Model3D(label="Mesh", elem_id="v3d-mesh", height=460)
        with gr.Tab("Gaussians", id="splats"):
            splats = gr.Model3D(label="Gaussians", elem_id="v3d-splats", height=500)
        with gr.Tab("Views", id="views"):
            views = gr.HTML(elem_id="v3d-views")
        with gr.Tab("Videos", id="videos"):
            orbit = gr.Video(label="Views", loop=True, autoplay=True, height=320)
            turntable = gr.Video(label="Turntable", loop=True, autoplay=True, height=320)
        with gr.Tab("Sheet", id="sheet"):
            sheet = gr.Image(label="Everything", type="filepath", elem_id="v3d-sheet")
    files = gr.Files(label="Downloads", elem_id="v3d-files", height=260, interactive=False)
    filled = [line, history, tabs, style, mesh, splats, views, orbit, turntable, sheet, files, seen]
    return Panel(history, cancel, again, remove, style, mesh, filled)


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
            return [line, history, *[gr.skip()] * 9, (stamp, listed)]
        return [line, history, *self._viewers(job, seen[0]), (stamp, listed)]

    def mesh(self, id: str, style: str) -> Any:
        """The mesh's viewer in another style."""
        job = self._actions.job(id)
        if job is None:
            return gr.skip()
        if style == NORMALS:
            return gr.Model3D(self._shown.normals(job), display_mode="solid")
        mode: Literal["solid", "wireframe"] = "wireframe" if style == WIREFRAME else "solid"
        return gr.Model3D(self._shown.results(job).get("mesh.glb"), display_mode=mode)

    def _viewers(self, job: Job | None, before: str) -> list[Any]:
        """Tabs, style, mesh, splats, views, two videos, sheet and files of a job."""
        given = {} if job is None else self._shown.results(job)
        views = [] if job is None else self._shown.views(job)
        files = list(given.values())
        files.sort(key=lambda file: file.endswith(_SMALL_PARTS))  # stable: the others come first
        if job is not None and job.state == "done" and files:
            files.insert(0, self._shown.archive(job, files))
        return [
            _tab(job, given, before),
            SOLID,
            gr.Model3D(given.get("mesh.glb"), display_mode="solid"),
            given.get("splats.ply"),
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
    of_files = {"mesh.glb": "mesh", "splats.ply": "splats"}
    return gr.Tabs(selected=next((tab for name, tab in of_files.items() if name in given), "sheet"))
