"""A batch's manifest -> its items: one to four photos of an object, and settings of its own."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v3d.capture.images import existing
from v3d.capture.photo_files import SUFFIXES
from v3d.errors import V3DError
from v3d.serving.options import with_options
from v3d.settings import GenerateSettings

SIDES = {"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0}
"""Names of the sides of an object and their azimuths in degrees."""
_FRONT_NAMES = ("photo", "image", "path", "file")  # other names of the column of the front photo
_MAX_ROWS = 1_000_000


@dataclass(frozen=True)
class Item:
    """One object of a batch.

    Attributes:
        name: of its folder; no other item has it.
        photos: azimuth in degrees -> image file; 0 is the front.
        settings: of its run.
        refusal: why it cannot be made, in one sentence; "" where nothing speaks against it.
    """

    name: str
    photos: Mapping[float, Path]
    settings: GenerateSettings
    refusal: str = ""


def read_manifest(path: Path, settings: GenerateSettings) -> list[Item]:
    """The items of a batch, in order.

    - A folder: every image is an item; every folder in it that has an image called front (and perhaps left,
      back, right) is one, too.
    - A .csv with a header, or .jsonl: a line an item. The columns front (or photo), left, back and right name
      image files, beside the manifest or absolute; name is that of the results; all others are settings.

    A line that is wrong refuses its item, not the batch.

    Args:
        path: the folder or file.
        settings: of items that do not say otherwise.

    Raises:
        V3DError: there is no such folder or file, it cannot be read, or it has no items.
    """
    if path.is_dir():
        rows: Iterable[tuple[str, Any]] = _folder_rows(path)
        root = path
    elif path.suffix.lower() in (".csv", ".jsonl", ".ndjson"):
        rows, root = _file_rows(path), path.parent
    else:
        raise V3DError(f"{path} is no folder of photos and no manifest (.csv or .jsonl).")
    items: list[Item] = []
    taken: set[str] = set()
    for where, row in rows:
        item = _item(where, row, root, settings)
        if item.name in taken:
            number = next(n for n in range(2, len(taken) + 3) if f"{item.name}-{n}" not in taken)
            item = Item(f"{item.name}-{number}", item.photos, item.settings, item.refusal)
        taken.add(item.name)
        items.append(item)
        if len(items) > _MAX_ROWS:
            raise V3DError(f"{path} has more than {_MAX_ROWS} items; split it.")
    if not items:
        raise V3DError(f"{path} has no photos.")
    return items


def _folder_rows(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            sides = {file.stem.lower(): file for file in sorted(path.iterdir()) if _is_photo(file)}
            if "front" in sides:
                chosen = {side: str(sides[side].relative_to(folder)) for side in SIDES if side in sides}
                yield path.name, {"name": path.name, **chosen}
        elif _is_photo(path):
            yield path.name, {"front": path.name}


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, the row) of every line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file, skipinitialspace=True)
                for row in reader:
                    yield f"line {reader.line_num}", row
            else:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"line {number}", _json(line)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise V3DError(f"{path} cannot be read ({error}).") from error


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _item(where: str, row: Any, root: Path, settings: GenerateSettings) -> Item:
    """The item of one row; what is wrong with it becomes its refusal."""
    if not isinstance(row, dict) or any(not isinstance(key, str) for key in row):
        return Item(_safe(where), {}, settings, f"The {where} is no object of names and values.")
    values = {key.strip().lower(): value for key, value in row.items() if value not in (None, "")}
    for other in _FRONT_NAMES:
        if other in values:
            values.setdefault("front", values.pop(other))
    front = values.get("front")
    name = _safe(str(values.pop("name", None) or Path(str(front or where)).stem))
    try:
        if not isinstance(front, str):
            raise V3DError(f"The {where} of the manifest names no front photo.")
        photos = {azimuth: values.pop(side) for side, azimuth in SIDES.items() if side in values}
        found = {azimuth: existing(root / str(file)) for azimuth, file in photos.items()}
        return Item(name, found, with_options(settings, values))
    except (V3DError, OSError, ValueError) as error:
        return Item(name, {}, settings, str(error))


def _safe(name: str) -> str:
    """A name that is one folder's on every system."""
    safe = re.sub(r"[^\w.\- ]+", "_", name).strip(" .")[:100]
    return safe or "object"
