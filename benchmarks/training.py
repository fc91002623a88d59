"""Throughput of data and training, for one and two processes.

    python benchmarks/training.py [--meshes CORPUS.npz]

- Rendering: orbits a second of `v3d render`, by worker processes, counted from finished shards once all
  workers are at work (their start does not count), and per CPU second.
- Loading: orbits a second found in shards (mapped into memory, read when looked at), and samples a second
  made ready for a step: four views, their guide and the warped photo.
- Training: the very command users run, `v3d train orbit` at the recipe's real size, each process on one
  thread; samples a second from its log, and the floating-point operations of the model (forward and backward,
  the optimiser's left out) against matrix products of the same type, measured in this run on as many threads.

Wall-clock rates mean something only on a machine that does nothing else; the load is printed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import trimesh
import tyro
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from v3d.data.jobs import worker_pool
from v3d.data.orbit_shards import OrbitShards
from v3d.data.render_orbits import plan, render_chunk
from v3d.data.settings import RenderSettings
from v3d.data.sources import find_sources
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.training.processes import SINGLE_PROCESS
from v3d.training.recipe import VideoRecipe
from v3d.training.task import BatchShare
from v3d.training.tasks.video import VideoTask

PRODUCT = 2048


def make_meshes(folder: Path, count: int, faces: int = 4000) -> None:
    """Textured ellipsoids of about as many triangles as real objects have."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    for i in range(count):
        g = torch.Generator().manual_seed(i)
        vertices = torch.tensor(np.asarray(ball.vertices), dtype=torch.float32) * (
            0.4 + torch.rand(3, generator=g)
        )
        uv = (torch.tensor(np.asarray(ball.vertices), dtype=torch.float32)[:, 1:] + 1) / 2
        mesh = Mesh(
            vertices, torch.tensor(np.asarray(ball.faces[:faces])), uv, torch.rand(256, 256, 3, generator=g)
        )
        save_glb(mesh, folder / f"{i:04d}.glb")


def rendering(meshes: Path, out: Path, orbits: int, workers: int, size: int) -> tuple[float, float]:
    """Orbits a second of wall time, and a CPU second of all workers together."""
    settings = RenderSettings(size=size, per_shard=2)
    chunks = plan(find_sources([meshes])[:orbits], settings)
    cpu = time.process_time() + _children()
    with worker_pool(workers) as do:
        list(do(partial(render_chunk, out=out, settings=settings), chunks))
    cpu = time.process_time() + _children() - cpu
    times = sorted(path.stat().st_mtime for path in (out / ".done").iterdir())
    wall = (times[-1] - times[workers - 1]) / max(len(times) - workers, 1) / settings.per_shard
    return 1 / wall, len(times) * settings.per_shard / cpu


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def loading(data: Path, task: VideoTask, samples: int) -> tuple[float, float]:
    """Orbits a second read from shards, samples a second made of views and their guides."""
    shards = OrbitShards(data)
    start = time.process_time()
    for i in range(samples):
        shards[i % len(shards)]
    images = samples / (time.process_time() - start)
    start = time.process_time()
    for i in range(samples):
        task.data.draw(i % len(task.data), 1, task.recipe.views, torch.Generator().manual_seed(i))
    return images, samples / (time.process_time() - start)


def flops(task: VideoTask) -> float:
    """Of one sample, forward and backward."""
    share = BatchShare(0, 0, 0.0, task.recipe.batch, [0, 1], 0, torch.device("cpu"))
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):  # fused attention is not counted
        task.losses(task.network, share)["loss"].sum().backward()
    return counter.get_total_flops() / 2


def product_rate(dtype: torch.dtype, threads: int) -> float:
    """Floating-point operations a second of a large matrix product."""
    torch.set_num_threads(threads)
    a = torch.randn(PRODUCT, PRODUCT).to(dtype)
    best = _best(lambda: a @ a)
    torch.set_num_threads(1)
    return 2 * PRODUCT**3 / best


def _best(run: Callable[[], object], seconds: float = 2.0) -> float:
    run()
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def training(recipe: str, data: Path, out: Path, count: int, seconds: float) -> float:
    """Samples a second of `count` processes training together, the first two steps left out."""
    arguments = ["--data", str(data), "--all-views-after", "1", "--device", "cpu"]
    arguments += ["--minutes", str(seconds / 60), "--steps", "0", "--log-steps", "1"]
    arguments += ["--save-minutes", "1000", "--threads", "1", "-o", str(out)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launch = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "WORLD_SIZE": str(count)}
    launch |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # what accelerate launch would set
    output = out.with_suffix(".txt")
    with output.open("w") as file:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "v3d", "train", recipe, *arguments],
                env={**os.environ, **launch, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=file,
                stderr=file,
            )
            for rank in range(count)
        ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit(f"v3d train {recipe} {' '.join(arguments)} failed:\n{output.read_text()}")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "samples" in line]
    if len(steps) < 4:
        raise SystemExit("Too few steps were done in that time; give more --seconds.")
    first, last = steps[1], steps[-1]
    return float(last["samples"] - first["samples"]) / (last["seconds"] - first["seconds"])


def main(
    meshes: Path | None = None,
    orbits: int = 32,
    seconds: float = 25.0,
    counts: tuple[int, ...] = (1, 2),
    smoke: bool = False,
    keep: Path | None = None,
) -> None:
    """Measure.

    Args:
        meshes: what `v3d render` takes; by default ellipsoids made up here.
        orbits: rendered for each point.
        seconds: of training for each point.
        counts: numbers of processes.
        smoke: the small recipe and small images, to see that it runs.
        keep: folder for the data and runs; by default a temporary one.
    """
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp()) if keep is None else keep
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    name = platform.processor() or platform.machine()
    print(f"{name}, {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}")
    size = 64 if smoke else 128
    if meshes is None:
        meshes = folder / "meshes"
        make_meshes(meshes, orbits)
    single = 0.0
    for count in counts:
        rate, per_core = rendering(meshes, folder / f"data{count}", orbits, count, size)
        single = single or rate
        print(
            f"render {size} px      {count} processes  {rate:7.2f} orbits/s  x{rate / single:.2f}"
            f"  {per_core:5.2f} orbits per CPU second" + (", start included" if count > 1 else ""),
            flush=True,
        )
    data = folder / f"data{counts[0]}"
    recipe = replace(VideoRecipe.smoke() if smoke else VideoRecipe(), data=data)
    task = VideoTask(recipe)
    images, guided = loading(data, task, 200)
    print(
        f"load            orbits {images:8.0f}/s  samples {guided:8.0f}/s, one process",
        flush=True,
    )
    per_sample, dtype = flops(task), SINGLE_PROCESS.precision(recipe.precision)
    single = 0.0
    for count in counts:
        peak = product_rate(dtype, count)
        run = folder / f"run{count}"
        rate = training("orbit-smoke" if smoke else "orbit", data, run, count, seconds)
        single = single or rate
        share = rate * per_sample / peak
        print(
            f"train orbit       {count} processes  {rate:7.2f} samples/s  x{rate / single:.2f}"
            f"  {per_sample / 1e9:.2f} GFLOP a sample, {rate * per_sample / 1e9:.0f} of"
            f" {peak / 1e9:.0f} GFLOP/s ({dtype}): {share:.1%}",
            flush=True,
        )
    if keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    tyro.cli(main)
