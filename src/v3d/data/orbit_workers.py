"""Processes that render fresh orbits ahead of the network that trains on them, and hand them over in order.

Orbit k of a sequence is rendered by worker k modulo their number and handed over after orbit k - 1, so that
what training sees does not depend on who was quicker, nor on how many workers there are. Each worker has a
few rows of shared memory (which no file names, so none can be left behind) and a pipe of its own: down comes
the word that a row is full, up the word that it is free. A process that ends closes its pipe, which the other
side notices instead of waiting for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

from v3d.data.fresh_orbits import OrbitJob
from v3d.errors import V3DError

ROWS = 2
"""Rows of shared memory of a worker: it renders one orbit while another waits."""

_NICENESS = 5  # of workers: the trainer, which feeds the device, goes first

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Worker:
    process: Any
    pipe: Connection
    rows: Tensor


class OrbitWorkers:
    """The orbits `numbers` of a job, in order, rendered ahead by worker processes.

    Attributes:
        failures: how often each thing went wrong with an object, by "OBJECT: REASON".
    """

    def __init__(self, job: OrbitJob, numbers: range, workers: int) -> None:
        """Start rendering.

        Args:
            job: what the orbits are.
            numbers: of the orbits, in order.
            workers: processes of one thread each; 0 renders in this one, when an orbit is asked for.
        """
        self.failures: Counter[str] = Counter()
        self._job, self._numbers, self._taken = job, numbers, 0
        context = torch.multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
        self._workers: list[_Worker] = []
        for rank in range(workers):
            trainer_end, worker_end = context.Pipe()
            rows = torch.zeros(ROWS, job.layout.nbytes, dtype=torch.uint8).share_memory_()
            arguments = (job, numbers[rank::workers], rows, worker_end)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            worker_end.close()  # it lives on in the worker alone, so that the pipe ends with it
            self._workers.append(_Worker(process, trainer_end, rows))

    def take(self, out: Tensor) -> None:
        """Wait for the next orbit and copy it to `out`, uint8 [nbytes] on any device.

        Raises:
            V3DError: its worker was killed, or no object can be rendered.
        """
        k = self._taken
        self._taken += 1
        if not self._workers:
            row, failures = self._job.render(self._numbers[k])
            out.copy_(row)
        else:
            worker, at = self._workers[k % len(self._workers)], k // len(self._workers)
            failures = self._answer(worker)
            out.copy_(worker.rows[at % ROWS])
            with contextlib.suppress(OSError):  # a worker that has ended meanwhile is noticed next time
                worker.pipe.send(None)  # the row is free
        for failure in failures:
            self.failures[failure] += 1
            if self.failures[failure] == 1:
                log.warning("skipped %s", failure)

    def _answer(self, worker: _Worker) -> list[str]:
        try:
            answer: list[str] | V3DError = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(1)
            raise V3DError(
                "A process that renders orbits has ended (exit code"
                f" {worker.process.exitcode}), most likely for want of memory; go on from the last checkpoint"
                " with v3d train resume and fewer --workers."
            ) from None
        if isinstance(answer, V3DError):
            raise answer
        return answer

    def close(self) -> None:
        """End the worker processes, which hold nothing that is worth waiting for."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = []


def _work(job: OrbitJob, numbers: range, rows: Tensor, pipe: Connection) -> None:
    """What a worker does until the other end of its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which closes the pipe
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        for count, (answer, row) in enumerate(_rendered(job, numbers)):
            if count >= ROWS:
                pipe.recv()  # until a row is free
            if row is not None:
                rows[count % ROWS] = row
            pipe.send(answer)


def _rendered(job: OrbitJob, numbers: range) -> Iterator[tuple[list[str] | V3DError, Tensor | None]]:
    for number in numbers:
        try:
            row, failures = job.render(number)
        except V3DError as error:
            yield error, None
            return
        yield failures, row
