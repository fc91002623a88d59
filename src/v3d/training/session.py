"""`v3d train`: a recipe and a folder -> a trained model in it."""

from __future__ import annotations

import os
from contextlib import closing, nullcontext
from pathlib import Path

import torch

from v3d.checks import POSITIVE, check_number, whole
from v3d.errors import V3DError
from v3d.files import locked
from v3d.runtime import tune_malloc
from v3d.settings import Device
from v3d.training import loop
from v3d.training.checkpoint import FILE, Progress, read_recipe
from v3d.training.loop import OnLine
from v3d.training.processes import SINGLE_PROCESS, Processes
from v3d.training.recipe import PixelNeRFRecipe, Recipe, SVDRecipe, VAERecipe, VideoRecipe
from v3d.training.task import Task
from v3d.training.tasks.pixelnerf import PixelNeRFTask
from v3d.training.tasks.vae import VAETask
from v3d.training.tasks.video import VideoTask
from v3d.weights import weights_folder


def train(
    recipe: Recipe,
    out: Path,
    *,
    minutes: float | None = None,
    init: str | Path | None = None,
    resume: bool = False,
    device: Device = "auto",
    threads: int | None = None,
    workers: int | None = None,
    on_line: OnLine | None = None,
) -> Progress:
    """Train the recipe's model in the folder `out`; `out/model` holds weights that load, always.

    Args:
        recipe: what is trained, and how.
        out: folder of the run.
        minutes: stop cleanly after so much time.
        init: "mini" or "mini-scene" (the weights that ship) or a folder of weights to start from.
        resume: go on from `out`'s checkpoint; `resume_training` takes the recipe from there, too.
        device: "auto" takes a CUDA device where there is one.
        threads: of torch on the CPU.
        workers: processes that render fresh orbits, where the recipe names meshes; 0 renders in this one,
            None takes all cores but one. Their number changes no result.
        on_line: called with every line of the log.

    Raises:
        V3DError: a number is outside of its range, data or weights are missing, `out` holds another run or
            one that goes on, the disk is full.
    """
    check_number("minutes", minutes, POSITIVE)
    check_number("threads", threads, whole(1, 4096))
    check_number("workers", workers, whole(0, 4096))
    if (out / FILE).exists() and not resume:
        raise V3DError(f"{out} holds a run already: v3d train resume {out}, or choose another folder.")
    tune_malloc()
    if threads is not None:
        torch.set_num_threads(threads)
    processes = Processes.open(device)
    workers = spare_cores() if workers is None else workers
    task = make_task(recipe, processes, None if init is None else weights_folder(init), workers)
    with closing(task), locked(out, "Another process trains") if processes.main else nullcontext():
        return loop.run(
            task, recipe, out, minutes=minutes, resume=resume, processes=processes, on_line=on_line
        )


def resume_training(
    out: Path,
    *,
    minutes: float | None = None,
    device: Device = "auto",
    threads: int | None = None,
    workers: int | None = None,
    on_line: OnLine | None = None,
) -> Progress:
    """Go on with the run in `out`, by the recipe in its checkpoint.

    Args:
        out: folder of the run.
        minutes: stop cleanly after so much time.
        device: "auto", "cpu" or "cuda".
        threads: of torch on the CPU.
        workers: processes that render fresh orbits, where the recipe names meshes; 0 renders in this one,
            None takes all cores but one. Their number changes no result.
        on_line: called with every line of the log.

    Raises:
        V3DError: the checkpoint or its data are missing, another process trains there, the disk is full.
    """
    recipe = read_recipe(out)
    return train(
        recipe,
        out,
        minutes=minutes,
        resume=True,
        device=device,
        threads=threads,
        workers=workers,
        on_line=on_line,
    )


def spare_cores() -> int:
    """Cores that this process may use, but for one; at least 1."""
    available = getattr(os, "sched_getaffinity", None)
    cores = len(available(0)) if available else os.cpu_count() or 1
    return max(1, cores - 1)


def make_task(
    recipe: Recipe, processes: Processes = SINGLE_PROCESS, init: Path | None = None, workers: int = 0
) -> Task:
    """Open the data and make the network that the recipe trains.

    Args:
        recipe: what is trained, and how.
        processes: this process among those that train together.
        init: folder of weights to start from.
        workers: processes that render fresh orbits for this one; 0 renders them in it.

    Raises:
        V3DError: data or weights are missing or do not fit the recipe.
    """
    if isinstance(recipe, VAERecipe):
        return VAETask(recipe, processes, init)
    if isinstance(recipe, PixelNeRFRecipe):
        return PixelNeRFTask(recipe, processes, init, workers)
    if isinstance(recipe, SVDRecipe):
        if init is not None:
            raise V3DError(
                "This recipe starts from the networks it names; say --model FOLDER instead of --init."
            )
        from v3d.training.tasks.svd import SVDTask  # needs the extra `official`

        return SVDTask(recipe, processes)
    assert isinstance(recipe, VideoRecipe)
    return VideoTask(recipe, processes, init, workers)
