"""The calls of Hunyuan3D's server: programs made for it, Blender's add-ons among them, work unchanged.

`POST /generate` answers with the GLB itself, `POST /send` with a uid, `GET /status/{uid}` with the state and,
in the end, the GLB in base64.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, Response

from v3d.serving.desk import Desk
from v3d.serving.rest import desk_of, find
from v3d.serving.store import FINISHED, Job

router = APIRouter()
_MESH = "mesh.glb"


@router.post("/generate", response_class=FileResponse)
async def generate(request: Request) -> Response:
    """An image in base64 (`image`) -> the bytes of a GLB. It answers when the asset is made."""
    desk = desk_of(request)
    job = await _queue(desk, request)
    while job.state not in FINISHED:
        if await request.is_disconnected():
            desk.store.finish(job.id, "cancelled", reason="Nobody waits for it any more.")
            return Response(status_code=499)
        await asyncio.sleep(0.3)
        job = find(desk, job.id)
    if job.state != "done":
        raise HTTPException(422, job.reason)
    return FileResponse(desk.store.result(job, _MESH), media_type="model/gltf-binary", filename=_MESH)


@router.post("/send")
async def send(request: Request) -> Any:
    """An image in base64 (`image`) -> `{"uid": ...}` at once."""
    desk = desk_of(request)
    job = await _queue(desk, request)
    return {"uid": job.id}


@router.get("/status/{uid}")
def status(request: Request, uid: str) -> dict[str, str]:
    """`processing`, or `completed` with the GLB in base64 (`model_base64`), or `error` with a `message`."""
    desk = desk_of(request)
    job = find(desk, uid)
    if job.state not in FINISHED:
        return {"status": "processing"}
    if job.state != "done":
        return {"status": "error", "message": job.reason}
    data = desk.store.result(job, _MESH).read_bytes()
    return {"status": "completed", "model_base64": base64.b64encode(data).decode()}


async def _queue(desk: Desk, request: Request) -> Job:
    """The job that a request in Hunyuan's words asks for."""
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise HTTPException(422, "The request is no JSON object.")
    image = body.get("image")
    if not isinstance(image, str):
        if body.get("text"):
            raise HTTPException(422, "V3D makes assets of images, not of text; send an image.")
        raise HTTPException(422, "The request has no image; send one in base64.")
    if body.get("mesh"):
        raise HTTPException(422, "Texturing a given mesh is not there yet; leave mesh out.")
    try:
        data = base64.b64decode(
            image.partition(",")[2] if image.startswith("data:") else image, validate=True
        )
    except (binascii.Error, ValueError):
        raise HTTPException(422, "The image is not in base64.") from None
    options = {"seed": body.get("seed"), "faces": body.get("face_count"), "formats": ["glb"]}
    return await asyncio.to_thread(desk.generate, {"front": data}, options)
