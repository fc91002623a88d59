"""CPU time and matrix products of a call, and the machine's peak of the latter, on one thread."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from v3d.runtime import tune_malloc


def use_one_thread() -> str:
    """Set torch up as the pipeline does, with one thread; the machine in words."""
    torch.set_num_threads(1)
    tune_malloc()
    return f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, CPU time"


def measure(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Best CPU seconds of a call, and its floating-point operations in matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times), counter.get_total_flops()


def peak(dtype: torch.dtype, size: int = 1024) -> float:
    """Operations a second of a product of square matrices."""
    a = torch.randn(size, size, dtype=dtype)
    seconds, flops = measure(lambda: a @ a, 20)
    return flops / seconds
