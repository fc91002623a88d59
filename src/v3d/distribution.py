"""The name under which V3D is installed: not `v3d`, as import and command are: PyPI has another `v3d`."""

from __future__ import annotations

import importlib.metadata
import re

DISTRIBUTION = "openv3d"


def install_hint(extra: str) -> str:
    """The command that adds the packages of one extra, such as "official", to this installation.

    It names the packages themselves: the distribution is not on PyPI yet, where anyone could take its name.
    """
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    wanted = [r.partition(";")[0].strip() for r in requirements if re.search(rf"extra == .{extra}.$", r)]
    packages = " ".join(f'"{package}"' for package in wanted)
    return f"pip install {packages}" if packages else f'pip install ".[{extra}]" (in a checkout)'


def own_version() -> str | None:
    """The installed version of V3D, or None where it runs from source files that are not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None
