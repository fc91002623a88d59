"""The recipe of the image, as far as it can be tested without containers: its command, check, context."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from small_jobs import free_port, start

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
TOKEN = "a token"


def words(instruction: str) -> list[str]:
    """The JSON list of an instruction that stands once."""
    (found,) = re.findall(rf"^{instruction}[^\[\n]*(\[.*\])$", DOCKERFILE, re.M)
    parsed: list[str] = json.loads(found)
    return parsed


def command(jobs: Path, port: int) -> list[str]:
    """CMD, with this Python's V3D, another folder and another port."""
    shell, flag, line = words("CMD")
    assert "--host 0.0.0.0 --port 7860" in line and "EXPOSE 7860" in DOCKERFILE
    own = f"{shlex.quote(sys.executable)} -m v3d app"
    line = line.replace("v3d app", own).replace("/jobs", shlex.quote(str(jobs))).replace("7860", str(port))
    return [shell, flag, line]


def test_the_command_starts_a_server_that_is_healthy_and_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    port = free_port()
    monkeypatch.setenv("V3D_TOKEN", TOKEN)
    server = start(command(tmp_path / "jobs", port), port)
    try:
        python, *check = words("HEALTHCHECK")
        assert python == "python"
        check = [word.replace("7860", str(port)) for word in check]
        assert subprocess.run([sys.executable, *check]).returncode == 0
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://localhost:{port}/")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        for query in ("?token=a%20token", ""):
            assert b"gradio" in browser.open(f"http://localhost:{port}/{query}").read()
    finally:
        server.terminate()
        server.wait(60)


def test_it_does_not_start_without_a_token(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "V3D_TOKEN"}
    done = subprocess.run(command(tmp_path, free_port()), capture_output=True, text=True, env=environment)
    assert done.returncode != 0 and "Set V3D_TOKEN" in done.stderr


def test_both_targets_install_extras_that_exist_and_are_no_root() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]
    targets = {stage.split()[2]: stage for stage in stages}
    assert list(targets) == ["base", "cpu", "cuda"]
    for name in ("cpu", "cuda"):
        extras = re.findall(r'"/src\[([\w,]+)\]"', targets[name])
        assert len(extras) == 1 and "-c /src/constraints.txt" in targets[name]
        assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras[0].split(","))
        assert re.findall(r"^USER .*", targets[name], re.M) == ["USER 1000"]
    assert ("download.pytorch.org/whl/cpu" in targets["cpu"]) > ("pytorch.org" in targets["cuda"])


def test_the_context_has_what_the_package_is_built_of() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert sent == {"constraints.txt", "LICENSE", "pyproject.toml", "README.md", "src"}
    assert all((ROOT / name).exists() for name in sent)


def test_the_composition_stays_on_this_computer() -> None:
    yaml = pytest.importorskip("yaml")
    composition = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    service = composition["services"]["v3d"]
    assert service["ports"] == ["127.0.0.1:7860:7860"] and service["volumes"] == ["jobs:/jobs"]
    assert "jobs" in composition["volumes"] and service["environment"]["V3D_TOKEN"].startswith(
        "${V3D_TOKEN:?"
    )


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("there is no hadolint")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
