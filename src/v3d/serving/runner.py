"""Runs the jobs of a store: a thread that gives them to workers and notes what these tell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from v3d.errors import V3DError
from v3d.serving.store import Job, JobStore
from v3d.serving.tasks import Made
from v3d.serving.worker import KILLED, AnyWorker, Failed, Progress, Task

TaskOf = Callable[[Job, JobStore], Task]
"""What a job asks for, as something that a worker can do; raises V3DError where that cannot be."""
TRIES = 2
"""How often a job is begun whose process dies."""


@dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
        waiting: jobs in the queue.
        seconds: that one job may run.
        keep_seconds: that results of ended jobs are kept.
        keep_gigabytes: of results that are kept.
    """

    waiting: int = 32
    seconds: float = 3600.0
    keep_seconds: float = 30 * 24 * 3600.0
    keep_gigabytes: float = 20.0


class Runner:
    """Carries out queued jobs, one a worker, until it is stopped."""

    def __init__(
        self, store: JobStore, task_of: TaskOf, *, workers: Sequence[AnyWorker], limits: Limits
    ) -> None:
        """Nothing runs before `start`; `workers` are at least one, and stopped in the end."""
        self._store, self._task_of, self._limits = store, task_of, limits
        self._workers = workers
        self._jobs: dict[int, tuple[str, float]] = {}  # worker -> job, and when it must have ended
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="v3d-jobs", daemon=True)

    def start(self) -> None:
        """Queue again what an earlier server was running when it died, and begin."""
        self._store.recover(tries=TRIES)
        self._thread.start()

    def stop(self) -> None:
        """End all workers; what they were running is queued again."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        trimmed = 0.0
        try:
            while not self._stop.is_set():
                self._begin()
                self._workers[0].wait_for_any(self._workers, 0.2)
                for i in list(self._jobs):
                    self._listen(i)
                if time.monotonic() - trimmed > 60:
                    trimmed = time.monotonic()
                    self._store.trim(seconds=self._limits.keep_seconds, gigabytes=self._limits.keep_gigabytes)
        finally:
            for i, worker in enumerate(self._workers):
                worker.stop()
                if i in self._jobs:
                    self._store.again(self._jobs[i][0], tries=TRIES + 1)

    def _begin(self) -> None:
        for i, worker in enumerate(self._workers):
            while not worker.busy and (job := self._store.take()) is not None:
                try:
                    task = self._task_of(job, self._store)
                except V3DError as error:
                    self._store.finish(job.id, "failed", reason=str(error))
                    continue
                self._jobs[i] = (job.id, time.monotonic() + self._limits.seconds)
                worker.start(task)

    def _listen(self, i: int) -> None:
        """Note what worker i tells, and end it where its job was cancelled or takes too long."""
        id, deadline = self._jobs[i]
        for event in self._workers[i].events():
            if isinstance(event, Progress):
                self._store.progress(id, event.stage, event.done, event.total)
                continue
            if isinstance(event, Made):
                self._store.finish(id, "done", warnings=event.warnings, files=event.files)
            elif event.code == KILLED:
                self._store.again(id, tries=TRIES)
            else:
                assert isinstance(event, Failed)
                self._store.finish(id, "failed", reason=event.reason)
            del self._jobs[i]
            return
        late = time.monotonic() > deadline
        if late:
            reason = f"It took longer than the {self._limits.seconds:g} seconds that this server gives a job."
            self._store.finish(id, "failed", reason=reason)
        if late or self._store.get(id).state == "cancelled":
            self._workers[i].stop()
            del self._jobs[i]
