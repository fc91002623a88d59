"""How V3D's CPU kernels are compiled: without the GIL, without bounds checks, cached on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

# Everything "fast" means except nnan and ninf: projection must be able to recognise NaN and throw it out.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "afn", "nsz"},
}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(function: _Function) -> _Function:
    """Compile a function that Python calls; typed as the function itself, since Numba declares no types."""
    compiled: _Function = numba.njit(**_OPTIONS)(function)
    return compiled


def inlined(function: _Function) -> _Function:
    """Compile a function that is written out in every kernel that calls it."""
    compiled: _Function = numba.njit(inline="always", **_OPTIONS)(function)
    return compiled


def _is_writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)


# Numba caches beside the source, else in the user's cache folder, else refuses to work at all. In the
# last case (read-only site-packages *and* home) compile into a private folder that lives for this run.
_config: Any = numba.config
if not _config.CACHE_DIR and not any(map(_is_writable, (Path(__file__).parent, Path.home()))):
    _config.CACHE_DIR = tempfile.mkdtemp(prefix="v3d-numba-")
