"""A batch makes every object once, whatever happens to its processes."""

from __future__ import annotations

import csv
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from shapes import Draw
from v3d.cli import main
from v3d.serving.batch import local_pools
from v3d.serving.batch import run_batch as run_in_pools
from v3d.serving.manifest import Item, read_manifest
from v3d.serving.summary import Record, read_record, write_record, write_summary
from v3d.serving.tasks import GenerateTask, Made
from v3d.serving.worker import Failed, Progress, Worker
from v3d.settings import GenerateSettings

BASE = GenerateSettings(until="views", quality="draft")


def run_batch(items: list[Item], out: Path, *, workers: int, **options: Any) -> list[Record]:
    return run_in_pools(items, out, pools=local_pools(workers, items=len(items)), **options)


def finish(worker: Worker) -> list[Progress | Made | Failed]:
    events: list[Progress | Made | Failed] = []
    deadline = time.monotonic() + 120
    while worker.busy and time.monotonic() < deadline:
        worker.wait_for_any([worker], 1.0)
        events += worker.events()
    return events


def test_a_worker_reports_and_is_used_again(draw: Draw, tmp_path: Path) -> None:
    worker = Worker()
    try:
        worker.start(GenerateTask({0.0: draw("cup.png")}, tmp_path / "out", BASE, "mug"))
        events = finish(worker)
        made = events[-1]
        assert isinstance(made, Made)
        assert made.folder == tmp_path / "out/mug"
        assert (made.folder / "preview.png").is_file() and "preview.png" in made.files
        stages = [event.stage for event in events if isinstance(event, Progress)]
        assert list(dict.fromkeys(stages)) == ["photo", "views", "preview"]

        worker.start(GenerateTask({0.0: tmp_path / "gone.png"}, tmp_path / "out", BASE))
        failed = finish(worker)[-1]
        assert isinstance(failed, Failed)
        assert failed.code == 2 and "There is no photo" in failed.reason

        worker.start(GenerateTask({0.0: draw("cup.png")}, tmp_path / "killed", BASE))
        while not worker.events():
            time.sleep(0.05)
        assert worker._process is not None and worker._process.pid is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        died = finish(worker)[-1]
        assert isinstance(died, Failed) and died.code == 137

        worker.start(GenerateTask({0.0: draw("cup.png")}, tmp_path / "killed", BASE))
        assert isinstance(finish(worker)[-1], Made)
    finally:
        worker.stop()


def test_a_batch_goes_on_and_makes_nothing_twice(draw: Draw, tmp_path: Path) -> None:
    draw("in/a.png"), draw("in/b.png", 15.0)
    (tmp_path / "in/c.png").write_bytes(b"no image")
    out = tmp_path / "out"
    items = read_manifest(tmp_path / "in", BASE)
    counts: list[tuple[str, int, int]] = []
    records = run_batch(
        items, out, workers=2, on_item=lambda record, done, total: counts.append((record.name, done, total))
    )
    assert [(r.name, r.code) for r in records] == [("a", 0), ("b", 0), ("c", 2)]
    assert "c.png is not an image" in records[2].reason
    assert sorted(counts)[0][0] == "a" and [count[1:] for count in counts] == [(1, 3), (2, 3), (3, 3)]

    stamp = (out / "a/report.json").stat().st_mtime_ns
    assert run_batch(items, out, workers=1) == records
    assert (out / "a/report.json").stat().st_mtime_ns == stamp

    draw("in/c.png")
    assert run_batch(read_manifest(tmp_path / "in", BASE), out, workers=1)[2].code == 0
    changed = [replace(items[0], settings=replace(BASE, seed=1)), *items[1:2]]
    again = run_batch(changed, out, workers=1)
    assert again[0].key != records[0].key and again[1] == records[1]


def test_an_item_that_another_machine_makes_is_left_to_it(draw: Draw, tmp_path: Path) -> None:
    item = Item("cup", {0.0: draw("cup.png")}, BASE)
    (tmp_path / "out/.batch").mkdir(parents=True)
    with FileLock(tmp_path / "out/.batch/cup.lock"):
        assert run_batch([item], tmp_path / "out", workers=1) == []
    assert read_record(tmp_path / "out", "cup") is None


def test_the_summary_says_what_happened(tmp_path: Path) -> None:
    cup = Record("cup", "k", 0, "", 3.5, ("A note.",), ("mesh.glb", "report.json"))
    script = "<script>alert(1)</script>"
    items = [
        Item("cup", {}, BASE),
        Item("elsewhere", {}, BASE),
        Item(script, {}, BASE, 'Not <an> "image", at all.'),
    ]
    write_record(tmp_path, cup)
    records = write_summary(items, tmp_path)
    assert records == [cup, Record(script, "", 2, items[2].refusal)]
    with (tmp_path / "summary.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["code"] for row in rows] == ["0", "2"]
    assert rows[1]["reason"] == records[1].reason and rows[0]["files"] == "mesh.glb report.json"
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert "1 of 2 objects" in page and 'href="./cup/mesh.glb"' in page and "A note." in page
    assert "<script" not in page and "&lt;an&gt;" in page and "http" not in page


def test_the_command_shards_and_counts_failures(
    draw: Draw, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw("in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"no image")
    out = tmp_path / "out"
    options = ["-o", str(out), "--until", "views", "--quality", "draft", "--workers", "1"]
    assert main(["batch", str(tmp_path / "in"), *options, "--shard", "1/2"]) == 0
    assert (out / "a/report.json").is_file() and not (out / ".batch/b.json").exists()
    assert main(["batch", str(tmp_path / "in"), *options]) == 1
    errors = capfd.readouterr().err
    assert "a: made before" in errors and "b: failed: b.png is not an image" in errors
    assert "1 of 2 objects failed" in errors
    assert main(["batch", str(tmp_path / "in"), *options, "--shard", "3/2"]) == 2
