"""A batch's manifest -> its items: one to four photos of an object, and settings of its own."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from v3d.capture.images import existing
from v3d.capture.photo_files import SUFFIXES
from v3d.errors import V3DError
from v3d.serving.options import with_options
from v3d.settings import FinishSettings, GenerateSettings

SIDES = {"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0}
"""Names of the sides of an object and their azimuths in degrees."""
_FRONT_NAMES = ("photo", "image", "path", "file")  # other names of the column of the front photo
_FINISH = {option.name for option in dataclasses.fields(FinishSettings)} - set(_FRONT_NAMES)
_MAX_ROWS = 1_000_000
_MAX_NAME = 200  # bytes; file systems take 255, and names of temporary files are a little longer
_TAKEN = ("summary.csv", "gallery.html")  # by the batch itself
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no names of files on Windows


@dataclass(frozen=True)
class Item:
    """One object of a batch.

    Attributes:
        name: of its folder; no other item has it.
        photos: azimuth in degrees -> image file; 0 is the front.
        settings: of its run.
        refusal: why it cannot be made, in one sentence; "" where nothing speaks against it.
        finish: what its mesh is made ready for.
    """

    name: str
    photos: Mapping[float, Path]
    settings: GenerateSettings
    refusal: str = ""
    finish: FinishSettings = field(default_factory=FinishSettings)


def read_manifest(
    path: Path,
    settings: GenerateSettings,
    finish: FinishSettings = FinishSettings(),  # noqa: B008 (frozen)
) -> list[Item]:
    """The items of a batch, in order.

    - A folder: every image is an item; every folder in it that has an image called front (and perhaps left,
      back, right) is one, too.
    - A .csv with a header (its columns stand between commas, semicolons or tabs), or .jsonl: a line an item.
      The columns front (or photo), left, back and right name
      image files, beside the manifest or absolute; name is that of the results; all others are settings
      of the run or of its finish (purpose, size, ...).

    A line that is wrong refuses its item, not the batch.

    Args:
        path: the folder or file.
        settings: of items that do not say otherwise.
        finish: the same.

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
    taken = Counter(_TAKEN)  # lower case, since some file systems do not tell cases apart
    for where, row in rows:
        item = _item(where, row, root, settings, finish)
        name, own = item.name, item.name.casefold()
        while own in taken:
            taken[item.name.casefold()] += 1
            name = f"{item.name}-{taken[item.name.casefold()]}"
            own = name.casefold()
        taken[own] += 1
        items.append(dataclasses.replace(item, name=name))
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
    """(where it stands, the row, None if it is none) of every line."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            lines = ((f"line {number}", line) for number, line in enumerate(file, 1) if line.strip())
            if path.suffix.lower() == ".csv":
                yield from _csv_rows(lines)
            else:
                for where, line in lines:
                    yield where, _json(line)
    except OSError as error:
        raise V3DError(f"{path} cannot be read ({error}).") from error


def _csv_rows(lines: Iterator[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
    """The rows of a table. Every line stands for itself, so that a missing quote cannot swallow others."""
    where, header = next(lines, ("line 1", ""))
    delimiter = max(",;\t", key=header.count)
    names = _cells(header, delimiter)
    if names is None or len(set(names)) < len(names):
        raise V3DError(f"The {where} of the table is no header: it names every column once.")
    for where, line in lines:
        cells = _cells(line, delimiter)
        fits = cells is not None and not any(cells[len(names) :])
        yield where, dict(zip(names, cells or (), strict=False)) if fits else None


def _cells(line: str, delimiter: str) -> list[str] | None:
    try:
        cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
    except (csv.Error, StopIteration):
        return None
    return [cell.strip() for cell in cells]


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _item(where: str, row: Any, root: Path, settings: GenerateSettings, finish: FinishSettings) -> Item:
    """The item of one row; what is wrong with it becomes its refusal."""
    if not isinstance(row, dict) or any(not isinstance(key, str) for key in row):
        return Item(safe_name(where), {}, settings, f"The {where} cannot be read as names and values.")
    values = {key.strip().lower(): value for key, value in row.items() if value not in (None, "")}
    fronts = [name for name in ("front", *_FRONT_NAMES) if name in values]
    if len(fronts) == 1:
        values["front"] = values.pop(fronts[0])
    front = values.get("front")
    name = safe_name(str(values.pop("name", None) or Path(str(front or where)).stem))
    try:
        if len(fronts) > 1:
            raise V3DError(f"The {where} of the manifest names two front photos: {' and '.join(fronts)}.")
        if not isinstance(front, str):
            raise V3DError(f"The {where} of the manifest names no front photo.")
        photos = {azimuth: values.pop(side) for side, azimuth in SIDES.items() if side in values}
        found = {azimuth: existing(root / str(file)) for azimuth, file in photos.items()}
        own = {key: values.pop(key) for key in list(values) if key.replace("-", "_") in _FINISH}
        finish = with_options(finish, own)
        return Item(name, found, with_options(settings, values), finish=finish)
    except (V3DError, OSError, ValueError) as error:
        return Item(name, {}, settings, str(error))


def safe_name(name: str) -> str:
    """A name that is one folder's on every system."""
    safe = re.sub(r"[^\w.\- ]+", "_", unicodedata.normalize("NFC", name)).strip(" .")
    safe = safe.encode()[:_MAX_NAME].decode(errors="ignore").strip(" .")
    return f"_{safe}" if _DEVICES.fullmatch(safe) else safe or "object"
