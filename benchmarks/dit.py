"""OrbitDiT's guided step against the machine's own matrix-product peak: python benchmarks/dit.py.

Both are measured in this run, on one thread, in CPU time, so that other work on the machine matters little.
"""

from __future__ import annotations

from functools import partial

import torch
import tyro

from cpu import measure, peak, use_one_thread
from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.diffusion.dit import Geometry, OrbitDiT, load_dit
from v3d.runtime import has_fast_bfloat16


@torch.no_grad()
def step(net: OrbitDiT, geometry: Geometry) -> torch.Tensor:
    """One guided denoiser call of many: conditional and unconditional as a batch of two."""
    x = torch.zeros(2, ORBIT_VIEWS, 4, net.config.size, net.config.size)
    warped = torch.zeros(2, ORBIT_VIEWS, net.config.warps, 5, net.config.size, net.config.size)
    keep = torch.tensor([True, False])
    return net(x, torch.zeros(2), x[:, :1], keep, geometry, x, warped)


def main(size: int = 1024, repeats: int = 20) -> None:
    """Measure in every precision that this machine is fast at."""
    print(use_one_thread())
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not has_fast_bfloat16():
            continue
        net, best = load_dit().to(dtype), peak(dtype, size)
        geometry = Geometry.of(orbit(ORBIT_VIEWS), net.config.grid)[[0, *range(ORBIT_VIEWS)]]
        seconds, flops = measure(partial(step, net, geometry), repeats)
        print(
            f"{dtype!s:15} step {seconds * 1e3:7.1f} ms, {flops / 1e9:5.2f} GFLOP, "
            f"{flops / seconds / 1e9:6.1f} GFLOP/s; product of {size}^2 matrices "
            f"{best / 1e9:6.1f} GFLOP/s; share {flops / seconds / best:.0%}"
        )


if __name__ == "__main__":
    tyro.cli(main)
