"""The server: photos become jobs, jobs results; what it must refuse, it refuses in one sentence."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shapes import Draw
from v3d.commands.app import app
from v3d.commands.serve import ServerOptions
from v3d.errors import V3DError
from v3d.serving.guard import Rules
from v3d.serving.runner import Limits
from v3d.settings import GenerateSettings

pytest.importorskip("fastapi")
testclient = pytest.importorskip("starlette.testclient")

VIEWS = GenerateSettings(until="views", quality="draft")


def server(folder: Path, **options: Any) -> Any:
    from v3d.serving.server import make_server

    return make_server(folder, **{"settings": VIEWS, **options})


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    with testclient.TestClient(server(tmp_path / "jobs"), base_url="http://localhost") as client:
        yield client


def ended(client: Any, id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.get(f"/v1/jobs/{id}").json()
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.2)
    raise AssertionError("the job did not end")


def test_a_photo_becomes_a_job_and_its_files(client: Any, draw: Draw) -> None:
    answer = client.post(
        "/v1/jobs", files={"front": draw("cup.png").read_bytes()}, data={"settings": '{"seed": 3}'}
    )
    assert answer.status_code == 202 and answer.headers["location"].endswith(answer.json()["id"])
    id = answer.json()["id"]
    with client.stream("GET", f"/v1/jobs/{id}/events") as stream:
        told = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data:")]
    assert told[-1]["state"] == "done" and any(t["state"] == "running" and t["stage"] for t in told)
    job = client.get(f"/v1/jobs/{id}").json()
    report = client.get(f"/v1/jobs/{id}").json()["files"]
    assert job["state"] == "done" and "preview.png" in report
    picture = client.get(report["preview.png"])
    assert picture.headers["content-type"] == "image/png" and picture.content[:4] == b"\x89PNG"
    assert picture.headers["x-content-type-options"] == "nosniff"
    assert [j["id"] for j in client.get("/v1/jobs").json()["jobs"]] == [id]
    assert client.delete(f"/v1/jobs/{id}").status_code == 204
    assert client.get(f"/v1/jobs/{id}").status_code == 404


@pytest.mark.parametrize(
    ("files", "settings", "sentence"),
    [
        ({"front": b"<svg/>"}, "{}", "The photo of the front is not an image"),
        ({"left": b"x"}, "{}", "no photo of the front"),
        ({"front": b"x", "top": b"x"}, "{}", "no side top"),
        ({"front": b"x"}, '{"colour": 1}', "no option colour"),
        ({"front": b"x"}, '{"model": "/etc"}', "The server decides on model"),
        ({"front": b"x"}, "[" * 9000, "settings is no JSON object"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    client: Any, files: dict[str, bytes], settings: str, sentence: str
) -> None:
    answer = client.post("/v1/jobs", files=files, data={"settings": settings})
    assert answer.status_code == 422 and sentence in answer.json()["detail"]
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_paths_of_results_are_names(client: Any, draw: Draw, tmp_path: Path) -> None:
    id = client.post("/v1/jobs", files={"front": draw("cup.png").read_bytes()}).json()["id"]
    ended(client, id)
    for name in ("../input/front", "..%2Finput%2Ffront", "%2e%2e", "jobs.sqlite", ".stages"):
        assert client.get(f"/v1/jobs/{id}/files/{name}").status_code == 404
    assert client.get("/v1/jobs/..%2f..%2fetc/files/passwd").status_code == 404


def test_a_full_queue_says_when_to_come_again(tmp_path: Path, draw: Draw) -> None:
    app = server(tmp_path / "jobs", limits=Limits(waiting=0))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        answer = client.post("/v1/jobs", files={"front": draw("cup.png").read_bytes()})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "30"
    assert [path for path in (tmp_path / "jobs").iterdir() if path.is_dir()] == []


def test_strangers_are_refused(tmp_path: Path) -> None:
    rules = Rules(token="secret", most_bytes=1000)
    with testclient.TestClient(server(tmp_path / "jobs", rules=rules), base_url="http://localhost") as client:
        token = {"Authorization": "Bearer secret"}
        assert client.get("/v1/jobs").status_code == 401
        assert client.get("/v1/jobs", headers={"Authorization": "Bearer sécret".encode()}).status_code == 401
        assert client.get("/v1/jobs", headers=token).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/gradio_api/file=https://example.org/a.png", headers=token).status_code == 403
        post = {**token, "Origin": "http://evil.example"}
        assert client.post("/v1/jobs", headers=post).status_code == 403
        assert client.post("/v1/jobs", headers=token, content=b"x" * 2000).status_code == 413
        chunked = client.post("/generate", headers=token, content=(b"x" * 600 for _ in range(4)))
        assert chunked.status_code in (413, 400) and client.get("/health").status_code == 200


def test_cancelled_jobs_stop_and_the_next_one_runs(client: Any, draw: Draw) -> None:
    photo = draw("cup.png").read_bytes()
    first, second = (client.post("/v1/jobs", files={"front": photo}).json()["id"] for _ in range(2))
    assert client.get(f"/v1/jobs/{second}").json()["waiting_before"] in (0, 1)
    assert client.post(f"/v1/jobs/{first}/cancel").json()["state"] == "cancelled"
    assert client.delete(f"/v1/jobs/{second}").status_code == 409
    assert ended(client, second)["state"] == "done"
    assert client.get(f"/v1/jobs/{first}").json()["state"] == "cancelled"


def test_a_restart_keeps_jobs_and_runs_them(tmp_path: Path, draw: Draw) -> None:
    photo = draw("cup.png").read_bytes()
    with testclient.TestClient(server(tmp_path / "jobs"), base_url="http://localhost") as client:
        ids = [client.post("/v1/jobs", files={"front": photo}).json()["id"] for _ in range(2)]
    with testclient.TestClient(server(tmp_path / "jobs"), base_url="http://localhost") as client:
        assert [ended(client, id)["state"] for id in ids] == ["done", "done"]


def test_the_description_is_valid_openapi_with_examples(client: Any) -> None:
    document = client.get("/openapi.json").json()
    calls = [call for path in document["paths"].values() for call in path.values()]
    assert len({call["operationId"] for call in calls}) == len(calls) >= 11
    for call in calls:
        body = call.get("requestBody", {}).get("content", {})
        good = [code for code in call["responses"] if code.startswith("2")]
        assert len(good) == 1 and not any("HTTPValidationError" in str(a) for a in call["responses"].values())
        for kind, content in body.items():
            assert "examples" in content or "examples" in content["schema"], (call["operationId"], kind)
    for name in ("JobAnswer", "JobsAnswer", "HealthAnswer", "Refusal", "SendAnswer", "StatusAnswer"):
        assert document["components"]["schemas"][name]["examples"]
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document)


def test_answers_are_what_the_description_says(client: Any, draw: Draw) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = client.get("/openapi.json").json()

    def check(name: str, answer: Any) -> None:
        jsonschema.validate(answer, {"$ref": f"#/components/schemas/{name}", **document})

    check("HealthAnswer", client.get("/health").json())
    job = client.post("/v1/jobs", files={"front": draw("cup.png").read_bytes()}).json()
    check("JobAnswer", job)
    check("JobsAnswer", client.get("/v1/jobs").json())
    check("JobAnswer", ended(client, job["id"]))
    for answer in (
        client.get("/v1/jobs/0123456789abcdef"),
        client.get("/v1/jobs?limit=many"),
        client.post("/v1/jobs"),
        client.post("/v1/jobs", data={"kind": "paint"}),
        client.post("/v1/jobs", data={"kind": "scene"}),
        client.post("/v1/jobs", data={"kind": "texture"}, files={"front": b"x", "left_mask": b"x"}),
        client.post("/v1/jobs", data={"orbit": "{}"}, files={"front": b"x"}),
        client.post("/v1/jobs", data={"front": "text"}),
        client.post("/v1/jobs", files={"settings": b"{}"}),
        client.post("/v1/jobs", content=b"x", headers={"Content-Type": "multipart/form-data; boundary=b"}),
    ):
        assert answer.status_code in (400, 404, 422)
        check("Refusal", answer.json())


def test_tools_for_agents_stay_on_this_computer(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="this computer alone"):
        app(ServerOptions(tmp_path / "jobs", host="0.0.0.0", token="secret"), mcp=True)
