"""Runs the jobs of a store: a thread that gives them to workers and notes what these tell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from v3d.errors import V3DError
from v3d.serving.store import Job, JobStore
from v3d.serving.tasks import Made
from v3d.serving.uploads import UploadLimits
from v3d.serving.worker import KILLED, AnyWorker, Failed, Progress, Task

TaskOf = Callable[[Job, JobStore], Task]
"""What a job asks for, as something that a worker can do; raises V3DError where that cannot be."""
TRIES = 2
"""How often a job is begun whose process dies."""
_LOOK = 5.0  # seconds between two looks at the disk space of the jobs that run


@dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
        waiting: jobs in the queue.
        seconds: that one job may run.
        job_gigabytes: that one job may have on the disk, its upload included.
        keep_seconds: that results of ended jobs are kept.
        keep_gigabytes: of results that are kept.
        upload: what one upload may hold.
    """

    waiting: int = 32
    seconds: float = 3600.0
    job_gigabytes: float = 8.0
    keep_seconds: float = 30 * 24 * 3600.0
    keep_gigabytes: float = 20.0
    upload: UploadLimits = field(default_factory=UploadLimits)


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
        trimmed = weighed = 0.0
        try:
            while not self._stop.is_set():
                self._begin()
                self._workers[0].wait_for_any(self._workers, 0.2)
                for i in list(self._jobs):
                    self._listen(i)
                if time.monotonic() - weighed > _LOOK:
                    weighed = time.monotonic()
                    self._end_large()
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

    def _end_large(self) -> None:
        """End jobs that fill the disk."""
        for i, (id, _) in list(self._jobs.items()):
            if self._store.size(id) > self._limits.job_gigabytes * 2**30:
                self._end(i, f"It took more than the {self._limits.job_gigabytes:g} GB that a job may have.")

    def _end(self, i: int, reason: str) -> None:
        """End what worker i does, which failed for this reason unless it was cancelled."""
        self._store.finish(self._jobs[i][0], "failed", reason=reason)
        self._workers[i].stop()
        del self._jobs[i]

    def _listen(self, i: int) -> None:
        """Note what worker i tells, and end it where its job was cancelled or takes too long."""
        id, deadline = self._jobs[i]
        for event in self._workers[i].events():
            if isinstance(event, Progress):
                self._store.progress(id, event.stage, event.done, event.total)
                continue
            if isinstance(event, Made):
                warnings = tuple(self._without_paths(id, warning) for warning in event.warnings)
                self._store.finish(id, "done", warnings=warnings, files=event.files)
            elif event.code == KILLED:
                if not self._is_over(id):
                    self._store.again(id, tries=TRIES)
            else:
                assert isinstance(event, Failed)
                self._store.finish(id, "failed", reason=self._without_paths(id, event.reason))
            del self._jobs[i]
            return
        if time.monotonic() > deadline:
            seconds = f"{self._limits.seconds:g}"
            self._end(i, f"It took longer than the {seconds} seconds that this server gives a job.")
        elif self._is_over(id):
            self._end(i, "It was cancelled.")
            if id not in self._store:
                self._store.remove(id)  # again: its process may have written since

    def _is_over(self, id: str) -> bool:
        """Whether somebody cancelled a running job, and perhaps removed it."""
        return id not in self._store or self._store.get(id).state == "cancelled"

    def _without_paths(self, id: str, sentence: str) -> str:
        """A sentence for clients: files by their names in the upload, not by the server's folders."""
        folder = self._store.root / id
        for path in (folder.resolve(), folder):
            sentence = sentence.replace(f"{path / 'input'}/", "").replace(f"{path}/", "")
        return sentence
