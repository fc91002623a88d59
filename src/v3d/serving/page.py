"""The web page: photos in, stages as they go, viewers of what was made, and all that was made before.

Everything is asked of the desk, as the REST calls do; what the page shows of a job comes from its row, so a
reload or a restart loses nothing. Needs the extra `app`.
"""

from __future__ import annotations

import html
import os
import time
import zipfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr

from v3d.errors import V3DError
from v3d.serving.desk import Desk
from v3d.serving.manifest import SIDES
from v3d.serving.store import Job, QueueFullError, is_id

REFRESH = 1.0
"""Seconds between two looks at the chosen job."""
_STAGES = ("photo", "views", "hull", "splats", "surface", "mesh", "export", "preview")
_CSS = """
.v3d-bar {height: 8px; border-radius: 4px; background: var(--background-fill-secondary); overflow: hidden}
.v3d-bar > div {height: 100%; background: var(--color-accent); transition: width .5s}
.v3d-stages {display: flex; flex-wrap: wrap; gap: .4em; margin: .6em 0; font-size: .9em}
.v3d-stages span {padding: .1em .6em; border-radius: 1em; background: var(--background-fill-secondary)}
.v3d-stages .now {background: var(--color-accent); color: white}
.v3d-stages .past {opacity: .6}
.v3d-fail {color: var(--error-text-color, #b91c1c)}
@media (max-width: 700px) {.v3d-main {flex-direction: column !important}}
"""


def make_page(desk: Desk, folder: Path) -> gr.Blocks:
    """The page of a desk.

    Args:
        desk: takes the requests.
        folder: what the page may hand to browsers is linked here, and nothing else.
    """
    page = _Page(desk, folder)
    blocks = gr.Blocks(title="V3D", analytics_enabled=False, fill_width=True)
    with blocks:
        gr.Markdown("# V3D\nPhotos of one object become 3D Gaussians and a textured mesh, on this computer.")
        chosen, seen = gr.BrowserState("", storage_key="v3d-job"), gr.State("")
        with gr.Row(elem_classes="v3d-main"):
            with gr.Column(scale=2, min_width=320):
                photos = _photo_slots()
                with gr.Row():
                    quality = gr.Radio(["draft", "standard", "high"], value="draft", label="Quality")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                with gr.Accordion("More", open=False):
                    faces = gr.Number(None, label="Triangles at most", precision=0)
                    texture = gr.Number(None, label="Texture, pixels a side", precision=0)
                    elevation = gr.Slider(-30, 60, 0, step=1, label="Photos taken from above, degrees")
                with gr.Row():
                    make = gr.Button("Make it", variant="primary", elem_id="v3d-make")
                    cancel = gr.Button("Cancel", elem_id="v3d-cancel")
                history = gr.Dropdown([], label="Made before", elem_id="v3d-history", allow_custom_value=True)
            with gr.Column(scale=3, min_width=320):
                status = gr.HTML(elem_id="v3d-status")
                with gr.Tab("Mesh"):
                    style = gr.Radio(["solid", "wireframe"], value="solid", show_label=False, container=False)
                    mesh = gr.Model3D(label="Mesh", elem_id="v3d-mesh", height=480)
                with gr.Tab("Gaussians"):
                    splats = gr.Model3D(label="Gaussians", elem_id="v3d-splats", height=480)
                with gr.Tab("Views"):
                    orbit = gr.Video(label="Orbit", loop=True, autoplay=True)
                    strip = gr.Gallery(label="Views as drawn", columns=6, height=320)
                with gr.Tab("Turntable"):
                    turntable = gr.Video(label="Turntable", loop=True, autoplay=True)
                with gr.Tab("Sheet"):
                    sheet = gr.Image(label="Everything", type="filepath")
                files = gr.Files(label="Downloads", elem_id="v3d-files")
        shown = [status, history, mesh, splats, orbit, strip, turntable, sheet, files, seen]
        slots = list(photos.values())
        make.click(
            page.make, [*slots, quality, seed, faces, texture, elevation], [chosen], api_visibility="private"
        ).then(page.show, [chosen, seen], shown, api_visibility="private")
        cancel.click(page.cancel, [chosen], None, api_visibility="private")
        history.input(lambda id: id, [history], [chosen], api_visibility="private")
        style.change(lambda s: gr.Model3D(display_mode=s), [style], [mesh], api_visibility="private")
        blocks.load(page.load, [chosen], shown, api_visibility="private")
        gr.Timer(REFRESH).tick(
            page.show, [chosen, seen], shown, api_visibility="private", show_progress="hidden", queue=False
        )
    return blocks


def _photo_slots() -> dict[str, gr.Image]:
    """A slot for a photo of each side."""
    names = {"front": "Front", "left": "Its left", "back": "Back", "right": "Its right"}
    slots = {}
    for pair in (("front", "back"), ("left", "right")):
        with gr.Row():
            for side in pair:
                slots[side] = gr.Image(
                    label=names[side],
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    elem_id=f"v3d-{side}",
                    height=190,
                    min_width=120,
                )
    return {side: slots[side] for side in SIDES}


