"""Short hashes of values and files: keys of stages, fingerprints of results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from v3d.errors import V3DError


def digest(value: Any) -> str:
    """A short hash of nested lists, dicts, dataclasses, tensors and plain values."""
    return hashlib.sha256(json.dumps(value, default=plain, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """A short hash of a file's bytes.

    Raises:
        V3DError: the file cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise V3DError(f"{path} cannot be read ({error.strerror}).") from error


def plain(value: Any) -> Any:
    """A value that JSON does not know as one that it does: `default` of `json.dumps`."""
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous().numpy()
        return [str(array.dtype), list(array.shape), hashlib.sha256(array.data).hexdigest()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__} | {
            f.name: getattr(value, f.name) for f in dataclasses.fields(value)
        }
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot hash {type(value).__name__}")
