"""How a batch shows itself: a line an item, with the rate and the time left."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.status import Status

from v3d.serving.summary import Record
from v3d.serving.worker import Progress


class BatchDisplay:
    """Shows on stderr how a batch goes on: `item` and `progress` are what `run_batch` calls."""

    def __init__(self, items: int) -> None:
        """`items`: of the batch."""
        self._console = Console(file=sys.stderr or io.StringIO(), markup=False, emoji=False)
        self._items = items
        self._start = time.monotonic()
        self._new = 0  # items that were made now, which say how fast it goes
        self._current: dict[str, Progress] = {}
        self._status: Status | None = None

    def __enter__(self) -> BatchDisplay:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def progress(self, name: str, progress: Progress) -> None:
        """Show how far the item `name` is."""
        self._current[name] = progress
        if self._status is not None:
            parts = [f"{n}: {p.stage} {100 * p.done // max(p.total, 1)} %" for n, p in self._current.items()]
            self._status.update(", ".join(parts))

    def item(self, record: Record, done: int, total: int) -> None:
        """Print the line of an item that has ended."""
        made_now = self._current.pop(record.name, None) is not None
        self._new += made_now
        state = f"{record.seconds:.0f} s" if made_now else "made before"
        if record.code:
            state = f"failed: {record.reason}"
        text = f"{done}/{total} {record.name}: {state}"
        if made_now and done < total:
            pace = (time.monotonic() - self._start) / self._new
            left = timedelta(seconds=round(pace * (total - done)))
            text += f" ({3600 / pace:.0f} an hour, {left} left)"
        with contextlib.suppress(OSError, SystemExit):  # rich exits when nobody reads; a batch goes on
            self._console.print(text, highlight=False, soft_wrap=True)
