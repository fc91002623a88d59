"""OrbitDiT's guided step against the machine's own matrix-product peak: python benchmarks/dit.py.

Both are measured in this run, on one thread, in CPU time, so that other work on the machine matters little.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.diffusion.dit import Geometry, OrbitDiT, load_dit
from v3d.runtime import has_fast_bfloat16, tune_malloc


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Best CPU time of a call."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


@dataclass(frozen=True)
class Step:
    """One guided denoiser call of many: conditional and unconditional as a batch of two."""

    net: OrbitDiT
    geometry: Geometry

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        c = self.net.config
        x = torch.zeros(2, ORBIT_VIEWS, c.latent_channels, c.latent_size, c.latent_size)
        keep = torch.tensor([True, False])
        return self.net(x, torch.zeros(2), x[:, :1], keep, self.geometry, x)


def main(size: int = 1024, repeats: int = 10) -> None:
    torch.set_num_threads(1)
    tune_malloc()  # as the pipeline does
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, CPU time")
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not has_fast_bfloat16():
            continue
        a = torch.randn(size, size, dtype=dtype)
        peak = 2 * size**3 / seconds(lambda a=a: a @ a, repeats)
        net = load_dit().to(dtype)
        step = Step(net, Geometry.of(orbit(ORBIT_VIEWS), net.grid)[[0, *range(ORBIT_VIEWS)]])
        with FlopCounterMode(display=False) as counter:
            step()
        flops = counter.get_total_flops()
        duration = seconds(step, repeats)
        rate = flops / duration
        print(
            f"{dtype!s:15} step {duration * 1e3:7.1f} ms, {flops / 1e9:5.2f} GFLOP, {rate / 1e9:6.1f} GFLOP/s; "
            f"product of {size}^2 matrices {peak / 1e9:6.1f} GFLOP/s; share {rate / peak:.0%}"
        )


if __name__ == "__main__":
    tyro.cli(main)
