"""What several commands share: the option --out, lines on stderr, the error of a batch that failed partly."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from v3d.distribution import install_hint
from v3d.errors import V3DError

if TYPE_CHECKING:
    from v3d.serving.ray_worker import Cluster

Out = Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
"""The folder of the results: `--out FOLDER`, or `-o FOLDER`."""


class SomeFailedError(Exception):
    """Some of several inputs failed; what was wrong with each is on stderr already."""


def print_error(error: Exception) -> None:
    """Write an error to stderr as one line."""
    with contextlib.suppress(BrokenPipeError):  # nobody reads; the exit code still says it
        print(f"v3d: {error}", file=sys.stderr)


def print_warnings(warnings: Iterable[str]) -> None:
    """Write the warnings of a finished run to stderr, a line each."""
    for warning in warnings:
        print(f"v3d: note: {warning}", file=sys.stderr)


def join_cluster(address: str, folder: Path) -> Cluster:
    """The Ray cluster at an address, whose nodes must see the folder of the results.

    Raises:
        V3DError: the extra `ray` is missing, there is no cluster, or a node cannot do the work.
    """
    try:
        from v3d.serving.ray_worker import connect
    except ImportError as error:
        raise V3DError(f"--ray needs an extra: {install_hint('ray')}.") from error
    return connect(address, folder.absolute())
