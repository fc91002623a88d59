"""The calls of Hunyuan3D's server: programs made for it, Blender's add-ons among them, work unchanged.

`POST /generate` answers with the GLB itself, `POST /send` with a uid, `GET /status/{uid}` with the state and,
in the end, the GLB in base64. These programs show the text of a refusal as it is, so it is plain text here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import PlainTextResponse, Response
from fastapi.routing import APIRoute

from v3d.errors import V3DError
from v3d.meshes.white import without_materials
from v3d.serving.answers import HunyuanRequest, SendAnswer, StatusAnswer, refusals
from v3d.serving.desk import Desk
from v3d.serving.rest import RETRY_SECONDS, TOKEN, desk_of, find
from v3d.serving.store import FINISHED, Job, QueueFullError


class _InWords(APIRoute):
    """A call whose refusals are plain text."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The call, with its exceptions made answers."""
        handle = super().get_route_handler()

        async def in_words(request: Request) -> Response:
            try:
                return await handle(request)
            except HTTPException as error:
                return PlainTextResponse(str(error.detail), error.status_code)
            except V3DError as error:
                return PlainTextResponse(str(error), 422)
            except QueueFullError as error:
                return PlainTextResponse(str(error), 429, {"Retry-After": str(RETRY_SECONDS)})

        return in_words


_SENTENCE = {
    "content": {"text/plain": {"schema": {"type": "string"}, "example": "The request has no image."}}
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    **refusals(401, 403, 413),  # the guard's
    **{code: {"description": "Why not, in one sentence.", **_SENTENCE} for code in (404, 422, 429)},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": HunyuanRequest.model_json_schema()}},
    }
}
_GLB = "model/gltf-binary"
_MESH = "mesh.glb"
_MOST_BYTES = 128 << 20
_WHITE = "-white"  # ends the uid of a job whose mesh was asked for without texture
_PHOTOS = {"image": "front", "image_left": "left", "image_back": "back", "image_right": "right"}
router = APIRouter(route_class=_InWords, dependencies=[TOKEN], responses=_REFUSALS)


@router.post(
    "/generate",
    response_class=Response,
    openapi_extra=_BODY,
    responses={
        200: {
            "description": "The GLB.",
            "content": {_GLB: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def generate(request: Request) -> Response:
    """Photos in base64 -> the bytes of a GLB. It answers when the asset is made."""
    desk = desk_of(request)
    job, white = await _queue(desk, request)
    while job.state not in FINISHED:
        if await request.is_disconnected():
            desk.store.finish(job.id, "cancelled", reason="Nobody waits for it any more.")
            return Response(status_code=499)
        await asyncio.sleep(0.3)
        job = find(desk, job.id)
    if job.state != "done":
        raise HTTPException(422, job.reason)
    glb = await asyncio.to_thread(_glb, desk, job, white)
    return Response(glb, media_type=_GLB)


@router.post("/send", openapi_extra=_BODY)
async def send(request: Request) -> SendAnswer:
    """Photos in base64 -> the uid of a job, at once."""
    job, white = await _queue(desk_of(request), request)
    return SendAnswer(uid=job.id + (_WHITE if white else ""))


@router.get("/status/{uid}")
def status(request: Request, uid: str) -> StatusAnswer:
    """`processing`, or `completed` with the GLB in base64 (`model_base64`), or `error` with a `message`."""
    desk = desk_of(request)
    job = find(desk, uid.removesuffix(_WHITE))
    if job.state not in FINISHED:
        return StatusAnswer(status="processing")
    if job.state != "done":
        return StatusAnswer(status="error", message=job.reason)
    glb = _glb(desk, job, uid.endswith(_WHITE))
    return StatusAnswer(status="completed", model_base64=base64.b64encode(glb).decode())


async def _queue(desk: Desk, request: Request) -> tuple[Job, bool]:
    """The job that a request in Hunyuan's words asks for, and whether its mesh shall be white."""
    text = bytearray()
    async for chunk in request.stream():
        text += chunk
        if len(text) > _MOST_BYTES:
            raise HTTPException(413, f"A request has at most {_MOST_BYTES >> 20} MB.")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    del text
    if not isinstance(body, dict):
        raise HTTPException(422, "The request is no JSON object.")
    photos = {side: _bytes(name, body[name]) for name, side in _PHOTOS.items() if body.get(name)}
    if "front" not in photos:
        if body.get("text"):
            raise HTTPException(422, "V3D makes assets of images, not of text; send an image.")
        raise HTTPException(422, "The request has no image; send one in base64.")
    options = {"seed": body.get("seed"), "formats": ["glb"]}
    if body.get("mesh"):
        mesh = _bytes("mesh", body["mesh"])
        return await asyncio.to_thread(desk.texture, mesh, photos, options), False
    options["faces"] = body.get("face_count")
    return await asyncio.to_thread(desk.generate, photos, options), body.get("texture") is False


def _bytes(name: str, text: Any) -> bytes:
    """What a field has in base64; it may begin as a data URL does."""
    try:
        if not isinstance(text, str):
            raise ValueError
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(422, f"The {name} is not in base64.") from None


def _glb(desk: Desk, job: Job, white: bool) -> bytes:
    """The bytes of a job's mesh."""
    try:
        data = desk.store.result(job, _MESH).read_bytes()
    except (KeyError, OSError):
        raise HTTPException(404, "The mesh of this job is gone; make it again.") from None
    return without_materials(data) if white else data
