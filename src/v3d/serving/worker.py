"""A process of its own that carries out one task at a time, tells how far it is, and may die without harm."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from v3d.callbacks import OnProgress
from v3d.errors import V3DError
from v3d.serving.tasks import Made

Task = Callable[[OnProgress], Made]
"""Something to do that can be sent to another process: an instance of a class of `v3d.serving.tasks`."""
_EVERY = 0.2  # seconds between two reports of one stage's progress
FAULT, REFUSED, KILLED = 70, 2, 137
"""Exit codes of tasks that failed: by a fault of V3D, by their input, by the end of their process."""


@dataclass(frozen=True)
class Progress:
    """How far a task is: `done` of `total` steps of a stage; a stage ends with all of them."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Failed:
    """A task that did not succeed: an exit code, and the reason in one sentence."""

    code: int
    reason: str


Event = Progress | Made | Failed
"""What a worker reports: any number of `Progress`, then either of the others."""


class AnyWorker(Protocol):
    """What carries out one task at a time: `Worker` here, `v3d.serving.ray_worker.RayWorker` in a cluster.

    Not thread-safe: one owner gives tasks and reads events.
    """

    @property
    def busy(self) -> bool:
        """Whether it cannot take a task now."""
        ...

    def start(self, task: Task) -> None:
        """Begin a task; RuntimeError where it is busy."""
        ...

    def events(self) -> list[Event]:
        """What has happened since the last call; never waits. After `Made` or `Failed` the task is over."""
        ...

    def stop(self) -> None:
        """End the task, and the process, at once."""
        ...

    @staticmethod
    def wait_for_any(workers: Sequence[Any], timeout: float) -> None:
        """Return when one of the workers of this kind has something to tell, or after `timeout` seconds."""
        ...


class Worker:
    """Carries out tasks in a process that starts with the first and is used again.

    Not thread-safe: one owner gives tasks and reads events.
    """

    def __init__(self, threads: int = 1) -> None:
        """`threads`: those of the process's arithmetic."""
        self._threads = threads
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self.busy = False

    def start(self, task: Task) -> None:
        """Begin a task.

        Raises:
            RuntimeError: the last one is not finished.
        """
        if self.busy:
            raise RuntimeError("The worker is busy.")
        if self._process is None or not self._process.is_alive():
            self._spawn()
        assert self._pipe is not None
        self._pipe.send(task)
        self.busy = True

    def events(self) -> list[Event]:
        """What has happened since the last call; never waits. After `Made` or `Failed` the worker is free."""
        events: list[Event] = []
        while self.busy and self._pipe is not None:
            try:
                if not self._pipe.poll():
                    break
                event = self._pipe.recv()
            except (EOFError, OSError):
                event = Failed(KILLED, "Its process ended without a word; perhaps memory ran out.")
                self.stop()
            events.append(event)
            if not isinstance(event, Progress):
                self.busy = False
        return events

    def stop(self) -> None:
        """End the process at once, whatever it does; files are written atomically, so none is half there."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
        self.busy = False

    def _spawn(self) -> None:
        self.stop()
        context = multiprocessing.get_context("spawn")  # forked threads of torch hang
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._threads), daemon=True)
        self._process.start()
        theirs.close()

    @staticmethod
    def wait_for_any(workers: Sequence[Worker], timeout: float) -> None:
        """Return when a busy worker has something to tell, or after `timeout` seconds."""
        pipes = [worker._pipe for worker in workers if worker.busy and worker._pipe is not None]
        if pipes:
            wait(pipes, timeout)
        else:
            time.sleep(timeout)


def _serve(pipe: Connection, threads: int) -> None:
    """The process: tasks in, events out, until the other end closes."""
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides what an interrupt means
    threading.Thread(target=_end_with_owner, daemon=True).start()
    torch.set_num_threads(threads)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(carry_out(task, pipe.send))
        except (BrokenPipeError, OSError):
            return


def _end_with_owner() -> None:
    """End this process as soon as the one that started it has ended: a killed owner leaves nobody behind."""
    owner = multiprocessing.parent_process()
    assert owner is not None
    wait([owner.sentinel])
    os._exit(1)


def carry_out(task: Task, tell: Callable[[Progress], object]) -> Made | Failed:
    """The task's result, or why there is none; `tell` hears how far it is, a few times a second."""
    last_stage, last_time = "", 0.0

    def on_progress(stage: str, done: int, total: int) -> None:
        nonlocal last_stage, last_time
        now = time.monotonic()
        if stage != last_stage or done >= total or now - last_time > _EVERY:
            last_stage, last_time = stage, now
            tell(Progress(stage, done, total))

    try:
        return task(on_progress)
    except V3DError as error:
        return Failed(REFUSED, str(error))
    except MemoryError:
        return Failed(REFUSED, "Memory ran out; try --quality draft, or fewer workers.")
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return Failed(FAULT, f"A fault in V3D itself ({what}).")
