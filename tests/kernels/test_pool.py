"""The pool of threads: every item once, errors come through, V3D_THREADS says how many."""

from __future__ import annotations

import threading

import pytest
import torch

from v3d.kernels.pool import Pool, pool


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("count", "tasks"), [(0, 4), (1, 4), (3, 8), (100, 7), (100, 1)])
def test_every_item_is_taken_once_in_at_most_so_many_ranges(threads: int, count: int, tasks: int) -> None:
    calls: list[tuple[int, int, str]] = []
    lock = threading.Lock()

    def kernel(first: int, last: int, extra: str) -> None:
        with lock:
            calls.append((first, last, extra))

    Pool(threads).run(kernel, count, tasks, "argument")
    taken = sorted(i for first, last, _ in calls for i in range(first, last))
    assert taken == list(range(count))
    assert len(calls) <= tasks
    assert all(extra == "argument" for *_, extra in calls)


def test_an_error_in_any_thread_is_raised_and_the_pool_works_on() -> None:
    workers = Pool(3)

    def kernel(first: int, last: int, bad: int) -> None:
        if first <= bad < last:
            raise RuntimeError(f"item {bad}")

    for bad in (0, 4, 8):
        with pytest.raises(RuntimeError, match=f"item {bad}"):
            workers.run(kernel, 9, 9, bad)
    workers.run(kernel, 9, 9, -1)


def test_the_environment_says_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("V3D_THREADS", raising=False)
    assert pool().threads == torch.get_num_threads()
    monkeypatch.setenv("V3D_THREADS", "3")
    assert pool().threads == 3 and pool() is pool()
    for nonsense in ("many", "-1", "1.5"):
        monkeypatch.setenv("V3D_THREADS", nonsense)
        with pytest.raises(ValueError, match="V3D_THREADS"):
            pool()
