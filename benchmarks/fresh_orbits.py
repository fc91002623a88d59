"""Training of PixelNeRF on orbits from disk against orbits that are rendered meanwhile, on a CPU.

    python benchmarks/fresh_orbits.py --meshes CORPUS.npz

Steps of the recipe's real size, turn by turn of the one and the other, in CPU seconds of this one thread, so
that what else the machine does counts little. Rendering happens in this process too (`--workers 0`) and is
timed apart: with worker processes another core does it.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro

from v3d.data.render_orbits import plan, render_chunk
from v3d.data.settings import FreshOrbits, RenderSettings
from v3d.data.sources import find_sources
from v3d.training.fresh_rays import AROUND, FreshRays
from v3d.training.learner import Learner
from v3d.training.processes import SINGLE_PROCESS
from v3d.training.recipe import PixelNeRFRecipe
from v3d.training.task import BatchShare
from v3d.training.tasks.pixelnerf import PixelNeRFTask


class Run:
    """A recipe in training, whose steps are timed."""

    def __init__(self, recipe: PixelNeRFRecipe) -> None:
        self.recipe, self.task = recipe, PixelNeRFTask(recipe)
        self.learner = Learner(self.task.network, recipe, SINGLE_PROCESS.precision(recipe.precision))
        self.rates: list[float] = []
        self.rendering = 0.0
        self.steps = 0

    def step(self) -> None:
        """One step: sets of photos a CPU second, without the rendering of orbits."""
        if isinstance(self.task.data, FreshRays):
            start = time.process_time()
            self.task.data.ring.advance(self.steps)
            self.rendering += (time.process_time() - start) * (self.steps > 0)  # not of the first orbits
        start, batch = time.process_time(), self.task.batch_size(self.steps, 0.0)
        share = BatchShare(
            self.steps, self.steps * batch, 0.0, batch, [*range(batch)], 0, torch.device("cpu")
        )
        self.task.losses(self.learner.compute, share)["loss"].mean().backward()
        gradients = self.learner.zero_gradients()
        self.learner.collect_gradients(gradients)
        self.learner.step(gradients, self.steps, 0.0)
        self.steps += 1
        self.rates.append(batch / (time.process_time() - start))


def main(meshes: Path, steps: int = 12, orbits: int = 32, lpips_share: float = 1.0) -> None:
    """Measure.

    Args:
        meshes: what `v3d render` takes.
        steps: of each, after one that does not count.
        orbits: on disk, and in memory before the first step.
        lpips_share: `--square-share` of both.
    """
    torch.set_num_threads(1)
    name = platform.processor() or platform.machine()
    print(f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    data = Path(tempfile.mkdtemp())
    settings = RenderSettings(around=AROUND)
    for chunk in plan(find_sources([meshes])[:orbits], settings):
        render_chunk(chunk, out=data, settings=settings)
    recipe = PixelNeRFRecipe(steps=steps, square_share=lpips_share)
    fresh = FreshOrbits(meshes=(meshes,), first_orbits=orbits)
    runs = {
        "from disk": Run(replace(recipe, data=data)),
        "fresh": Run(replace(recipe, fresh=fresh)),
    }
    for _ in range(steps + 1):
        for run in runs.values():
            run.step()
    for name, run in runs.items():
        rates = run.rates[1:]
        each = f"{1000 * run.rendering / max(1, run.steps - 1):.0f} ms of rendering a step"
        print(
            f"{name:12s} {statistics.median(rates):6.2f} samples a CPU second ({min(rates):.2f} to"
            f" {max(rates):.2f}), {each}"
        )


if __name__ == "__main__":
    tyro.cli(main)
