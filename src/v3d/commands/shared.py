"""What several commands share: the option --out, lines on stderr, the error of a batch that failed partly."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

Out = Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
"""The folder of the results: `--out FOLDER`, or `-o FOLDER`."""


class SomeFailedError(Exception):
    """Some of several inputs failed; what was wrong with each is on stderr already."""


def print_error(error: Exception) -> None:
    """Write an error to stderr as one line."""
    print(f"v3d: {error}", file=sys.stderr)


def print_warnings(warnings: Iterable[str]) -> None:
    """Write the warnings of a finished run to stderr, a line each."""
    for warning in warnings:
        print(f"v3d: note: {warning}", file=sys.stderr)
