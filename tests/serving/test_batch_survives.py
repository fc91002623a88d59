"""A batch survives kills, a full disk, and the loss of its terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import kill_batch
from shapes import Draw
from v3d.digests import file_digest
from v3d.errors import V3DError
from v3d.files import remove_leftovers
from v3d.serving import batch
from v3d.serving.batch import Pool, local_pools, run_batch
from v3d.serving.manifest import Item
from v3d.serving.summary import read_record
from v3d.serving.worker import Progress, Worker
from v3d.settings import GenerateSettings

VIEWS = GenerateSettings(until="views", quality="draft")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_kills_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert kill_batch.main(["--kills", "2", "--items", "1", "--workers", "1", "--until", "views"]) == 0
    assert "2 kills in" in capsys.readouterr().out


def test_leftovers_go_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "views").mkdir()
    for name in (
        ".v3d-tmp.mesh.ab_cd012.glb",
        "views/.v3d-tmp.000.xxxxxxxx.png",
        ".settings.json",
        "mesh.glb",
        ".stages",
    ):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".settings.json", ".stages", "mesh.glb"]
    remove_leftovers(tmp_path / "gone")


def test_two_pools_make_what_one_makes(draw: Draw, tmp_path: Path) -> None:
    small = GenerateSettings(quality="draft", faces=300, texture_size=64)
    photo = {0.0: draw("cup.png")}
    items = [
        Item("whole", photo, small),
        Item("views", photo, VIEWS),
        Item("bad", {0.0: Path(__file__)}, VIEWS),
    ]
    drawing = Worker()
    victims = ["whole"]
    stages: Counter[tuple[str, str]] = Counter()

    def on_progress(name: str, progress: Progress) -> None:
        if progress.done == 0:
            stages[name, progress.stage] += 1
        if progress.stage == "views" and name in victims:
            victims.remove(name)
            assert drawing._process is not None
            drawing._process.kill()

    pools = [Pool([drawing], until="views"), Pool([Worker()])]
    records = run_batch(items, tmp_path / "two", pools=pools, on_progress=on_progress)
    assert [(record.name, record.code) for record in records] == [("whole", 0), ("views", 0), ("bad", 2)]
    assert stages["whole", "views"] == 2 and stages["whole", "mesh"] == stages["views", "views"] == 1
    report = json.loads((tmp_path / "two/whole/report.json").read_text())
    assert report["stages"]["views"]["reused"] and not report["stages"]["mesh"]["reused"]

    one = run_batch(items[:1], tmp_path / "one", pools=local_pools(1, items=1))
    assert (one[0].key, one[0].files) == (records[0].key, records[0].files)
    for file in ("mesh.glb", "splats.ply", "preview.png"):
        assert file_digest(tmp_path / "one/whole" / file) == file_digest(tmp_path / "two/whole" / file)


def test_a_full_disk_stops_the_batch_and_fails_no_item(
    draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item("cup", {0.0: draw("cup.png")}, VIEWS)]
    with (
        monkeypatch.context() as full,
        pytest.raises(V3DError, match=r"The disk of .* is full .* run the same"),
    ):
        full.setattr(batch, "_FREE_BYTES", 1e18)
        run_batch(items, tmp_path / "out", pools=local_pools(1, items=1))
    assert read_record(tmp_path / "out", "cup") is None
    (tmp_path / "file").touch()
    with pytest.raises(V3DError, match=r"a file stands in the way|part of the path is a file"):
        run_batch(items, tmp_path / "file", pools=local_pools(1, items=1))


def test_the_command_needs_no_terminal(draw: Draw, tmp_path: Path) -> None:
    draw("in/a.png")
    (tmp_path / "in/[b].png").write_bytes(b"no image")
    command = [sys.executable, "-m", "v3d", "batch", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    command += ["--until", "views", "--quality", "draft", "--workers", "1"]
    read, write = os.pipe()
    os.close(read)  # whoever read its lines has gone
    code = subprocess.run(command, stdout=write, stderr=write).returncode
    os.close(write)
    assert code == 1
    record = read_record(tmp_path / "out", "a")
    assert record is not None and record.code == 0
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]).returncode
    assert closed == 1 and (tmp_path / "out/gallery.html").is_file()
