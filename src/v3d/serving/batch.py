"""Many objects, one after the other or side by side: every item ends with a record of how it went.

A record stands in `OUT/.batch/NAME.json`. An item whose record says that it was made from these photos with
these settings is not made again, so a batch that was stopped goes on where it was. A lock beside the record
keeps two machines that share OUT from making one item.
"""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from v3d.errors import V3DError
from v3d.files import atomic, write_json
from v3d.run import digest, file_digest
from v3d.serving.manifest import Item
from v3d.serving.tasks import GenerateTask, Made
from v3d.serving.worker import KILLED, REFUSED, Failed, Progress, Worker, wait_for_any

OnItem = Callable[["Record", int, int], None]
"""Called with (record, items finished, items in all) after every item."""
_RECORDS = ".batch"
_TRIES = 2  # a worker that dies may have met another program's hunger for memory
_GIGABYTES = 3.0  # of memory for one worker at standard quality
_PREVIEW = "preview.png"


@dataclass(frozen=True)
class Record:
    """How one item went.

    Attributes:
        name: of the item and its folder.
        key: of its photos and settings.
        code: exit code: 0 made, 2 refused, 70 a fault in V3D, 137 its process died.
        reason: why there is no asset, in one sentence; "" where there is one.
        seconds: that it took.
        warnings: of the run, one sentence each.
        files: names of the results in its folder.
    """

    name: str
    key: str
    code: int
    reason: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass
class _Running:
    """An item that a worker makes."""

    item: Item
    key: str
    lock: FileLock
    started: float
    tries: int


def run_batch(
    items: Sequence[Item],
    out: Path,
    *,
    workers: int | None = None,
    retry: bool = False,
    on_item: OnItem | None = None,
    on_progress: Callable[[str, Progress], None] | None = None,
) -> list[Record]:
    """Make every item that has no record yet.

    Args:
        items: what to make.
        out: every item gets a folder of its name in it.
        workers: processes; by default as many as cores and memory allow.
        retry: make failed items again.
        on_item: told of every item as it ends, those that were finished before included.
        on_progress: told of the progress inside of items, by name.

    Returns:
        The records of all items that are not being made elsewhere, in order.

    Raises:
        V3DError: `out` cannot be written.
    """
    return _Batch(items, out, workers or default_workers(), retry, on_item, on_progress).run()


