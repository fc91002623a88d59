"""Who may ask the server what: each refusal, at the guard itself and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shapes import Draw
from v3d.commands.serve import ServerOptions
from v3d.errors import V3DError
from v3d.serving.guard import Rules
from v3d.serving.runner import Limits

pytest.importorskip("fastapi")
testclient = pytest.importorskip("starlette.testclient")


def client(folder: Path, **rules: Any) -> Any:
    from v3d.serving.server import make_server

    app = make_server(folder, rules=Rules(**rules), limits=Limits(waiting=0))
    return testclient.TestClient(app, base_url="http://localhost", follow_redirects=False)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Any]:
    with client(tmp_path / "jobs") as here:
        yield here


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Any]:
    with client(tmp_path / "jobs", token="sésame & co", hosts=()) as guarded:
        yield guarded


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_computers_reach_it_only_with_a_token(host: str) -> None:
    from v3d.commands.app import app
    from v3d.commands.serve import serve

    for command in (app, serve):
        with pytest.raises(V3DError, match="give a --token"):
            command(ServerOptions(host=host))


def test_a_token_is_asked_for_everywhere_but_for_health(guarded: Any) -> None:
    calls = [
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("POST", "/generate"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
    ]
    for method, path in calls:
        assert guarded.request(method, path).status_code == 401
        wrong = {"Authorization": "Bearer sésame".encode()}
        assert guarded.request(method, path, headers=wrong).status_code == 401
    right = {"Authorization": "Bearer sésame & co".encode()}
    assert guarded.get("/v1/jobs", headers=right).status_code == 200
    assert guarded.get("/health").status_code == 200


def test_browsers_bring_the_token_once(guarded: Any) -> None:
    assert guarded.get("/v1/jobs", params={"token": "no"}).status_code == 401
    assert guarded.post("/v1/jobs", params={"token": "sésame & co"}).status_code == 401
    answer = guarded.get("http://localhost//evil.example/v1", params={"token": "sésame & co"})
    assert answer.status_code == 303 and answer.headers["location"] == "/evil.example/v1"
    kept = answer.headers["set-cookie"]
    assert "HttpOnly" in kept and "SameSite=Lax" in kept and "sésame" not in kept
    assert guarded.get("/v1/jobs").status_code == 200  # the test's client keeps cookies as browsers do
    stranger = {"Origin": "http://evil.example"}
    assert guarded.post("/v1/jobs", headers=stranger).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "null"},  # a page in a sandboxed frame
        {"Origin": "http://localhost:8080"},  # another server of this computer
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_cannot_send(here: Any, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/v1/jobs"),
        ("POST", "/generate"),
        ("DELETE", "/v1/jobs/0123456789abcdef"),
    ):
        assert here.request(method, path, headers=headers).status_code == 403
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert here.post("/generate", headers=own, json={}).status_code == 422


def test_pages_of_other_sites_cannot_read(here: Any) -> None:
    answer = here.get("/v1/jobs", headers={"Origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""])
def test_names_that_are_pointed_here_are_refused(here: Any, host: str) -> None:
    assert here.get("/v1/jobs", headers={"Host": host}).status_code == 403
    for own in ("localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST"):
        assert here.get("/v1/jobs", headers={"Host": own}).status_code == 200


def test_uploads_are_limited(tmp_path: Path) -> None:
    with client(tmp_path / "jobs", most_bytes=1000) as here:
        assert here.post("/v1/jobs", content=b"x" * 1001).status_code == 413
        assert here.post("/v1/jobs", content=b"x", headers={"Content-Length": "-1"}).status_code == 413
        assert here.post("/generate", content=(b"x" * 600 for _ in range(4))).status_code in (400, 413)
        assert here.get("/health").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<!doctype html><script>alert(1)</script>",
        b"<?xml version='1.0'?><svg/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"",
    ],
)
def test_what_is_no_photo_is_refused_whatever_it_is_called(here: Any, data: bytes, tmp_path: Path) -> None:
    answer = here.post("/v1/jobs", files={"front": ("cup.png", data, "image/png")})
    assert answer.status_code == 422 and "not an image" in answer.json()["detail"]
    assert [path for path in (tmp_path / "jobs").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    "name", ["../../etc/cup.png", "/etc/cup.png", "..\\cup.png", "cup\x00.png", "x" * 3000]
)
def test_names_of_uploads_are_no_paths(here: Any, draw: Draw, name: str, tmp_path: Path) -> None:
    photo = draw("cup.png").read_bytes()
    before = {path for path in tmp_path.rglob("*") if "jobs.sqlite" not in path.name}
    answer = here.post("/v1/jobs", files={"front": (name, photo, "image/png")})
    assert answer.status_code == 429  # all is well with it but the queue, which is closed
    assert {path for path in tmp_path.rglob("*") if "jobs.sqlite" not in path.name} == before


@pytest.mark.parametrize("option", ["model", "device", "Model ", "out", "masks"])
def test_settings_name_no_files_or_machines(here: Any, draw: Draw, option: str) -> None:
    form = {"settings": f'{{"{option}": "/etc/passwd"}}'}
    answer = here.post("/v1/jobs", files={"front": draw("cup.png").read_bytes()}, data=form)
    assert answer.status_code == 422


def test_a_result_cannot_run_in_a_browser(tmp_path: Path) -> None:
    with client(tmp_path / "jobs") as here:
        store = here.app.state.desk.store
        id = store.new_id()
        (store.root / id / "result").mkdir()
        names = ("x.html", "x.svg", "mesh.glb", "preview.png")
        for name in names:
            (store.root / id / "result" / name).write_text("<script>alert(1)</script>")
        (store.root / id / "result" / "link.png").symlink_to("/etc/passwd")
        store.add(id, "generate", {}, most=1)
        store.finish(id, "done", files=(*names, "link.png"))
        (store.root / id / "result/viewer.html").write_text("<script>alert(1)</script>")
        for name in names:
            answer = here.get(f"/v1/jobs/{id}/files/{name}")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
            shown = answer.headers["content-type"]
            assert shown == ("image/png" if name.endswith("png") else "application/octet-stream")
            if not name.endswith("png"):
                assert answer.headers["content-disposition"].startswith("attachment")
        assert here.get(f"/v1/jobs/{id}/files/link.png").status_code == 404
        assert here.get(f"/v1/jobs/{id}/files/viewer.html").status_code == 404  # the job does not list it


def test_only_the_viewer_runs_and_it_reaches_nothing(tmp_path: Path) -> None:
    with client(tmp_path / "jobs") as here:
        store = here.app.state.desk.store
        id = store.new_id()
        (store.root / id / "result/finished").mkdir(parents=True)
        files = ("viewer.html", "finished/mesh.glb", ".stages/hull", "views/000.png", "../input/front")
        for name in files:
            (store.root / id / "result" / name).parent.mkdir(exist_ok=True)
            (store.root / id / "result" / name).write_text("x")
        store.add(id, "generate", {}, most=1)
        store.finish(id, "done", files=files)
        answer = here.get(f"/v1/jobs/{id}/viewer")
        assert answer.headers["content-type"].startswith("text/html")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and policy.endswith("sandbox allow-scripts")
        assert here.get(f"/v1/jobs/{id}/files/finished/mesh.glb").text == "x"
        for name in (*files[2:], "%2e%2e/input/front", "finished/..%2f..%2fx"):
            assert here.get(f"/v1/jobs/{id}/files/{name}").status_code == 404, name
        assert set(here.get(f"/v1/jobs/{id}").json()["files"]) == {"viewer.html", "finished/mesh.glb"}
        assert here.get("/v1/jobs/0123456789abcdef/viewer").status_code == 404
