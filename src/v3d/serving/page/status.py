"""A job's state as HTML: what it waits for, how far it is, what became of it."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from v3d.serving.store import Job
from v3d.splats.live import LIVE

KINDS = {"generate": "photos", "reconstruct": "views", "scene": "scene", "texture": "texture"}
"""What the page calls the kinds of jobs."""
_STAGES = {
    "generate": ("photo", "views", "hull", "mesh", "splats", "export", "preview"),
    "reconstruct": ("views", "hull", "splats", "surface", "mesh", "export", "preview"),
    "scene": ("read", "views", "splats", "video"),
    "texture": ("uv", "photo", "views", "texture", "preview"),
}
_HELLO = "<p>Drop a photo of the front, others if you have them, and press <b>Make it</b>.</p>"


def title(job: Job) -> str:
    """One line of the list of jobs."""
    kind = KINDS.get(job.kind, job.kind)
    kind = f"{kind} · {job.request['name']}" if job.request.get("name") else kind
    return f"{datetime.fromtimestamp(job.created):%d %b %H:%M} · {kind} · {job.state} · {job.id[:4]}"


def status(job: Job | None, waiting: int, result: Path) -> str:
    """The chosen job's state.

    Args:
        job: None where none is chosen.
        waiting: jobs before it.
        result: its folder.
    """
    if job is None:
        return _HELLO
    notes = "".join(f'<p class="v3d-note">{html.escape(note)}</p>' for note in job.warnings)
    if job.state == "queued":
        return f'<p role="status">Waiting: {waiting} before it.</p>'
    if job.state == "running":
        return _running(job) + _live(result / LIVE)
    if job.state == "done":
        seconds = (job.ended or 0) - (job.started or 0)
        return f'<p role="status"><b>Done</b> in {seconds:.0f} s.</p>{notes}'
    return f'<p role="alert" class="v3d-fail">{html.escape(job.reason)}</p>{notes}'


def _running(job: Job) -> str:
    """Bar, stages, times. A stage that the kind of job does not list stands behind the others."""
    stages = _STAGES.get(job.kind, ())
    if job.stage and job.stage not in stages:
        stages = (*stages, job.stage)
    now = stages.index(job.stage) if job.stage in stages else 0
    share = (now + job.done / max(job.total, 1)) / max(len(stages), 1)
    elapsed = time.time() - (job.started or time.time())
    left = f", about {elapsed * (1 - share) / share:.0f} s left" if share > 0.15 else ""
    kinds = ["past" if i < now else "now" if i == now else "" for i in range(len(stages))]
    spans = "".join(f'<span class="{k}">{html.escape(s)}</span>' for k, s in zip(kinds, stages, strict=True))
    percent = f"{100 * share:.0f}"
    return (
        f'<div class="v3d-bar" role="progressbar" aria-label="Progress" aria-valuenow="{percent}">'
        f'<div style="width:{percent}%"></div></div>'
        f'<div class="v3d-stages">{spans}</div><p>{elapsed:.0f} s{left}</p>'
    )


def _live(picture: Path) -> str:
    """The Gaussians as they are fitted."""
    try:
        data = base64.b64encode(picture.read_bytes()).decode()
    except OSError:
        return ""
    return f'<img class="v3d-live" alt="Gaussians as they are fitted" src="data:image/jpeg;base64,{data}">'


def frame(job: Job) -> str:
    """The viewer of what a job made; its scripts run apart from the page, with no right to reach anything."""
    return (
        f'<iframe class="v3d-viewer" title="Gaussians and mesh" sandbox="allow-scripts" '
        f'src="/v1/jobs/{job.id}/viewer"></iframe>'
    )


def turning(views: Sequence[Path]) -> str:
    """The views of a job as a strip, and one of them large, chosen by a slider that keys can move."""
    if not views:
        return ""
    urls = [f"/gradio_api/file={quote(str(path))}" for path in views]
    change = (
        "const box = this.parentElement, strip = box.querySelectorAll('.v3d-strip img');"
        "box.querySelector('.v3d-view').src = strip[this.value].src"
    )
    pick = "const range = this.closest('.v3d-turn').querySelector('input');range.value = {};range.oninput()"
    strip = "".join(
        f'<img src="{url}" alt="View {i}" loading="lazy" onclick="{pick.format(i)}">'
        for i, url in enumerate(urls)
    )
    return (
        f'<div class="v3d-turn"><img class="v3d-view" src="{urls[0]}" alt="The chosen view">'
        f'<input type="range" min="0" max="{len(urls) - 1}" value="0" aria-label="View" oninput="{change}">'
        f'<div class="v3d-strip">{strip}</div></div>'
    )
