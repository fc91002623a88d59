"""Many objects, one after the other or side by side: every item ends with a record of how it went.

A record stands in `OUT/.batch/NAME.json`. An item whose record says that it was made from these photos with
these settings is not made again, so a batch that was stopped goes on where it was. A lock beside the record
keeps two machines that share OUT from making one item.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from v3d.callbacks import OnProgress
from v3d.digests import digest, file_digest
from v3d.errors import V3DError
from v3d.files import clear_errors, remove_leftovers
from v3d.serving.manifest import Item
from v3d.serving.resources import cores, default_workers
from v3d.serving.summary import RECORDS, Record, read_record, write_record
from v3d.serving.tasks import GenerateTask, Made
from v3d.serving.worker import KILLED, REFUSED, AnyWorker, Failed, Progress, Worker
from v3d.settings import FinishSettings

OnItem = Callable[[Record, int, int], None]
"""Called with (record, items finished, items in all) after every item."""
_FREE_BYTES = 100e6  # less on the disk, and no item can be made
_PATIENCE = 60.0  # seconds for a process to end whose batch was killed


@dataclass(frozen=True)
class Pool:
    """Workers of one kind.

    Attributes:
        workers: one or more.
        until: they make an item's views, and another pool the rest; None if they make whole items.
        tries: how often an item is begun whose process dies: memory was short, a node was taken away.
    """

    workers: Sequence[AnyWorker]
    until: Literal["views"] | None = None
    tries: int = 2


@dataclass
class _Begun:
    """An item that is being made, or waits for the next pool.

    Attributes:
        pool: number of the pool that makes it.
        tries: how often this pool has begun it.
        seconds: that workers have had for it.
        since: when its worker began, by `time.monotonic`.
    """

    item: Item
    key: str
    lock: FileLock
    pool: int = 0
    tries: int = 0
    seconds: float = 0.0
    since: float = 0.0


def local_pools(workers: int | None = None, *, items: int) -> list[Pool]:
    """Processes of this machine: `workers` of them, or as many as cores, memory and items allow."""
    count = workers or default_workers()
    threads = max(1, cores() // count)
    return [Pool([Worker(threads) for _ in range(max(1, min(count, items)))])]


def run_batch(
    items: Sequence[Item],
    out: Path,
    *,
    pools: Sequence[Pool],
    retry: bool = False,
    on_item: OnItem | None = None,
    on_progress: Callable[[str, Progress], None] | None = None,
) -> list[Record]:
    """Make every item that has no record yet.

    Args:
        items: what to make.
        out: every item gets a folder of its name in it.
        pools: who makes them: an item goes through all pools in this order. They are stopped in the end.
        retry: make failed items again.
        on_item: told of every item as it ends, those that were finished before included.
        on_progress: told of the progress inside of items, by name.

    Returns:
        The records of all items that are not being made elsewhere, in order.

    Raises:
        V3DError: `out` cannot be written, or its disk is full.
    """
    return _Batch(items, out, pools, retry, on_item, on_progress).run()


class _Batch:
    """The state of one call of `run_batch`."""

    def __init__(
        self,
        items: Sequence[Item],
        out: Path,
        pools: Sequence[Pool],
        retry: bool,
        on_item: OnItem | None,
        on_progress: Callable[[str, Progress], None] | None,
    ) -> None:
        self._items, self._out, self._pools, self._retry = items, out.absolute(), pools, retry
        self._on_item, self._on_progress = on_item, on_progress
        self._left = deque(items)
        self._waiting: list[deque[_Begun]] = [deque() for _ in pools]  # begun items, by the pool that is next
        self._running: dict[AnyWorker, _Begun] = {}
        self._records: dict[str, Record] = {}
        self._elsewhere = 0

    def run(self) -> list[Record]:
        workers = [worker for pool in self._pools for worker in pool.workers]
        try:
            with clear_errors(self._out):
                (self._out / RECORDS).mkdir(parents=True, exist_ok=True)
            while self._left or self._running or any(self._waiting):
                for number in reversed(range(len(self._pools))):  # what is nearly finished comes first
                    self._give_out(number)
                if self._running or any(self._waiting) or self._left:
                    workers[0].wait_for_any(workers, 0.5)
                for worker in list(self._running):
                    self._listen(worker)
        finally:
            for worker in workers:
                worker.stop()
            for begun in [*self._running.values(), *(b for queue in self._waiting for b in queue)]:
                begun.lock.release()
        return [self._records[item.name] for item in self._items if item.name in self._records]

    def _give_out(self, number: int) -> None:
        """Give the free workers of a pool something to do."""
        pool = self._pools[number]
        for worker in pool.workers:
            if worker.busy:
                continue
            begun = self._next(number)
            if begun is None:
                return
            item, out = begun.item, self._out
            until = item.settings.until if pool.until is None else pool.until
            settings = dataclasses.replace(item.settings, until=until)
            begun.tries, begun.since = begun.tries + 1, time.monotonic()
            self._running[worker] = begun
            finish = item.finish if until == item.settings.until else FinishSettings()
            task = GenerateTask(item.photos, out, settings, item.name, finish=finish)
            worker.start(ItemTask(task, out / RECORDS / f"{item.name}.work"))

    def _next(self, number: int) -> _Begun | None:
        """The next item for a pool, or None where none waits."""
        if self._waiting[number]:
            return self._waiting[number].popleft()
        if number > 0:
            return None
        for later, pool in enumerate(self._pools[1:], 1):
            if len(self._waiting[later]) >= 2 * len(pool.workers):
                return None  # that pool is behind; every begun item holds a lock and its views
        while self._left:
            begun = self._begin(self._left.popleft())
            if begun is not None:
                return begun
        return None

    def _begin(self, item: Item) -> _Begun | None:
        """Lock an item; None where nothing is to be done for it, or another machine does it."""
        if item.refusal:
            self._end(Record(item.name, "", REFUSED, item.refusal))
            return None
        try:
            photos = [(a, file_digest(p)) for a, p in sorted(item.photos.items())]
            key = digest([photos, item.settings, item.finish])
        except V3DError as error:
            self._end(Record(item.name, "", REFUSED, str(error)))
            return None
        lock = FileLock(self._out / RECORDS / f"{item.name}.lock")
        for _ in range(2):  # before the lock, which costs a file, and again under it
            record = read_record(self._out, item.name)
            if record is not None and record.key == key and (record.code == 0 or not self._retry):
                lock.release()
                self._end(record)
                return None
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self._elsewhere += 1
                return None
        self._check_disk()
        return _Begun(item, key, lock)

    def _listen(self, worker: AnyWorker) -> None:
        """Take in what a worker has to tell."""
        begun = self._running[worker]
        pool = self._pools[begun.pool]
        for event in worker.events():
            if isinstance(event, Progress):
                if self._on_progress is not None:
                    self._on_progress(begun.item.name, event)
                continue
            del self._running[worker]
            begun.seconds += time.monotonic() - begun.since
            if isinstance(event, Failed) and event.code == KILLED and begun.tries < pool.tries:
                self._waiting[begun.pool].appendleft(begun)
            elif isinstance(event, Made) and pool.until not in (None, begun.item.settings.until):
                begun.pool, begun.tries = begun.pool + 1, 0
                self._waiting[begun.pool].append(begun)
            else:
                self._finish(begun, event)
            return

    def _finish(self, begun: _Begun, event: Made | Failed) -> None:
        """Record how an item went, and let go of it."""
        record = Record(begun.item.name, begun.key, 0, seconds=round(begun.seconds, 1))
        if isinstance(event, Made):
            record = dataclasses.replace(record, warnings=event.warnings, files=event.files)
        else:
            self._check_disk()
            record = dataclasses.replace(record, code=event.code, reason=event.reason)
        write_record(self._out, record)
        begun.lock.release()
        self._end(record)

    def _end(self, record: Record) -> None:
        self._records[record.name] = record
        if self._on_item is not None:
            self._on_item(record, len(self._records), len(self._items) - self._elsewhere)

    def _check_disk(self) -> None:
        """See that there is room: on a full disk every item would fail, and none through a fault of its own.

        Raises:
            V3DError: there is none.
        """
        free = shutil.disk_usage(self._out).free
        if free < _FREE_BYTES:
            raise V3DError(
                f"The disk of {self._out} is full ({free / 1e6:.0f} MB left); free some space and run the "
                "same command again."
            )


@dataclass(frozen=True)
class ItemTask:
    """An item's task, done in its folder by one process at a time.

    The batch's own lock does not see a worker that outlives a killed batch for a moment; this one does.

    Attributes:
        task: what to do.
        lock: file that is locked meanwhile.
    """

    task: GenerateTask
    lock: Path

    def __call__(self, on_progress: OnProgress) -> Made:
        """Carry the task out.

        Raises:
            V3DError: as the task says; or another process does not leave the folder.
        """
        assert self.task.name is not None
        try:
            with FileLock(self.lock, timeout=_PATIENCE):
                remove_leftovers(self.task.out / self.task.name)
                return self.task(on_progress)
        except Timeout:
            raise V3DError(f"Another process is at work in {self.task.out / self.task.name}.") from None
