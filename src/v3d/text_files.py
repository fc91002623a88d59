"""Text and JSON files that others wrote: read within limits, and refused in one sentence.

A capture may come from anywhere. What would fill the memory, never end, or break the parser (a device in
place of a file, a file of gigabytes, a thousand nested lists, a number of 400 digits) stops here.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from v3d.errors import V3DError

MAX_JSON = 64 << 20
"""Bytes of a JSON file; ten thousand frames take about ten million."""
MAX_TEXT = 1 << 30
"""Bytes of a text file that is read line by line."""
_MAX_LINE = 1 << 24
_MAX_NAME, _MAX_PATH = 255, 4095  # what file systems take


def regular_file(file: Path, *, max_bytes: int | None = None) -> Path:
    """The file itself, if it is one that can be read to its end.

    Raises:
        V3DError: there is none, it is a folder, a device or a pipe, or it is larger than `max_bytes`.
    """
    try:
        found = file.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name has a zero byte"
        raise V3DError(f"{shown(file)} cannot be read ({reason}).") from error
    if not stat.S_ISREG(found.st_mode):
        raise V3DError(f"{file} is not a file.")
    if max_bytes is not None and found.st_size > max_bytes:
        raise V3DError(
            f"{file} has {found.st_size / 1e6:.0f} MB, more than the {max_bytes / 1e6:.0f} MB that are read."
        )
    return file


def read_json(file: Path) -> Any:
    """What a JSON file holds; a byte order mark at its beginning is skipped.

    Every number is finite or NaN. Whole numbers of more than 18 digits become floats.

    Raises:
        V3DError: the file cannot be read, is larger than `MAX_JSON`, is not JSON, nests too deeply, or has a
            number that no float can hold.
    """
    regular_file(file, max_bytes=MAX_JSON)
    try:
        return parse_json(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise V3DError(f"{file} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise V3DError(f"{file} is not a usable JSON file ({error}).") from error
    except MemoryError as error:
        raise V3DError(f"{file} does not fit into the memory.") from error


def parse_json(text: str) -> Any:
    """What a JSON text holds, with the limits of `read_json`.

    Raises:
        ValueError: it is not JSON, nests too deeply, or has a number that no float can hold.
    """
    try:
        return DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("its lists or objects are nested too deeply") from error


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {shortened(digits)} is too large")
    return value


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= 18 else _finite(digits)


def _constant(name: str) -> float:
    if name != "NaN":
        raise ValueError(f"{name} is not a number that can be used")
    return math.nan


DECODER = json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=_constant)


def read_lines(file: Path) -> Iterator[str]:
    """The stripped lines of a text file that hold something and are no comments (#).

    Raises:
        V3DError: the file cannot be read, is not text, or is larger than `MAX_TEXT`.
    """
    regular_file(file, max_bytes=MAX_TEXT)
    try:
        with file.open(encoding="utf-8-sig") as stream:
            while line := stream.readline(_MAX_LINE):
                if len(line) == _MAX_LINE:
                    raise V3DError(f"{file} has a line of more than {_MAX_LINE // 10**6} million characters.")
                line = line.strip()
                if line and not line.startswith("#"):
                    yield line
    except UnicodeDecodeError as error:
        raise V3DError(f"{file} is not a text file; export it again.") from error
    except OSError as error:
        raise V3DError(f"{file} cannot be read ({error.strerror}).") from error


def usable_name(name: Any, where: str) -> str:
    """The name of a listed file with forward slashes, if a file can have it.

    Args:
        where: begins the sentence of an error, for example "transforms.json, frame 3".

    Raises:
        V3DError: it is no text, is empty, has a zero byte, or is longer than file systems allow.
    """

    def refuse(reason: str) -> NoReturn:
        raise V3DError(f"{where}: {reason}.")

    if not isinstance(name, str) or not name.strip():
        refuse("the name of the photo is missing")
    if "\0" in name:
        refuse(f"the name {shortened(name)!r} has a zero byte")
    path: str = name.replace("\\", "/")
    longest = max(len(part.encode(errors="replace")) for part in path.split("/"))
    if longest > _MAX_NAME or len(path) > _MAX_PATH:
        refuse(f"the name {shortened(name)!r} is longer than any file's")
    return path


def shown(file: Path) -> str:
    """A path as a sentence can show it: shortened, without what terminals would swallow."""
    return shortened(str(file).replace("\0", "\\0"), 120)


def shortened(text: str, length: int = 40) -> str:
    """A text of at most `length` characters, as a sentence can quote it."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
