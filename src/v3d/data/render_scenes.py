"""`v3d render-scenes`: meshes -> shards of synthetic scenes, resumable (`v3d.data.scene_shards` reads them).

A shard is `scenes-00000.safetensors`: `rgb` uint8 [N, V, H, W, 3], `c2w` [N, V, 4, 4], `K` [N, V, 3, 3],
`depth` float16 [N, V, H/4, W/4] (camera z at the pixel centres of that size, 0 for sky); metadata `numbers`,
`objects` and `licences` (JSON lists, one entry a scene). Scene k depends on the seed, k and the objects only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v3d.callbacks import OnProgress
from v3d.data.jobs import counted, finished, reason_of, survey, worker_pool
from v3d.data.random_numbers import integer
from v3d.data.records import save_tensors
from v3d.data.scene_layout import MOST_OBJECTS, random_scene
from v3d.data.scene_rendering import DEPTH_STEP, render_scene
from v3d.data.settings import RenderScenesSettings
from v3d.data.sources import Source
from v3d.errors import V3DError
from v3d.files import write_json


def render_scenes(
    meshes: Sequence[Path],
    out: Path,
    settings: RenderScenesSettings,
    *,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Render scenes of these meshes into `out`, going on where an interrupted run stopped.

    Args:
        meshes: mesh files, folders, manifests (.json), packed corpora (.npz).
        out: folder of the data and of `manifest.json`.
        settings: how many scenes of which objects, and how large.
        workers: processes.
        on_progress: called with ("check" or "render", how many are done, how many in all).

    Returns:
        What `out/manifest.json` says: settings, objects (with the reason for each that was refused),
        licences, scenes, and scenes that failed.

    Raises:
        V3DError: no mesh is there, none is of use, a number is too small, `size` is no multiple of 4, or
            `out` holds data of other settings.
    """
    if settings.size % DEPTH_STEP:
        raise V3DError(f"Views of {settings.size} pixels: the side must be a multiple of {DEPTH_STEP}.")
    show = on_progress or (lambda stage, done, total: None)
    failures: list[dict[str, str]] = []
    with worker_pool(workers) as do:
        usable, report = survey(meshes, out, settings, do, show)
        shards = range(-(-settings.scenes // settings.per_shard))
        work = partial(render_scene_shard, sources=usable, out=out, settings=settings)
        for result in counted(do(work, shards), "render", len(shards), show):
            failures += result
    report |= {"scenes": settings.scenes - len(failures), "failures": failures}
    write_json(out / "manifest.json", report)
    return report


def render_scene_shard(
    number: int, *, sources: Sequence[Source], out: Path, settings: RenderScenesSettings
) -> list[dict[str, str]]:
    """Render one shard unless it is there already; returns the scenes that failed, with reasons."""
    done = out / f".done/{number:05d}.json"
    if (earlier := finished(done)) is not None:
        return earlier
    rows: list[dict[str, Tensor]] = []
    about: dict[str, list[Any]] = {"numbers": [], "objects": [], "licences": []}
    failures = []
    first = number * settings.per_shard
    for k in range(first, min(first + settings.per_shard, settings.scenes)):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + k)
        chosen = choose(sources, generator)
        names = [source.id for source in chosen]
        try:
            scene = random_scene([s.load() for s in chosen], settings.views, settings.size, generator)
            rgb, depth = render_scene(scene)
        except Exception as error:
            failures.append({"scene": str(k), "objects": ", ".join(names), "reason": reason_of(error)})
            continue
        rows.append(
            {
                "rgb": (rgb * 255 + 0.5).to(torch.uint8),
                "c2w": scene.cameras.c2w,
                "K": scene.cameras.K,
                "depth": depth.half(),
            }
        )
        about["numbers"].append(k)
        about["objects"].append(names)
        about["licences"].append(sorted({source.licence for source in chosen}))
    if rows:
        tensors = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        metadata = {key: json.dumps(value) for key, value in about.items()}
        save_tensors(tensors, out / f"scenes-{number:05d}.safetensors", metadata)
    write_json(done, failures)
    return failures


def choose(sources: Sequence[Source], generator: torch.Generator) -> list[Source]:
    """The objects of one scene, chosen at random: one to `MOST_OBJECTS`, all different."""
    count = 1 + integer(generator, 0, MOST_OBJECTS)
    return [sources[i] for i in torch.randperm(len(sources), generator=generator)[:count].tolist()]
