"""Atomic files: a file appears whole under its name or not at all."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from v3d.errors import V3DError

_TEMPORARY = ".v3d-tmp."
"""How the names of files begin that `atomic` has not finished."""
_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "permission denied; choose another folder",
    errno.EPERM: "permission denied; choose another folder",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOENT: "no folder can be made there; choose another one",
    errno.EIO: "the disk fails; choose another one",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EEXIST: "a file stands in the way; choose another folder",
    errno.EISDIR: "a folder of that name stands in the way; remove it",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EFBIG: "the file would be too large for this disk",
}


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
        prefix = f"{_TEMPORARY}{path.stem[:40]}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_UMASK)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files that killed processes left in a folder that nobody writes to (`locked`)."""
    for path in Path(folder).rglob(f"{_TEMPORARY}*"):
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: str | os.PathLike[str], who: str) -> Iterator[None]:
    """Make a folder and hold its lock: two programs that write there would mix their results.

    Disks without locks, as some networks' are, are taken as they are.

    Args:
        folder: whose lock it is.
        who: the beginning of the sentence that those hear who come second, such as "Another run works".

    Raises:
        V3DError: another process, or another thread of this one, holds the lock; the folder cannot be made.
    """
    folder = Path(folder)
    with clear_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise V3DError(
                f"{who} in {folder}; wait until it has ended, or choose another folder with -o."
            ) from error
        except NotImplementedError:
            pass
    try:
        yield
    finally:
        lock.release()


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