class _Batch:
    """The state of one call of `run_batch`."""

    def __init__(
        self,
        items: Sequence[Item],
        out: Path,
        workers: int,
        retry: bool,
        on_item: OnItem | None,
        on_progress: Callable[[str, Progress], None] | None,
    ) -> None:
        self._items, self._out, self._retry = items, out, retry
        self._on_item, self._on_progress = on_item, on_progress
        self._waiting = list(items)[::-1]
        threads = max(1, (os.cpu_count() or 1) // workers)
        self._workers = [Worker(threads) for _ in range(min(workers, max(1, len(items))))]
        self._running: dict[int, _Running] = {}
        self._records: dict[str, Record] = {}
        self._elsewhere = 0

    def run(self) -> list[Record]:
        try:
            while self._waiting or self._running:
                for i, worker in enumerate(self._workers):
                    if not worker.busy and self._waiting:
                        self._begin(i)
                if self._running:
                    wait_for_any(self._workers, 0.5)
                for i in list(self._running):
                    self._listen(i)
        finally:
            for worker in self._workers:
                worker.stop()
            for running in self._running.values():
                running.lock.release()
        return [self._records[item.name] for item in self._items if item.name in self._records]

    def _begin(self, i: int) -> None:
        """Give worker i the next item that is to be made."""
        while self._waiting:
            item = self._waiting.pop()
            if item.refusal:
                self._end(Record(item.name, "", REFUSED, item.refusal))
                continue
            try:
                key = digest([[(a, file_digest(p)) for a, p in sorted(item.photos.items())], item.settings])
            except V3DError as error:
                self._end(Record(item.name, "", REFUSED, str(error)))
                continue
            lock = FileLock(self._out / _RECORDS / f"{item.name}.lock")
            (self._out / _RECORDS).mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self._elsewhere += 1
                continue
            record = read_record(self._out, item.name)
            if record is not None and record.key == key and (record.code == 0 or not self._retry):
                lock.release()
                self._end(record)
                continue
            self._running[i] = _Running(item, key, lock, time.monotonic(), 1)
            self._workers[i].start(GenerateTask(item.photos, self._out, item.settings, item.name))
            return

    def _listen(self, i: int) -> None:
        """Take in what worker i has to tell."""
        running = self._running[i]
        for event in self._workers[i].events():
            if isinstance(event, Progress):
                if self._on_progress is not None:
                    self._on_progress(running.item.name, event)
                continue
            if isinstance(event, Failed) and event.code == KILLED and running.tries < _TRIES:
                running.tries += 1
                task = GenerateTask(running.item.photos, self._out, running.item.settings, running.item.name)
                self._workers[i].start(task)
                continue
            seconds = round(time.monotonic() - running.started, 1)
            record = Record(running.item.name, running.key, 0, seconds=seconds)
            if isinstance(event, Made):
                record = dataclasses.replace(record, warnings=event.warnings, files=event.files)
            else:
                record = dataclasses.replace(record, code=event.code, reason=event.reason)
            write_json(self._out / _RECORDS / f"{record.name}.json", dataclasses.asdict(record))
            running.lock.release()
            del self._running[i]
            self._end(record)

    def _end(self, record: Record) -> None:
        self._records[record.name] = record
        if self._on_item is not None:
            self._on_item(record, len(self._records), len(self._items) - self._elsewhere)


def read_record(out: Path, name: str) -> Record | None:
    """The record of an item, or None where there is no readable one."""
    try:
        values: dict[str, Any] = json.loads((out / _RECORDS / f"{name}.json").read_text(encoding="utf-8"))
        record = Record(**values)
        return dataclasses.replace(
            record, warnings=tuple(record.warnings), files=tuple(record.files), code=int(record.code)
        )
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def default_workers() -> int:
    """Processes that cores and memory allow, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        gigabytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):
        gigabytes = _GIGABYTES * cores
    return max(1, min(cores, int(gigabytes / _GIGABYTES)))


def write_summary(records: Sequence[Record], out: Path) -> None:
    """`summary.csv` and `gallery.html` of the records, in `out`.

    Raises:
        V3DError: they cannot be written.
    """
    with atomic(out / "summary.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "code", "seconds", "reason", "warnings", "files"])
        for record in records:
            notes, files = " ".join(record.warnings), " ".join(record.files)
            table.writerow([record.name, record.code, record.seconds, record.reason, notes, files])
    cells = "\n".join(_cell(record) for record in records)
    made = sum(record.code == 0 for record in records)
    with atomic(out / "gallery.html") as temporary:
        temporary.write_text(_PAGE.format(made=made, count=len(records), cells=cells), encoding="utf-8")


def _cell(record: Record) -> str:
    """An item of the gallery."""
    name = html.escape(record.name, quote=True)
    if record.code:
        reason = html.escape(record.reason)
        return f"<figure class=failed><figcaption>{name}</figcaption><p>{reason}</p></figure>"
    links = " ".join(
        f'<a href="{name}/{html.escape(file, quote=True)}">{html.escape(file)}</a>'
        for file in record.files
        if file.endswith((".glb", ".ply", ".splat", ".obj", ".mp4"))
    )
    notes = "".join(f"<p>{html.escape(warning)}</p>" for warning in record.warnings)
    image = f'<a href="{name}/{_PREVIEW}"><img loading=lazy src="{name}/{_PREVIEW}" alt="{name}"></a>'
    return f"<figure>{image}<figcaption>{name} · {record.seconds:g} s<br>{links}</figcaption>{notes}</figure>"


_PAGE = """<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width"><title>V3D batch</title>
<style>
body {{ font: 15px system-ui; margin: 2em; color-scheme: light dark }}
main {{ display: grid; gap: 1em; grid-template-columns: repeat(auto-fill, minmax(22em, 1fr)) }}
figure {{ margin: 0; padding: .8em; border: 1px solid #8884; border-radius: .5em; overflow-wrap: anywhere }}
img {{ width: 100% }} .failed {{ border-color: #c33 }} p {{ margin: .4em 0 0; opacity: .75 }}
</style>
<h1>{made} of {count} objects</h1>
<main>
{cells}
</main>
</html>
"""
