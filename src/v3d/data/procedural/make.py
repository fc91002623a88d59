"""`v3d make-objects`: objects put together of random parts, to learn from beside real ones.

What a network must know to turn a photo is how things are built: that they are symmetric, stand on legs, are
round about an axis, wear labels (`v3d.data.procedural.kinds`). LRM-Zero (Xie et al. 2024) learned to
reconstruct from random parts alone.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from v3d.callbacks import OnProgress
from v3d.data.combining import join
from v3d.data.jobs import counted, worker_pool
from v3d.data.procedural.kinds import KINDS
from v3d.data.procedural.paint import Painter
from v3d.data.warps import random_warp
from v3d.errors import V3DError
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh

_OBJECTS = 1_000_003  # between the numbers of two seeds


def procedural_object(seed: int) -> Mesh:
    """The textured object that belongs to this number: z up, its front towards +x."""
    rng = random.Random(seed)
    kinds, weights = zip(*KINDS.items(), strict=True)
    parts = rng.choices(kinds, weights)[0](rng, Painter(rng))
    mesh = join(parts)
    if rng.random() < 0.3:  # nothing grown or worn is quite straight
        warp = random_warp(torch.Generator().manual_seed(rng.getrandbits(60)))
        mesh = replace(mesh, vertices=warp(mesh.vertices))
    return mesh


def make_objects(
    count: int,
    out: Path,
    *,
    seed: int = 0,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> None:
    """Write `count` objects as GLB files into `out`; those that are there stay as they are.

    Args:
        count: objects in all.
        out: folder of the files `procedural-SEED-NUMBER.glb`.
        seed: every seed has objects of its own.
        workers: processes.
        on_progress: called with ("objects", how many are done, how many in all).

    Raises:
        V3DError: fewer than one object is asked for, or the folder cannot be written.
    """
    if count < 1:
        raise V3DError("Ask for one object or more, for example: v3d make-objects 1000 -o objects")
    show = on_progress or (lambda stage, done, total: None)
    with worker_pool(workers) as do:
        for _ in counted(do(partial(_make, out=out, seed=seed), range(count)), "objects", count, show):
            pass


def _make(number: int, out: Path, seed: int) -> None:
    path = out / f"procedural-{seed}-{number:06d}.glb"
    if not path.exists():
        save_glb(procedural_object(seed * _OBJECTS + number), path)
