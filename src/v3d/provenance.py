"""What made a result: commit, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from v3d.distribution import DISTRIBUTION


def provenance() -> dict[str, Any]:
    """What made the numbers: commit, versions, machine."""
    packages = {}
    for name in (DISTRIBUTION, "torch", "numpy", "numba", "scipy", "scikit-image"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": packages,
        "machine": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """The checkout's commit, with "+" if tracked files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(here), *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None  # an installed copy inside somebody else's checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
