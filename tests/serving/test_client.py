"""The client against a real server, and its example in the documentation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from running import running
from shapes import Draw
from v3d.client import Client, RemoteJob
from v3d.errors import V3DError

PAGE = Path(__file__).parents[2] / "docs/rest.md"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("uvicorn")
    with running(tmp_path_factory.mktemp("jobs")) as address:
        yield address


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, v3d.client; print(*{m.split('.')[0] for m in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "v3d" in out.split() and not {"numpy", "torch", "PIL", "fastapi", "gradio"} & set(out.split())


def test_the_example_of_the_documentation_runs(
    address: str, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw("cup.png")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert code.count("http://localhost:7860") == 1
    exec(compile(code.replace("http://localhost:7860", address), str(PAGE), "exec"), {"__name__": "__main__"})
    assert (tmp_path / "out/mesh.glb").read_bytes()[:4] == b"glTF"


def test_a_job_is_followed_fetched_and_removed(address: str, draw: Draw, tmp_path: Path) -> None:
    client = Client(address)
    job = client.generate({"front": draw("a cup.png"), "back": draw("b.png")}, until="views", quality="draft")
    assert job.state == "queued" and job.id in [j.id for j in client.jobs()]
    told: list[RemoteJob] = []
    done = client.wait(job.id, told.append)
    assert done.state == "done" and told[-1] == done and "views" in {j.stage for j in told}
    paths = client.download(done, tmp_path / "out")
    assert {p.name for p in paths} == set(done.files) and all(p.stat().st_size for p in paths)
    client.remove(done)
    with pytest.raises(V3DError, match=f"There is no job {job.id}"):
        client.job(job)


def test_a_finished_mesh_comes_in_its_folder(address: str, draw: Draw, tmp_path: Path) -> None:
    client = Client(address)
    finish = {"purpose": "print", "size": "50mm"}
    job = client.wait(client.generate(draw("my cup.png"), finish=finish, formats=["glb"]))
    assert {"mesh.glb", "finished/mesh.3mf", "finished/mesh.stl", "finished/print.json"} <= set(job.files)
    assert not [name for name in job.files if name.startswith((".", "views/"))]
    client.download(job, tmp_path / "out")
    report = json.loads((tmp_path / "out/finished/print.json").read_text())
    assert max(report["size_mm"]) == pytest.approx(50, abs=0.01)
    assert set(report["advice"]) <= set(job.warnings)
    document = (tmp_path / "out/mesh.glb").read_bytes()[20:2000].decode(errors="replace")
    assert '"name":"my cup"' in document.replace('": "', '":"')
    with pytest.raises(V3DError, match="no field finish of scene"):
        client._create("scene", {"views": draw("cup.png")}, {}, finish=finish)


def test_a_job_is_cancelled(address: str, draw: Draw) -> None:
    client = Client(address)
    job = client.generate(draw("cup.png"))
    assert client.cancel(job).state == "cancelled"
    with pytest.raises(V3DError, match="cancelled"):
        client.wait(job)


def test_refusals_are_the_servers_sentences(address: str, draw: Draw, tmp_path: Path) -> None:
    client = Client(address)
    with pytest.raises(V3DError, match="no option colour"):
        client.generate(draw("cup.png"), colour="red")
    with pytest.raises(V3DError, match=r"There is no file .*nothing\.png"):
        client.generate(tmp_path / "nothing.png")
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(600 << 20)
    with pytest.raises(V3DError, match=r"at most|too large"):
        client.generate(large)
    with pytest.raises(V3DError, match="does not answer"):
        Client("http://localhost:9").jobs()


def test_a_full_queue_is_asked_again_when_it_says() -> None:
    asked: list[float] = []

    class Full(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(time.monotonic())
            full = len(asked) == 1
            body = b'{"detail": "32 jobs are waiting already; try again later."}' if full else b'{"jobs": []}'
            self.send_response(429 if full else 200)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Full) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert Client(url).jobs() == [] and 1.0 <= asked[1] - asked[0] < 3.0
        asked.clear()
        with pytest.raises(V3DError, match="32 jobs are waiting"):
            Client(url, patience=0.5).jobs()
        server.shutdown()


def test_a_result_is_never_written_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("../x", "a/b", "finished/../x", "finished/", "finished/a/b", "..", "c:\\x"):
        evil = RemoteJob("0" * 16, "generate", "done", files=(name,))
        monkeypatch.setattr(Client, "job", lambda self, job, evil=evil: evil)
        with pytest.raises(V3DError, match="no name of a file"):
            Client().download(evil, tmp_path)
