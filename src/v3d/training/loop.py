"""The training loop of every model: draw, loss, gradient, step, average; now and then validate and save.

What keeps it exact: all randomness of a step is a function of the seed and of the step (and sample), so a
resumed run repeats an uninterrupted one, and a batch can be cut into parts, over processes or one after the
other, without changing what is chosen. Processes sum their gradients and share a clock in one message a step.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from v3d.training.learner import Learner
from v3d.training.log import Log
from v3d.training.processes import SINGLE_PROCESS, Processes
from v3d.training.recipe import Recipe
from v3d.training.task import BatchShare, Task

OnLine = Callable[[dict[str, float]], None]
"""Called with every line of the log."""


def run(
    task: Task,
    recipe: Recipe,
    out: Path,
    *,
    minutes: float | None = None,
    resume: bool = False,
    processes: Processes = SINGLE_PROCESS,
    on_line: OnLine | None = None,
) -> Progress:
    """Train until the recipe's steps are done, `minutes` are over, or a signal (Ctrl-C) asks to stop.

    `out` holds `checkpoint.safetensors`, `log.jsonl`, `samples/` and `model/`, which always loads.

    Args:
        task: what is trained.
        recipe: how it is trained.
        out: folder of the run.
        minutes: of this session; with `recipe.steps` 0 the schedule ends with them.
        resume: go on from `out`'s checkpoint.
        processes: this process among those that train together.
        on_line: called with every line of the log.

    Raises:
        V3DError: neither steps nor minutes are given, the checkpoint is unusable, the disk is full.
    """
    if not recipe.steps and minutes is None:
        raise V3DError("Say how long to train: --minutes 60, or --steps 10000.")
    training = _Training(task, recipe, out, processes, on_line, resume=resume)
    clock = _Clock(recipe, training.progress.seconds, math.inf if minutes is None else 60 * minutes)
    first, saved, stop = training.progress.step, training.progress.seconds, False
    with _signals() as asked:
        while not stop and (done := clock.done(training.progress)) < 1:
            stop = training.step(done, clock, asked)
            if training.progress.seconds - saved > 60 * recipe.save_minutes:
                training.save()
                if processes.size == 1:  # several processes might not see the same files
                    task.refresh()
                saved = clock.seconds()
            elif training.progress.step % recipe.log_steps == 0:
                training.write_line()
        if processes.size == 1:
            training.progress = replace(training.progress, seconds=clock.seconds())
        if training.progress.step > first or not resume:
            training.save()
    return training.progress


class _Clock:
    """The time of a run over all its sessions, and how much of the run is done."""

    def __init__(self, recipe: Recipe, earlier: float, budget: float) -> None:
        """Begin a session of at most `budget` seconds after `earlier` seconds in other sessions."""
        self._steps, self._earlier, self._budget = recipe.steps, earlier, budget
        self._start = time.monotonic()

    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._start

    def done(self, progress: Progress) -> float:
        """Fraction of the run that is done; 1 or more ends it, or this session."""
        if progress.seconds - self._earlier >= self._budget:
            return 1.0
        return (
            progress.step / self._steps if self._steps else progress.seconds / (self._earlier + self._budget)
        )


class _Training:
    """A run: what learns, how far it has come, and what it writes into its folder."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        out: Path,
        processes: Processes,
        on_line: OnLine | None,
        *,
        resume: bool,
    ) -> None:
        self._task, self._recipe, self._out, self._processes = task, recipe, out, processes
        self._on_line = on_line or (lambda line: None)
        self._learner = learner = Learner(task.network, recipe, processes.precision(recipe.precision))
        self.progress = Progress()
        if resume:
            self.progress = load_checkpoint(out, learner.network, learner.average, learner.optimizers)
            learner.refresh_copy()
        self._log = Log(out, after_step=self.progress.step) if processes.main else None

    def step(self, done: float, clock: _Clock, asked: threading.Event) -> bool:
        """Take one step, `done` in [0, 1] of the way; returns whether the processes agree to stop."""
        progress = self.progress
        batch = self._task.batch_size(progress.step, done)
        gradients = self._gradients(done, batch)
        seconds, stop = self._processes.sum_(
            gradients, [clock.seconds() if self._processes.main else 0.0, float(asked.is_set())]
        )
        taken = self._learner.step(gradients, progress.step, done)
        self.progress = Progress(
            progress.step + 1, progress.position + batch, seconds, progress.skipped + (not taken)
        )
        return stop > 0

    def _gradients(self, done: float, batch: int) -> list[Tensor]:
        """This process's share of the gradient of the batch's mean loss, computed part by part."""
        recipe, processes, progress = self._recipe, self._processes, self.progress
        gradients = self._learner.zero_gradients()
        for part in range(processes.rank * recipe.accumulate, (processes.rank + 1) * recipe.accumulate):
            samples = list(range(part, batch, processes.size * recipe.accumulate))
            if not samples:
                continue
            share = BatchShare(
                progress.step, progress.position, done, batch, samples, recipe.seed, processes.device
            )
            values = self._task.losses(self._learner.compute, share)
            torch.autograd.backward(values["loss"].sum() / batch)
            self._learner.collect_gradients(gradients)
            if self._log is not None:
                self._log.add({name: value.detach() for name, value in values.items()})
        return gradients

    def write_line(self) -> None:
        """Write means since the last line, and how far the run has come, into the log."""
        p = self.progress
        self._write(
            {"seconds": p.seconds, "samples": p.position, "rate": self._learner.rate, "skipped": p.skipped}
        )

    def save(self) -> None:
        """Validate, and write a line, the picture, the model and the checkpoint; other processes wait."""
        if self._processes.main:
            p, learner = self.progress, self._learner
            values, picture = self._task.validate(learner.average)
            self._write({"seconds": p.seconds, "skipped": p.skipped, **values})
            if picture is not None:
                with atomic(self._out / f"samples/{p.step:07d}.png") as temporary:
                    Image.fromarray((picture.clamp(0, 1) * 255 + 0.5).byte().cpu().numpy()).save(temporary)
            self._task.export(learner.average, self._out / "model")
            save_checkpoint(self._out, self._recipe, p, learner.network, learner.average, learner.optimizers)
        self._processes.wait()

    def _write(self, values: dict[str, float]) -> None:
        if self._log is not None:
            self._on_line(self._log.line(self.progress.step, values))


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
