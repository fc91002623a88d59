"""How the items of a batch went: a record for each, and from them summary.csv and gallery.html."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from v3d.files import atomic, clear_errors
from v3d.serving.manifest import Item
from v3d.serving.worker import REFUSED

RECORDS = ".batch"
"""The folder of records and locks in a batch's folder."""
_PREVIEW = "preview.png"
_SHOWN = (".glb", ".ply", ".splat", ".obj", ".usdz", ".3mf", ".stl", ".spz", ".mp4", ".html")


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


def read_record(out: Path, name: str) -> Record | None:
    """The record of an item, or None where there is no readable one."""
    try:
        values: dict[str, Any] = json.loads((out / RECORDS / f"{name}.json").read_text(encoding="utf-8"))
        record = Record(**values)
        return dataclasses.replace(
            record, warnings=tuple(record.warnings), files=tuple(record.files), code=int(record.code)
        )
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def write_record(out: Path, record: Record) -> None:
    """Keep a record, whole or not at all. Only for who holds the item's lock.

    Raises:
        V3DError: it cannot be written.
    """
    path = out / RECORDS / f"{record.name}.json"
    part = path.with_name(f"{record.name}.part")  # always the same: what a kill leaves, the next try replaces
    with clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)


def write_summary(items: Iterable[Item], out: Path) -> list[Record]:
    """Write `summary.csv` and `gallery.html` of all items that have a record, in `out`.

    Machines that share a batch each write that of all; the last one's is complete.

    Returns:
        The records, in the order of the items.

    Raises:
        V3DError: they cannot be written.
    """
    with clear_errors(out):
        (out / RECORDS).mkdir(parents=True, exist_ok=True)
    with FileLock(out / RECORDS / ".summary.lock"):
        for path in out.glob(".*"):
            if path.name.startswith((".summary.", ".gallery.")):
                path.unlink(missing_ok=True)  # who held the lock before was killed
        records = [record for item in items if (record := _record_of(item, out)) is not None]
        _write_table(records, out / "summary.csv")
        cells = "\n".join(_cell(record) for record in records)
        made = sum(record.code == 0 for record in records)
        with atomic(out / "gallery.html") as temporary:
            temporary.write_text(_PAGE.format(made=made, count=len(records), cells=cells), encoding="utf-8")
    return records


def _record_of(item: Item, out: Path) -> Record | None:
    if item.refusal:
        return Record(item.name, "", REFUSED, item.refusal)
    return read_record(out, item.name)


def _write_table(records: Sequence[Record], path: Path) -> None:
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "code", "seconds", "reason", "warnings", "files"])
        for record in records:
            notes, files = " ".join(record.warnings), " ".join(record.files)
            table.writerow([record.name, record.code, record.seconds, record.reason, notes, files])


def _cell(record: Record) -> str:
    """An item of the gallery."""
    name, folder = html.escape(record.name), quote(record.name)
    if record.code:
        reason = html.escape(record.reason)
        return f"<figure class=failed><figcaption>{name}</figcaption><p>{reason}</p></figure>"
    links = " ".join(
        f'<a href="./{folder}/{quote(file)}">{html.escape(file)}</a>'
        for file in record.files
        if file.endswith(_SHOWN)
    )
    notes = "".join(f"<p>{html.escape(warning)}</p>" for warning in record.warnings)
    picture = f"./{folder}/{_PREVIEW}"
    image = f'<a href="{picture}"><img loading=lazy src="{picture}" alt="{name}"></a>'
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
