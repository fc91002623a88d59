"""New views of a scene a second, memory, and share of the matrix-product peak: python benchmarks/scene.py.

The shipped scene model draws a clip of 18 views from random photos (what they show changes no time). CPU time on one thread, so
that other work on the machine matters little. PixelNeRF's time is mostly interpolation in its volumes, which are not matrix
products; its share says so.
"""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from v3d.cameras import orbit
from v3d.scene.model import SceneModel
from v3d.views import Views

VIEWS = 18


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


def main(sources: tuple[int, ...] = (1, 3, 6), steps: tuple[int, ...] = (0, 1, 6), repeats: int = 3) -> None:
    torch.set_num_threads(1)
    model = SceneModel.load()
    dtype = model.networks.dit.position.dtype
    a = torch.randn(1024, 1024, dtype=dtype)
    seconds, flops = measure(lambda: a @ a, 20)
    peak = flops / seconds
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, CPU time")
    print(f"product of 1024^2 matrices in {dtype}: {peak / 1e9:.0f} GFLOP/s\n")
    print("| photos | steps | seconds | views/s | GFLOP | share of the peak | peak memory |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    targets = orbit(VIEWS, radius=1.5, elevation=20.0, size=model.size)
    for count in sources:
        cameras = orbit(count, radius=1.4, elevation=25.0, size=model.size)
        rgb = torch.rand(count, model.size, model.size, 3, generator=torch.Generator().manual_seed(0))
        photos = Views(rgb, torch.ones(rgb.shape[:3]), cameras)
        for n in steps:
            seconds, flops = measure(lambda photos=photos, n=n: model(photos, targets, steps=n), repeats)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"| {count} | {n} | {seconds:.2f} | {VIEWS / seconds:.1f} | {flops / 1e9:.1f} | "
                f"{flops / seconds / peak:.0%} | {memory:.2f} GB |"
            )


if __name__ == "__main__":
    tyro.cli(main)
