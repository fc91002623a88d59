"""`v3d make-objects`: procedural objects. (Imports nothing heavy until it runs.)"""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from v3d.commands.shared import Out


def make_objects(
    count: Positional[int],
    /,
    out: Out = Path("objects"),
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Procedural objects (GLB) to learn from beside your own, or without any.

    Args:
        count: how many.
        out: folder; objects that are there already stay.
        seed: every seed has objects of its own.
        workers: processes.
    """
    from v3d.data.procedural.make import make_objects as run
    from v3d.progress import ProgressDisplay

    with ProgressDisplay() as show:
        show.title(f"{count} objects -> {out}")
        run(count, out, seed=seed, workers=workers, on_progress=show)
