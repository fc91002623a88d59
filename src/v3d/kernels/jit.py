"""How V3D's CPU kernels are compiled: without the GIL, without bounds checks, cached on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numba

# Everything "fast" means except nnan and ninf: projection must be able to recognise NaN and throw it out.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "afn", "nsz"},
}
kernel = numba.njit(**_OPTIONS)
inlined = numba.njit(inline="always", **_OPTIONS)


def _is_writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)


# Numba caches beside the source, else in the user's cache folder, else refuses to work at all. In the
# last case (read-only site-packages *and* home) compile into a private folder that lives for this run.
_config: Any = numba.config
if not _config.CACHE_DIR and not any(map(_is_writable, (Path(__file__).parent, Path.home()))):
    _config.CACHE_DIR = tempfile.mkdtemp(prefix="v3d-numba-")
