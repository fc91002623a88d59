"""A fork-join pool of sleeping threads for kernels that release the GIL.

Numba's own `parallel=True` shares OpenMP with torch, whose idle threads spin: on a busy machine that
costs more than the kernels. Here idle workers sleep on a queue, and tasks are pulled one by one, so one
slow core does not hold up the others.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Pool:
    """A pool of threads, the caller's included.

    Attributes:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._jobs: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        for _ in range(threads - 1):
            threading.Thread(target=self._work, daemon=True).start()

    def run(self, kernel: Callable[..., None], count: int, tasks: int, *args: Any) -> None:
        """Call `kernel(first, last, *args)` on ranges that cover 0..count, and wait for all of them.

        An error in one of the calls is raised here.

        Args:
            kernel: releases the GIL; its calls may run in any order and at the same time.
            count: of the items; 0 calls nothing.
            tasks: into how many ranges they are cut, at most.
            args: handed on to every call.
        """
        if self.threads == 1 or count <= 1:
            if count > 0:
                kernel(0, count, *args)
            return
        tasks = min(tasks, count)
        helpers = min(self.threads, tasks) - 1
        # A range iterator's next() is atomic under the GIL: the threads share it without a lock.
        numbers = iter(range(tasks))
        errors: list[BaseException] = []
        done = threading.Semaphore(0)
        for _ in range(helpers):
            self._jobs.put((kernel, numbers, tasks, count, args, errors, done))
        _pull(kernel, numbers, tasks, count, args, errors)
        for _ in range(helpers):
            done.acquire()
        if errors:
            raise errors[0]

    def _work(self) -> None:
        while True:
            *job, done = self._jobs.get()
            _pull(*job)
            job.clear()  # an idle worker keeps no images alive
            done.release()


def _pull(
    kernel: Callable[..., None],
    numbers: Iterator[int],
    tasks: int,
    count: int,
    args: tuple[Any, ...],
    errors: list[BaseException],
) -> None:
    try:
        for k in numbers:
            kernel(count * k // tasks, count * (k + 1) // tasks, *args)
    except BaseException as error:
        errors.append(error)


_pools: dict[tuple[int, int], Pool] = {}


def pool() -> Pool:
    """The process's pool.

    It has as many threads as the environment variable V3D_THREADS says, or, where that is unset or 0, as many
    as torch uses (`torch.set_num_threads`).

    Raises:
        ValueError: V3D_THREADS is no number of threads.
    """
    stated = os.environ.get("V3D_THREADS") or "0"
    if not stated.isdecimal():
        raise ValueError(f"V3D_THREADS must be a number of threads, not {stated!r}.")
    threads = int(stated) or torch.get_num_threads()
    key = (os.getpid(), threads)  # threads do not survive a fork
    if key not in _pools:
        _pools[key] = Pool(threads)
    return _pools[key]
