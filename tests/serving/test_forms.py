"""Forms of every kind become jobs of that kind, with their files and settings."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from shapes import Draw, sphere_mesh
from v3d.client import _file, _Form
from v3d.errors import V3DError
from v3d.meshes.glb import save_glb
from v3d.serving.desk import Desk
from v3d.serving.runner import Limits
from v3d.serving.store import Job, JobStore
from v3d.settings import GenerateSettings

pytest.importorskip("fastapi")
formparsers = pytest.importorskip("starlette.formparsers")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(JobStore(tmp_path / "jobs"), Limits(), GenerateSettings(quality="draft"))


def asked(desk: Desk, files: dict[str, Path], **fields: str) -> Job:
    """The job of a form, as the client writes it and the server reads it."""
    import asyncio

    from starlette.datastructures import Headers

    from v3d.serving.forms import queue, read_form

    form = _Form(files, fields)
    body = b"".join(form)
    assert len(body) == len(form)

    async def stream() -> Any:
        yield body

    async def parsed() -> Job:
        headers = Headers({"content-type": f"multipart/form-data; boundary={form.boundary}"})
        return queue(desk, read_form(await formparsers.MultiPartParser(headers, stream()).parse()))

    return asyncio.run(parsed())


def kept(desk: Desk, job: Job) -> set[str]:
    folder = desk.store.root / job.id / "input"
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def packed(tmp_path: Path, draw: Draw) -> Path:
    """A zip of a folder with two pictures and a file of cameras, made by the client."""
    folder = draw("posed/images/0.png").parents[1]
    draw("posed/images/1.png")
    (folder / "transforms.json").write_text("{}")
    return _file(folder, tmp_path / "views.zip")


def test_photos_and_masks(desk: Desk, draw: Draw) -> None:
    files = {"front": draw('a "b".png'), "left": draw("l.png"), "front_mask": draw("m.png")}
    job = asked(desk, files, settings='{"seed": 4, "texture-size": 512}')
    assert job.kind == "generate" and job.request["photos"] == ["front", "left"]
    assert job.request["masks"] == ["front"] and kept(desk, job) == {"front", "left", "front_mask"}
    assert job.request["settings"]["seed"] == 4 and job.request["settings"]["texture_size"] == 512
    assert (desk.store.root / job.id / "input/left").read_bytes() == files["left"].read_bytes()


def test_views(desk: Desk, packed: Path, draw: Draw) -> None:
    job = asked(desk, {"views": packed}, kind="reconstruct")
    assert job.kind == "reconstruct" and job.request["orbit"] is None
    assert kept(desk, job) == {
        f"views/{name}" for name in ("images/0.png", "images/1.png", "transforms.json")
    }
    grid = asked(desk, {"views": draw("grid.png")}, kind="reconstruct", orbit='{"grid": "2x3"}')
    assert grid.request["orbit"]["grid"] == "2x3" and kept(desk, grid) == {"views.png"}


def test_a_scene(desk: Desk, packed: Path) -> None:
    job = asked(desk, {"views": packed}, kind="scene", settings='{"path": "orbit", "frames": 9}')
    assert job.kind == "scene" and job.request["settings"]["frames"] == 9


def test_a_mesh(desk: Desk, packed: Path, draw: Draw, tmp_path: Path) -> None:
    save_glb(sphere_mesh(), tmp_path / "ball.glb")
    job = asked(desk, {"mesh": tmp_path / "ball.glb", "front": draw("a.png")}, kind="texture")
    assert job.kind == "texture" and kept(desk, job) == {"mesh.glb", "front"}
    posed = asked(desk, {"mesh": tmp_path / "ball.glb", "views": packed}, kind="texture")
    assert posed.request["views"] == "views" and "photos" not in posed.request


@pytest.mark.parametrize(
    ("files", "fields", "sentence"),
    [
        ((), {"kind": "paint"}, "There is no kind paint; there are generate, reconstruct, scene, texture."),
        (("views",), {}, "There is no side views of generate"),
        ((), {"kind": "scene"}, "A form of scene needs the file views."),
        (("front",), {"kind": "texture"}, "A form of texture needs the file mesh."),
        (("front",), {"orbit": "{}"}, "There is no field orbit of generate"),
        (("views",), {"kind": "reconstruct", "orbit": "[]"}, "orbit is no JSON object"),
        (("views",), {"kind": "reconstruct"}, "A video or picture has no cameras"),
        (("views",), {"kind": "scene", "settings": '{"path": "/etc/path.json"}'}, "There is no path /etc"),
        (("front",), {"settings": "{"}, "settings is no JSON object"),
        (("settings",), {}, "settings is text, not a file."),
        ((), {"front": "text"}, "front is a file."),
    ],
)
def test_what_is_wrong_is_one_sentence(
    desk: Desk, draw: Draw, files: tuple[str, ...], fields: dict[str, str], sentence: str
) -> None:
    with pytest.raises(V3DError) as refusal:
        asked(desk, {name: draw(f"{name}.png") for name in files}, **fields)
    assert str(refusal.value).startswith(sentence)
    assert desk.store.jobs() == [] and [p for p in desk.store.root.iterdir() if p.is_dir()] == []


def test_folders_are_packed_as_they_are(packed: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(packed.read_bytes())) as archive:
        assert json.loads(archive.read("transforms.json")) == {}
        assert archive.testzip() is None and len(archive.namelist()) == 3