class _Page:
    """What the page's events do."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self._desk, self._folder = desk, folder

    def make(self, *values: Any) -> str:
        """Queue an asset; returns its job's id."""
        paths, (quality, seed, faces, texture, elevation) = values[: len(SIDES)], values[len(SIDES) :]
        photos = {side: Path(path).read_bytes() for side, path in zip(SIDES, paths, strict=True) if path}
        options: Mapping[str, Any] = {
            "quality": quality,
            "seed": seed,
            "faces": faces or None,
            "texture_size": texture or None,
            "elevation": elevation,
        }
        try:
            return self._desk.generate(photos, options).id
        except (V3DError, QueueFullError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def cancel(self, id: str) -> None:
        """Stop the chosen job."""
        if self._job(id) is not None:
            self._desk.store.finish(id, "cancelled", reason="It was cancelled.")

    def load(self, id: str) -> list[Any]:
        """Everything, for a page that has just been opened."""
        return self.show(id, "")

    def show(self, id: str, seen: str) -> list[Any]:
        """What changed since the page last looked: `seen` says what it showed then."""
        job = self._job(id)
        status = _status(job, self._desk.store.waiting_before(job) if job else 0)
        history = gr.Dropdown(choices=self._history(), value=id or None)
        stamp = "" if job is None else f"{job.id} {job.state} {job.stage}"
        if stamp == seen:
            return [status, history, *[gr.skip()] * 7, seen]
        given = {} if job is None else self._linked(job)
        strip = [] if job is None else self._views(job)
        files = [given[name] for name in given if name != "preview.png"]
        if job is not None and job.state == "done":
            files.append(self._archive(job, files))
        return [
            status,
            history,
            given.get("mesh.glb"),
            given.get("splats.ply"),
            given.get("views.mp4"),
            strip,
            given.get("turntable.mp4"),
            given.get("preview.png"),
            files or None,
            stamp,
        ]

    def _job(self, id: str) -> Job | None:
        try:
            return self._desk.store.get(id) if id and is_id(id) else None
        except KeyError:
            return None

    def _history(self) -> list[tuple[str, str]]:
        """(what to show, id) of the newest jobs."""
        return [
            (f"{datetime.fromtimestamp(job.created):%d %b %H:%M} · {job.state} · {job.id[:4]}", job.id)
            for job in self._desk.store.jobs(limit=50)
        ]

    def _linked(self, job: Job) -> dict[str, str]:
        """Results of a job that has ended, where the browser may have them."""
        out = {}
        for name in job.files:
            if name.endswith((".glb", ".ply", ".splat", ".obj", ".mp4", ".png", ".json")):
                try:
                    out[name] = self._link(self._desk.store.result(job, name), job.id, name)
                except KeyError:
                    continue  # somebody removed it
        return out

    def _views(self, job: Job) -> list[str]:
        """The views as soon as they are drawn."""
        folder = self._desk.store.root / job.id / "result/views"
        if not folder.with_name("transforms.json").is_file():
            return []
        return [self._link(path, job.id, f"view_{path.name}") for path in sorted(folder.glob("*.png"))]

    def _link(self, path: Path, id: str, name: str) -> str:
        target = self._folder / id / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:  # another disk
                target.write_bytes(path.read_bytes())
        return str(target)

    def _archive(self, job: Job, files: list[str]) -> str:
        """All results in one zip."""
        path = self._folder / job.id / "all.zip"
        if not path.exists():
            with zipfile.ZipFile(path.with_suffix(".tmp"), "w") as archive:
                for file in files:
                    archive.write(file, Path(file).name)
            path.with_suffix(".tmp").replace(path)
        return str(path)


def _status(job: Job | None, waiting: int) -> str:
    """The chosen job's state as HTML."""
    if job is None:
        return "<p>Drop a photo of the front, others if you have them, and press <b>Make it</b>.</p>"
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in job.warnings)
    if job.state == "queued":
        return f"<p>Waiting: {waiting} before it.</p>"
    if job.state == "running":
        now = _STAGES.index(job.stage) if job.stage in _STAGES else 0
        share = (now + job.done / max(job.total, 1)) / len(_STAGES)
        elapsed = time.time() - (job.started or time.time())
        left = f", about {elapsed * (1 - share) / share:.0f} s left" if share > 0.15 else ""
        kinds = ["past" if i < now else "now" if i == now else "" for i in range(len(_STAGES))]
        stages = "".join(f'<span class="{k}">{s}</span>' for k, s in zip(kinds, _STAGES, strict=True))
        return (
            f'<div class="v3d-bar"><div style="width:{100 * share:.0f}%"></div></div>'
            f'<div class="v3d-stages">{stages}</div><p>{elapsed:.0f} s{left}</p>'
        )
    if job.state == "done":
        seconds = (job.ended or 0) - (job.started or 0)
        return f"<p><b>Done</b> in {seconds:.0f} s.</p>{notes}"
    return f'<p class="v3d-fail">{html.escape(job.reason)}</p>{notes}'


def mount(app: Any, desk: Desk, root: Path) -> Any:
    """The application with the page at `/`; the page's files go through `root/page`."""
    folder = root / "page"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(
        app,
        make_page(desk, folder),
        path="/",
        show_error=True,
        theme=theme,
        css=_CSS,
        ssr_mode=False,
        footer_links=[],
        max_file_size="64mb",
        run_history=False,
    )
