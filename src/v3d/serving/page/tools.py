"""What agents may call (MCP): few functions, whose docstrings tell an agent all it needs to know."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import api

from v3d.errors import V3DError
from v3d.serving.desk import Desk
from v3d.serving.manifest import SIDES
from v3d.serving.store import Job, QueueFullError, is_id

_MOST = 64 << 20  # bytes of a photo


def offer_tools(desk: Desk) -> None:
    """Add the tools to the page that is being made."""

    def make_asset(
        photo: str,
        left: str = "",
        back: str = "",
        right: str = "",
        quality: str = "draft",
        seed: int = 0,
    ) -> str:
        """Make 3D Gaussians and a textured mesh of an object from one to four photos of it.

        Returns the id of a job, which takes from half a minute (draft) to several minutes; ask job_status.

        Args:
            photo: its front: path of an image file on this computer, or base64 of one (or a data: URL).
            left: the same of its own left side; "" for none.
            back: the same of its back; "" for none.
            right: the same of its own right side; "" for none.
            quality: draft, standard or high.
            seed: the same seed gives the same result.
        """
        given = dict(zip(SIDES, (photo, left, back, right), strict=True))
        photos = {side: _bytes(text, side) for side, text in given.items() if text}
        try:
            return desk.generate(photos, {"quality": quality, "seed": seed}).id
        except (V3DError, QueueFullError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def job_status(job: str) -> dict[str, Any]:
        """Tell how far a job is: its state (queued, running, done, failed, cancelled), stage, and reason.

        Args:
            job: the id that make_asset returned.
        """
        found = _job(desk, job)
        told = {"state": found.state, "stage": found.stage, "steps": f"{found.done} of {found.total}"}
        return {**told, "reason": found.reason, "warnings": list(found.warnings)}

    def job_files(job: str) -> dict[str, str]:
        """List the results of a job that is done: name -> path on this computer.

        mesh.glb is the textured mesh, splats.ply the Gaussians, turntable.mp4 and preview.png show both.

        Args:
            job: the id that make_asset returned.
        """
        return _files(desk, _job(desk, job))

    for tool in (make_asset, job_status, job_files):
        api(tool, api_name=tool.__name__)


def _bytes(text: str, side: str) -> bytes:
    """A photo's bytes by the path of its file or as base64.

    Raises:
        gr.Error: it is neither.
    """
    try:
        if len(text) < 4096 and Path(text).is_file():
            if Path(text).stat().st_size > _MOST:
                sentence = f"The photo of the {side} has more than {_MOST >> 20} MB."
                raise gr.Error(sentence, print_exception=False)
            return Path(text).read_bytes()
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (OSError, ValueError, binascii.Error) as error:
        sentence = f"The photo of the {side} is neither the path of a file here nor base64."
        raise gr.Error(sentence, print_exception=False) from error


def _files(desk: Desk, job: Job) -> dict[str, str]:
    """Name -> absolute path of the results that are there."""
    files = {}
    for name in job.files:
        if not name.startswith("."):
            try:
                files[name] = str(desk.store.result(job, name).absolute())
            except KeyError:
                continue
    return files


def _job(desk: Desk, id: str) -> Job:
    try:
        if is_id(id):
            return desk.store.get(id)
    except KeyError:
        pass
    raise gr.Error(f"There is no job {id[:40]}.", print_exception=False)
