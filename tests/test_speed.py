"""Guards against code that becomes slow: kernels and fits are timed against a loop that is timed beside them.

Times are processor seconds of this process, so that other processes hardly count, and what is compared is a
ratio, in which the machine's own speed cancels. `LIMIT` is generous, because some noise is left; code that
takes four times as long fails all the same, as the tests show on code that does everything four times.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from v3d.cameras import orbit
from v3d.splats.fit import FitSettings, fit, warmup
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import rasterize
from v3d.views import Views

LIMIT = 2.5  # times the usual ratio
REPEATS = 3


@numba.njit(fastmath=True)
def calibrate(x: NDArray[np.float32]) -> None:
    """Multiply-adds, exponentials, and memory read and written in order: what the kernels do as well."""
    for _ in range(40):
        for i in range(len(x)):
            x[i] = np.float32(0.5) * x[i] + np.float32(0.1) * math.exp(-x[i])


def ratio(code: Callable[[], object]) -> float:
    """How many calibration loops `code` takes: the median over repeats, each between two of the loops."""
    x = np.linspace(0, 1, 1 << 18, dtype=np.float32)
    calibrate(x)
    code()
    loops = [seconds(partial(calibrate, x))]
    times = []
    for _ in range(REPEATS):
        times.append(seconds(code))
        loops.append(seconds(partial(calibrate, x)))
    return statistics.median(2 * t / (a + b) for t, a, b in zip(times, loops, loops[1:], strict=False))


def seconds(code: Callable[[], object]) -> float:
    start = time.process_time()
    code()
    return time.process_time() - start


def ball(count: int) -> Splats:
    """Gaussians on a sphere, as large as the distance between them."""
    g = torch.Generator().manual_seed(0)
    means = 0.7 * torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    log_scales = torch.full((count, 3), math.log(0.7 * math.sqrt(4 * math.pi * 0.7**2 / count)))
    colours = torch.rand(count, 3, generator=g)
    return Splats(means, torch.randn(count, 4, generator=g), log_scales, torch.zeros(count), colours)


def render_and_differentiate() -> None:
    """Four views of 5,000 Gaussians, forward and backward."""
    splats = ball(5000)
    for leaf in (splats.means, splats.quats, splats.log_scales, splats.logit_opacity, splats.rgb):
        leaf.requires_grad_()
    rasterize(splats, orbit(4, size=128)).rgb.sum().backward()


def fit_a_draft() -> None:
    """Ten iterations on views of 64 pixels."""
    views = Views(torch.full((6, 64, 64, 3), 0.5), torch.ones(6, 64, 64), orbit(6, size=64))
    fit(views, ball(2000), FitSettings(iterations=10))


@pytest.fixture(scope="module", autouse=True)
def one_compiled_thread() -> Iterator[None]:
    """Torch's threads spin while they wait for each other, which would count as work."""
    warmup()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("code", "usual"), [(render_and_differentiate, 0.75), (fit_a_draft, 1.4)])
def test_code_is_as_fast_as_it_was(code: Callable[[], None], usual: float) -> None:
    def four_times() -> None:
        for _ in range(4):
            code()

    assert ratio(code) < LIMIT * usual
    assert ratio(four_times) > LIMIT * usual
