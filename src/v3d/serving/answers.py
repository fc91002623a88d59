"""What the server answers with: models that FastAPI checks and describes, for clients to be generated."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["generate", "reconstruct", "scene", "texture"]
"""What a job makes (`v3d.serving.desk.Desk` has a method for each)."""
_ID = "0a1b2c3d4e5f6071"
JOB_EXAMPLE: dict[str, Any] = {
    "id": _ID,
    "kind": "generate",
    "state": "running",
    "created": 1790000000.0,
    "started": 1790000000.3,
    "ended": None,
    "stage": "splats",
    "done": 120,
    "total": 400,
    "reason": "",
    "warnings": [],
    "files": {},
    "waiting_before": None,
}
DONE_EXAMPLE: dict[str, Any] = {
    **JOB_EXAMPLE,
    "state": "done",
    "ended": 1790000041.0,
    "stage": "preview",
    "done": 1,
    "total": 1,
    "files": {"mesh.glb": f"/v1/jobs/{_ID}/files/mesh.glb", "splats.ply": f"/v1/jobs/{_ID}/files/splats.ply"},
}


class JobAnswer(BaseModel):
    """One job: what it makes, how far it is, what came of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB_EXAMPLE, DONE_EXAMPLE]})

    id: str = Field(description="Sixteen hexadecimal digits.", pattern="^[0-9a-f]{16}$")
    kind: str = Field(description="What it makes: generate, reconstruct, scene or texture.")
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    created: float = Field(description="Seconds since 1970.")
    started: float | None = Field(description="Seconds since 1970, once it has begun.")
    ended: float | None = Field(description="Seconds since 1970, once it has ended.")
    stage: str = Field(description="What it does now; empty before it begins.")
    done: int = Field(description="Steps of this stage that are done.")
    total: int = Field(description="Steps of this stage.")
    reason: str = Field(description="Why it failed or was cancelled, in one sentence.")
    warnings: list[str] = Field(description="What was guessed or left out, one sentence each.")
    files: dict[str, str] = Field(description="Name of each result -> the path to get it from.")
    waiting_before: int | None = Field(default=None, description="Jobs before it while it waits.")


class JobsAnswer(BaseModel):
    """Jobs, the newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [DONE_EXAMPLE]}]})

    jobs: list[JobAnswer]


class HealthAnswer(BaseModel):
    """That the server is there."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "version": "0.1.0"}]})

    status: Literal["ok"]
    version: str


class Refusal(BaseModel):
    """Why a request was not carried out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"detail": "There is no job 0a1b2c3d4e5f6071."}]}
    )

    detail: str = Field(description="One sentence.")


class HunyuanRequest(BaseModel):
    """A request in Hunyuan3D's words. Fields that V3D has no use for are taken and left alone."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"image": "iVBORw0KGgo...", "texture": True, "face_count": 20000}]},
    )

    image: str | None = Field(None, description="Photo of the front, in base64.")
    image_left: str | None = Field(None, description="Photo of the object's left side, in base64.")
    image_back: str | None = Field(None, description="Photo of the back, in base64.")
    image_right: str | None = Field(None, description="Photo of the right side, in base64.")
    mesh: str | None = Field(None, description="A GLB in base64 that only gets a texture.")
    texture: bool | None = Field(None, description="false: a white mesh. By default textured.")
    seed: int | None = Field(None, description="Of everything random.")
    face_count: int | None = Field(None, description="Triangles at most.")


class SendAnswer(BaseModel):
    """The name of what was queued."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"uid": _ID}]})

    uid: str


class StatusAnswer(BaseModel):
    """How far it is, in Hunyuan3D's words."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"status": "processing", "model_base64": None, "message": None},
                {"status": "completed", "model_base64": "Z2xURg...", "message": None},
            ]
        }
    )

    status: Literal["processing", "completed", "error"]
    model_base64: str | None = Field(default=None, description="The GLB, once it is completed.")
    message: str | None = Field(default=None, description="Why there is none, after an error.")


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these codes: each a `Refusal`."""
    meanings = {
        401: "The token is missing or wrong.",
        403: "The server does not go by that name, or a page of another site asked.",
        404: "There is no such job or result.",
        409: "The job has not ended.",
        413: "The request is too large.",
        422: "The request cannot be carried out.",
        429: "The queue is full; Retry-After says when to come again.",
    }
    return {code: {"model": Refusal, "description": meanings[code]} for code in codes}
