"""Held-out PSNR of Gaussians of a rendered room, by start, number of views and their agreement.

    python benchmarks/scene_fit.py [--iterations 300]

24 views on half a circle; six are held out. "few" photos are four of the others; "generated" views are the
other fourteen, true or made to disagree as generated views do (`v3d.evaluation.protocol.perturb`).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/scene"))
from room_scene import rendered, ring

from v3d.evaluation.protocol import perturb
from v3d.metrics import psnr, ssim
from v3d.scene import fit as scene_fit
from v3d.scene.fit import SceneFitSettings, fit_scene
from v3d.splats.rasterize import rasterize
from v3d.views import Views

HELD_OUT = [2, 6, 10, 14, 18, 22]
FEW = [0, 8, 16, 23]
MANY = [i for i in range(24) if i not in HELD_OUT]
REST = [i for i in MANY if i not in FEW]


def main() -> None:
    """Print a table of PSNR, SSIM, Gaussians and CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--points", type=int, default=6000)
    parser.add_argument("--size", type=int, default=96)
    arguments = parser.parse_args()
    views, depth = rendered(ring(24, arguments.size))
    # As a network has it: coarse, and unknown where a cell shows sky.
    coarse = F.avg_pool2d(depth[:, None], 4)[:, 0] * (
        F.avg_pool2d((depth > 0).float()[:, None], 4)[:, 0] > 0.99
    )
    truth = views[HELD_OUT]
    basis = SceneFitSettings(points=arguments.points)
    basis = replace(basis, fit=replace(basis.fit, iterations=arguments.iterations))

    def measure(
        name: str,
        given: Views,
        generated: Views | None = None,
        depth: Tensor | None = None,
        settings: SceneFitSettings = basis,
    ) -> None:
        start = time.process_time()
        splats = fit_scene(given, generated, depth, settings)
        seconds = time.process_time() - start
        with torch.no_grad():
            rgb = rasterize(splats, truth.cameras).over(1.0).clamp(0, 1)
        db, similarity = float(psnr(rgb, truth.rgb).mean()), float(ssim(rgb, truth.rgb).mean())
        print(f"| {name} | {db:.2f} | {similarity:.3f} | {len(splats)} | {seconds:.0f} |", flush=True)

    print("| views, start | PSNR | SSIM | Gaussians | CPU s |\n|---|---:|---:|---:|---:|")
    for name, photos in (("4 photos", FEW), ("18 photos", MANY)):
        measure(f"{name}, plane sweep", views[photos])
        sweep = scene_fit.sweep_depth
        scene_fit.sweep_depth = lambda given, **_: scene_fit._random_depth(given, 0)
        measure(f"{name}, random depths along their rays", views[photos])
        scene_fit.sweep_depth = sweep
    measure("4 photos and 14 true views with depth", views[FEW], views[REST], coarse[REST])
    disagreeing = perturb(views[REST])
    measure("4 photos and 14 disagreeing views", views[FEW], disagreeing, coarse[REST])


if __name__ == "__main__":
    main()
