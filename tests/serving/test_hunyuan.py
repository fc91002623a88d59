"""Hunyuan3D's calls, as its clients send them."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shapes import Draw, sphere_mesh
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.serving.runner import Limits
from v3d.settings import GenerateSettings

pytest.importorskip("fastapi")
testclient = pytest.importorskip("starlette.testclient")


def server(folder: Path, **options: Any) -> Any:
    from v3d.serving.server import make_server

    app = make_server(folder, settings=GenerateSettings(quality="draft"), **options)
    return testclient.TestClient(app, base_url="http://localhost")


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Any]:
    """A server that takes no job."""
    with server(tmp_path / "jobs", limits=Limits(waiting=0)) as closed:
        yield closed


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def document(glb: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<I", glb, 12)
    parsed: dict[str, Any] = json.loads(glb[20 : 20 + length])
    return parsed


def test_photos_become_a_mesh_with_or_without_colours(tmp_path: Path, draw: Draw) -> None:
    photos = {
        "image": encoded(draw("a.png")),
        "image_back": "data:image/png;base64," + encoded(draw("b.png")),
    }
    asked = {**photos, "face_count": 500, "octree_resolution": 256, "seed": 3, "type": "glb"}
    with server(tmp_path / "jobs") as client:
        answer = client.post("/generate", json=asked)
        assert answer.status_code == 200 and answer.headers["content-type"] == "model/gltf-binary"
        (tmp_path / "got.glb").write_bytes(answer.content)
        mesh = load_mesh(tmp_path / "got.glb")
        assert 100 < len(mesh.faces) <= 500 and mesh.texture is not None
        (job,) = client.get("/v1/jobs").json()["jobs"]
        assert "photo_180.png" in job["files"]  # the back was taken too

        uid = client.post("/send", json={**asked, "texture": False}).json()["uid"]
        while (state := client.get(f"/status/{uid}").json())["status"] == "processing":
            time.sleep(0.2)
        assert state["status"] == "completed", state
        glb = base64.b64decode(state["model_base64"])
        (tmp_path / "white.glb").write_bytes(glb)
        white = load_mesh(tmp_path / "white.glb")
        assert white.texture is None and white.vertices.shape == mesh.vertices.shape
        assert (white.faces == mesh.faces).all() and (white.vertices - mesh.vertices).abs().max() < 1e-6
        assert not {"materials", "images", "textures", "samplers"} & document(glb).keys()
        assert len(glb) < len(answer.content) / 2


_TEXT = "V3D makes assets of images, not of text; send an image."
_BASE64 = "The image is not in base64."
_NO_PHOTO = "The photo of the front is not an image that can be read; give a PNG, JPEG or WebP."
_NO_MESH = "The mesh is none of what can be read; give a GLB, PLY, STL or OBJ file."


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"text": "a cat"}, 422, _TEXT),
        ({"text": "a cat", "mesh": "Z2xURg=="}, 422, _TEXT),
        ({}, 422, "The request has no image; send one in base64."),
        ([], 422, "The request is no JSON object."),
        ({"image": "§"}, 422, _BASE64),
        ({"image": 3}, 422, _BASE64),
        ({"image": "PHN2Zy8+"}, 422, _NO_PHOTO),
        ({"image": "PNG", "face_count": "many"}, 422, "faces is a number without fraction, not 'many'."),
        ({"image": "PNG", "mesh": "PHN2Zy8+"}, 422, _NO_MESH),
        ({"image": "PNG"}, 429, "0 jobs are waiting already; try again later."),
    ],
)
def test_refusals_are_plain_sentences(closed: Any, draw: Draw, body: Any, status: int, sentence: str) -> None:
    if isinstance(body, dict) and body.get("image") == "PNG":
        body = {**body, "image": encoded(draw("a.png"))}
    for call in ("/generate", "/send"):
        answer = closed.post(call, json=body)
        assert (answer.status_code, answer.text) == (status, sentence)
    assert closed.get("/status/0123456789abcdef").text == "There is no job 0123456789abcdef."


def test_a_given_mesh_keeps_its_nodes_and_gets_colours(tmp_path: Path, draw: Draw) -> None:
    save_glb(sphere_mesh(), tmp_path / "ball.glb")
    glb = (tmp_path / "ball.glb").read_bytes()
    parts = document(glb)
    turn = [0.0, 0.38268343, 0.0, 0.92387953]
    parts["nodes"] = [
        {"name": "root", "translation": [3.0, 0.0, 1.0], "scale": [2.0, 2.0, 2.0], "children": [1]},
        {"name": "my ball", "mesh": 0, "rotation": turn, "extras": {"kept": 1}},
    ]
    text = json.dumps(parts).encode()
    text += b" " * (-len(text) % 4)
    binary = glb[20 + struct.unpack_from("<I", glb, 12)[0] :]
    sent = (
        struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(binary), len(text), 0x4E4F534A)
        + text
        + binary
    )

    asked = {"image": encoded(draw("a.png")), "mesh": base64.b64encode(sent).decode(), "texture": True}
    with server(tmp_path / "jobs") as client:
        answer = client.post("/generate", json=asked)
    assert answer.status_code == 200, answer.text
    back = document(answer.content)
    assert back["nodes"] == parts["nodes"] and back["scenes"] == parts["scenes"]
    (tmp_path / "back.glb").write_bytes(answer.content)
    (tmp_path / "sent.glb").write_bytes(sent)
    mesh, before = load_mesh(tmp_path / "back.glb"), load_mesh(tmp_path / "sent.glb")
    assert mesh.texture is not None and mesh.faces.shape == before.faces.shape
    for end in (torch.amin, torch.amax):
        torch.testing.assert_close(end(mesh.vertices, 0), end(before.vertices, 0))
    red, green, blue = mesh.texture.reshape(-1, 3).median(0).values.tolist()
    assert red > 0.6 and green < 0.4 and blue < 0.3  # the drawing's
