"""Atomic files: a file appears whole under its name or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from v3d.errors import V3DError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "permission denied; choose another folder",
    errno.EPERM: "permission denied; choose another folder",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EEXIST: "a file stands in the way; choose another folder",
    errno.EISDIR: "a folder of that name stands in the way; remove it",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EFBIG: "the file would be too large for this disk",
}
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.\w+")  # as mkstemp names files for `atomic`


@contextmanager
def clear_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into one sentence.

    Raises:
        V3DError: the disk is full, the folder is not writable, ...
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise V3DError(f"Cannot write {path}: {_REASONS[error.errno]}.") from error


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix) that replaces it when the block ends without an error.

    Missing parent folders are made. On an error (Ctrl-C included) the temporary file is removed and an
    older file of that name stays as it was.

    Raises:
        V3DError: the disk is full, the folder is not writable, ...
    """
    path = Path(path)
    with clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_UMASK)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove what `atomic` leaves in a folder, and in those below it, when its process is killed.

    Only for who is sure that nobody else is writing there. Does nothing where there is no such folder.
    """
    for path in Path(folder).rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically.

    Raises:
        V3DError: the disk is full, the folder is not writable, ...
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


# mkstemp makes private files; results get the permissions that open() would have given them.
_UMASK = _umask()
