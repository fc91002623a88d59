"""How a run shows itself in a terminal: a bar a stage with the time left, or plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressDisplay:
    """Shows what a run reports to its `on_progress`, on stderr.

    >>> with ProgressDisplay() as show:
    ...     generate("cup.png", "out", on_progress=show)
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def title(self, text: str) -> None:
        """Begin another run: what it makes."""
        for task in self._tasks.values():
            self._bars.stop_task(task)
        self._tasks.clear()
        self._started.clear()
        self._console.print(text, highlight=False, soft_wrap=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        reused = stage not in self._started
        self._started.setdefault(stage, now)
        if self._console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=None)
            # A stage that does not count its steps shows a moving bar until it ends.
            known = total if done > 0 else None
            self._bars.update(self._tasks[stage], completed=done, total=known)
        elif done == total:
            state = (
                "kept from the last run"
                if reused and done == total
                else f"{now - self._started[stage]:.1f} s"
            )
            self._console.print(f"{stage}: {state}", highlight=False, soft_wrap=True)
