"""What made a result: commit, versions, machine; for `report.json` of runs and of evaluations."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from v3d.distribution import DISTRIBUTION

_PACKAGES = (
    DISTRIBUTION,
    "torch",
    "numpy",
    "numba",
    "scipy",
    "scikit-image",
    "opencv-python-headless",
    "pillow",
    "gsplat",
    "diffusers",
)


def provenance() -> dict[str, Any]:
    """Commit, versions and machine, for numbers that are published."""
    return {"commit": commit(), "versions": versions(), "machine": machine()}


def versions() -> dict[str, str]:
    """Python's version and those of the installed packages that decide results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What numbers were computed on: platform, processor, number of CPUs and threads, GPU."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def commit() -> str | None:
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
