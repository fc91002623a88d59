"""How a run shows itself in a terminal: a bar a stage with the time left, or plain lines in a log."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

_SILENCE = 10.0
"""Seconds without a line after which a log hears how far a stage has come."""


class ProgressDisplay:
    """Shows on stderr how a run goes on; give it to the run as `on_progress`.

    >>> with ProgressDisplay() as show:
    ...     generate("cup.png", "out", on_progress=show)
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._counted: dict[str, tuple[float, int]] = {}  # when a stage first told of steps, and of how many
        self._told = 0.0  # when the last line of a log was written

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def title(self, text: str) -> None:
        """Begin another run and print what it makes; the bars of the run before stay above."""
        self.close()
        self._line(text)

    def close(self) -> None:
        """End the bars, so that other text can follow."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._tasks.clear()
        self._started.clear()
        self._counted.clear()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how many of its steps a stage did; one that starts complete was kept from the last run.

        A log has a line when a stage starts, one every ten seconds or so, and one when it ends.
        """
        now = time.monotonic()
        first = stage not in self._started
        self._started.setdefault(stage, now)
        if done:
            self._counted.setdefault(stage, (now, done))
        if self._console.is_terminal:
            self._bar(stage, done, total)
        elif done == total:
            state = "kept from the last run" if first else f"{now - self._started[stage]:.1f} s"
            self._line(f"{stage}: {state}")
        elif first:
            self._line(f"{stage} ...")
        elif now - self._told >= _SILENCE:
            self._line(f"{stage}: {done} of {total}{self._left(stage, done, total, now)}")

    def _left(self, stage: str, done: int, total: int, now: float) -> str:
        """The time left for a sentence; nothing before a second step, since the first prepares the others."""
        since, before = self._counted.get(stage, (now, done))
        if done <= before:
            return ""
        left = (now - since) * (total - done) / (done - before)
        return f", about {timedelta(seconds=round(left))} left"

    def _line(self, text: str) -> None:
        self._told = time.monotonic()
        self._console.print(text, highlight=False, soft_wrap=True)

    def _bar(self, stage: str, done: int, total: int) -> None:
        if self._bars is None:
            columns = (TextColumn("{task.description:<8}"), BarColumn(), TimeElapsedColumn(), _TimeLeft())
            self._bars = Progress(*columns, console=self._console)
            self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=None)
        # A stage that has not counted a step shows a moving bar.
        self._bars.update(self._tasks[stage], completed=done, total=total if done else None)


class _TimeLeft(ProgressColumn):
    """The estimated time left, empty where nothing can be said."""

    def render(self, task: Task) -> Text:
        """The text of one bar's column."""
        if task.finished or task.time_remaining is None:
            return Text("")
        return Text(f"{timedelta(seconds=int(task.time_remaining))} left", style="progress.remaining")
