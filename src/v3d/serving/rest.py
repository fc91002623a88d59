"""V3D over HTTP: photos in, a job; its progress as JSON or a stream of events; its results by name.

Needs the extra `app` (FastAPI comes with it). `/openapi.json` describes every call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile

from v3d.distribution import own_version
from v3d.serving.desk import Desk
from v3d.serving.manifest import SIDES
from v3d.serving.store import FINISHED, Job, is_id

router = APIRouter()
RETRY_SECONDS = 30
"""After which a client that was told to come again should do so."""
_FIELDS = ", ".join([*SIDES, "settings"])
_SHOWN = {".png": "image/png", ".mp4": "video/mp4", ".json": "application/json"}
_PHOTO = {"type": "string", "format": "binary"}
_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["front"],
                "properties": {
                    **dict.fromkeys(SIDES, _PHOTO),
                    "settings": {
                        "type": "string",
                        "description": "JSON of the options of v3d generate",
                        "example": '{"quality": "draft", "seed": 1}',
                    },
                },
            }
        }
    },
}


def as_json(desk: Desk, job: Job) -> dict[str, Any]:
    """What clients are told of a job."""
    out: dict[str, Any] = {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "stage": job.stage,
        "done": job.done,
        "total": job.total,
        "reason": job.reason,
        "warnings": list(job.warnings),
        "files": {name: f"/v1/jobs/{job.id}/files/{name}" for name in job.files},
    }
    if job.state == "queued":
        out["waiting_before"] = desk.store.waiting_before(job)
    return out


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


@router.get("/health")
def health() -> dict[str, str]:
    """That the server is there, and its version."""
    return {"status": "ok", "version": own_version() or "unknown"}


@router.post("/v1/jobs", status_code=202, openapi_extra={"requestBody": _FORM})
async def create(request: Request) -> Response:
    """Queue an asset of one to four photos (multipart form: front, left, back, right, settings)."""
    desk = desk_of(request)
    photos: dict[str, bytes] = {}
    options: Any = {}
    async with request.form(max_files=len(SIDES), max_fields=4) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                photos[name] = await value.read()
            elif name == "settings":
                options = _object(value)
            else:
                raise HTTPException(
                    422, f"There is no field {name[:40]}; there are front, left, back, right, settings."
                )
    job = await asyncio.to_thread(desk.generate, photos, options)
    return JSONResponse(as_json(desk, job), 202, {"Location": f"/v1/jobs/{job.id}"})


@router.get("/v1/jobs")
def index(request: Request, limit: int = 50, before: float | None = None) -> dict[str, Any]:
    """The newest jobs first; `before`, a time of creation, continues a list."""
    desk = desk_of(request)
    jobs = desk.store.jobs(limit=min(max(limit, 1), 500), before=before)
    return {"jobs": [as_json(desk, job) for job in jobs]}


@router.get("/v1/jobs/{id}")
def show(request: Request, id: str) -> dict[str, Any]:
    """State, progress, results of a job."""
    desk = desk_of(request)
    return as_json(desk, find(desk, id))


@router.get("/v1/jobs/{id}/events")
async def events(request: Request, id: str) -> StreamingResponse:
    """The job as server-sent events, one whenever something changed, until it has ended."""
    desk = desk_of(request)
    find(desk, id)

    async def stream() -> AsyncIterator[str]:
        last = ""
        while not await request.is_disconnected():
            job = find(desk, id)
            text = json.dumps(as_json(desk, job))
            yield ": still there\n\n" if text == last else f"data: {text}\n\n"
            last = text
            if job.state in FINISHED:
                return
            await asyncio.sleep(0.5)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.post("/v1/jobs/{id}/cancel")
def cancel(request: Request, id: str) -> dict[str, Any]:
    """Stop a job that waits or runs; one that has ended stays as it is."""
    desk = desk_of(request)
    find(desk, id)
    desk.store.finish(id, "cancelled", reason="It was cancelled.")
    return as_json(desk, find(desk, id))


@router.delete("/v1/jobs/{id}", status_code=204)
def delete(request: Request, id: str) -> Response:
    """Remove a job that has ended, with its results."""
    desk = desk_of(request)
    if find(desk, id).state not in FINISHED:
        raise HTTPException(409, "The job has not ended; cancel it first.")
    desk.store.remove(id)
    return Response(status_code=204)


@router.get("/v1/jobs/{id}/files/{name}")
def file(request: Request, id: str, name: str) -> FileResponse:
    """One result."""
    desk = desk_of(request)
    try:
        path = desk.store.result(find(desk, id), name)
    except KeyError:
        raise HTTPException(404, f"The job has no file {name[:80]}.") from None
    kind = _SHOWN.get(path.suffix)
    headers = {"Content-Security-Policy": "default-src 'none'; sandbox"}
    return FileResponse(
        path,
        media_type=kind or "application/octet-stream",
        filename=None if kind else name,
        headers=headers,
    )


def _object(text: str) -> dict[str, Any]:
    """JSON text as an object of names and values."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HTTPException(422, 'settings is no JSON object; for example {"quality": "draft"}.')
    return value
