"""V3D over HTTP: photos in, a job; its progress as JSON or a stream of events; its results by name.

Needs the extra `app` (FastAPI comes with it). `/openapi.json` describes every call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer

from v3d.distribution import own_version
from v3d.serving import forms
from v3d.serving.answers import DONE_EXAMPLE, HealthAnswer, JobAnswer, JobsAnswer, refusals
from v3d.serving.desk import Desk
from v3d.serving.shape_viewer import viewer_of
from v3d.serving.store import FINISHED, Job, is_for_clients, is_id

TOKEN = Depends(HTTPBearer(auto_error=False, description="Where the server was started with a token."))
"""Described only; `v3d.serving.guard` asks for it."""
router = APIRouter(dependencies=[TOKEN], responses=refusals(401, 403, 422))
RETRY_SECONDS = 30
"""After which a client that was told to come again should do so."""
_SHOWN = {".png": "image/png", ".mp4": "video/mp4", ".json": "application/json"}
_VIEWER_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "frame-ancestors 'self'; sandbox allow-scripts"
)
_FILE = {"type": "string", "format": "binary"}


def answer_of(desk: Desk, job: Job) -> JobAnswer:
    """What clients are told of a job."""
    return JobAnswer(
        id=job.id,
        kind=job.kind,
        state=job.state,
        created=job.created,
        started=job.started,
        ended=job.ended,
        stage=job.stage,
        done=job.done,
        total=job.total,
        reason=job.reason,
        warnings=list(job.warnings),
        files={name: f"/v1/jobs/{job.id}/files/{name}" for name in job.files if _is_file(desk, job, name)},
        waiting_before=desk.store.waiting_before(job) if job.state == "queued" else None,
    )


def _is_file(desk: Desk, job: Job, name: str) -> bool:
    """Whether a result can be sent."""
    try:
        sent(desk, job, name)
    except KeyError:
        return False
    return True


def sent(desk: Desk, job: Job, name: str) -> Path:
    """The file of a result that clients may have: none of what a run keeps to go on from.

    Raises:
        KeyError: there is no such result.
    """
    if not is_for_clients(name):
        raise KeyError(name)
    return desk.store.result(job, name)


def desk_of(request: Request) -> Desk:
    """The application's desk."""
    desk: Desk = request.app.state.desk
    return desk


def find(desk: Desk, id: str) -> Job:
    """The job of an id, or 404."""
    try:
        if is_id(id):
            return desk.store.get(id)
    except KeyError:
        pass
    raise HTTPException(404, f"There is no job {id[:40]}.")


def busy(request: Request, error: Exception) -> JSONResponse:
    """The answer of a full queue (`QueueFullError`)."""
    return JSONResponse({"detail": str(error)}, 429, {"Retry-After": str(RETRY_SECONDS)})


def refused(request: Request, error: Exception) -> JSONResponse:
    """The answer to what cannot be done (`V3DError`): its sentence."""
    return JSONResponse({"detail": str(error)}, 422)


def misspelt(request: Request, error: Exception) -> JSONResponse:
    """The answer to a parameter of the wrong kind (`RequestValidationError`), in one sentence."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}."}, 422)


@router.get("/health")
def health() -> HealthAnswer:
    """That the server is there, and its version. Asks for no token."""
    return HealthAnswer(status="ok", version=own_version() or "unknown")


@router.post(
    "/v1/jobs",
    status_code=202,
    openapi_extra={"requestBody": forms.OPENAPI},
    responses=refusals(413, 429),
)
async def create(request: Request, response: Response) -> JobAnswer:
    """Queue a job: an asset of photos (generate) or views (reconstruct), a scene, a mesh's texture."""
    desk = desk_of(request)
    async with request.form(max_files=forms.MOST_FILES, max_fields=forms.MOST_FIELDS) as form:
        job = await asyncio.to_thread(forms.queue, desk, forms.read_form(form))
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return answer_of(desk, job)


@router.get("/v1/jobs")
def index(request: Request, limit: int = 50, before: float | None = None) -> JobsAnswer:
    """The newest jobs first, at most 500; `before`, a time of creation, continues a list."""
    desk = desk_of(request)
    jobs = desk.store.jobs(limit=min(max(limit, 1), 500), before=before)
    return JobsAnswer(jobs=[answer_of(desk, job) for job in jobs])


@router.get("/v1/jobs/{id}", responses=refusals(404))
def show(request: Request, id: str) -> JobAnswer:
    """State, progress, results of a job."""
    desk = desk_of(request)
    return answer_of(desk, find(desk, id))


@router.get(
    "/v1/jobs/{id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The job as JSON in the data of each event.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": f"data: {json.dumps(DONE_EXAMPLE)}\n\n",
                }
            },
        },
        **refusals(404),
    },
)
async def events(request: Request, id: str) -> StreamingResponse:
    """The job as server-sent events, one whenever something changed, until it has ended."""
    desk = desk_of(request)
    find(desk, id)

    async def stream() -> AsyncIterator[str]:
        last = ""
        while not await request.is_disconnected():
            job = find(desk, id)
            text = answer_of(desk, job).model_dump_json()
            yield ": still there\n\n" if text == last else f"data: {text}\n\n"
            last = text
            if job.state in FINISHED:
                return
            await asyncio.sleep(0.5)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.post("/v1/jobs/{id}/cancel", responses=refusals(404))
def cancel(request: Request, id: str) -> JobAnswer:
    """Stop a job that waits or runs; one that has ended stays as it is."""
    desk = desk_of(request)
    find(desk, id)
    desk.store.finish(id, "cancelled", reason="It was cancelled.")
    return answer_of(desk, find(desk, id))


@router.delete("/v1/jobs/{id}", status_code=204, responses=refusals(404, 409))
def delete(request: Request, id: str) -> None:
    """Remove a job that has ended, with its results."""
    desk = desk_of(request)
    if find(desk, id).state not in FINISHED:
        raise HTTPException(409, "The job has not ended; cancel it first.")
    desk.store.remove(id)


@router.get(
    "/v1/jobs/{id}/files/{name:path}",
    response_class=FileResponse,
    responses={
        200: {
            "description": "The bytes of the file.",
            "content": {kind: {"schema": _FILE} for kind in ("application/octet-stream", *_SHOWN.values())},
        },
        **refusals(404),
    },
)
def file(request: Request, id: str, name: str) -> FileResponse:
    """One result, by the name that the job's `files` has."""
    desk = desk_of(request)
    try:
        path = sent(desk, find(desk, id), name)
    except KeyError:
        raise HTTPException(404, f"The job has no file {name[:80]}.") from None
    kind = _SHOWN.get(path.suffix)
    return FileResponse(
        path,
        media_type=kind or "application/octet-stream",
        filename=None if kind else path.name,
        headers={"Content-Security-Policy": "default-src 'none'; sandbox"},
    )


@router.get(
    "/v1/jobs/{id}/viewer",
    response_class=FileResponse,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}, **refusals(404)},
)
def viewer(request: Request, id: str) -> FileResponse:
    """A page that shows the job's Gaussians and mesh. It can reach nothing, not even this server."""
    desk = desk_of(request)
    try:
        path = viewer_of(desk.store, find(desk, id))
    except KeyError:
        raise HTTPException(404, "The job has neither Gaussians nor a mesh.") from None
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": _VIEWER_POLICY})
