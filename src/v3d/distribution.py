"""The name under which V3D is installed: not `v3d`, as import and command are: PyPI has another `v3d`."""

from __future__ import annotations

import importlib.metadata

DISTRIBUTION = "openv3d"


def install_hint(extra: str) -> str:
    """The command that adds the packages of one extra, such as "official", to this installation."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'


def own_version() -> str | None:
    """The installed version of V3D, or None where it runs from source files that are not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None
