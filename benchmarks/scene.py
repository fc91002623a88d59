"""New views of a scene a second, memory, and share of the matrix-product peak: python benchmarks/scene.py.

The shipped scene model generates a clip of 18 views from random photos (what they show changes no time).
CPU time on one thread, so that other work on the machine matters little. PixelNeRF's time is mostly
interpolation in its volumes, which are not matrix products; its share says so.
"""

from __future__ import annotations

import resource

import torch
import tyro

from cpu import measure, peak, use_one_thread
from v3d.cameras import orbit
from v3d.scene.model import SceneModel
from v3d.views import Views

VIEWS = 18


def main(sources: tuple[int, ...] = (1, 3, 6), steps: tuple[int, ...] = (0, 1, 6), repeats: int = 3) -> None:
    """Print a table of seconds, views a second, GFLOP and memory.

    Args:
        sources: numbers of photos.
        steps: numbers of sampler steps.
        repeats: runs of each; the fastest counts.
    """
    print(use_one_thread())
    model = SceneModel.load()
    dtype = model.networks.dit.position.dtype
    best = peak(dtype)
    print(f"product of 1024^2 matrices in {dtype}: {best / 1e9:.0f} GFLOP/s\n")
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
                f"{flops / seconds / best:.0%} | {memory:.2f} GB |"
            )


if __name__ == "__main__":
    tyro.cli(main)
