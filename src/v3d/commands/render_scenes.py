"""`v3d render-scenes`: meshes -> data of synthetic scenes. (Imports nothing heavy until it runs.)"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from v3d.commands.shared import Out
from v3d.data.settings import RenderScenesSettings


def render_scenes(
    meshes: Positional[tuple[Path, ...]],
    /,
    out: Out = Path("scenes"),
    settings: OmitArgPrefixes[RenderScenesSettings] = RenderScenesSettings(),  # noqa: B008 (frozen)
    workers: int = 1,
) -> None:
    """Meshes -> synthetic scenes for training: objects on textured ground, seen by moving cameras.

    Args:
        meshes: as for `v3d render`.
        out: folder of the data and of manifest.json; a job that was stopped goes on when it is started again.
        settings: see `v3d.data.settings`.
        workers: processes.
    """
    from v3d.data.render_scenes import render_scenes as run
    from v3d.progress import ProgressDisplay

    with ProgressDisplay() as show:
        show.title(f"{len(meshes)} inputs -> {out}")
        report = run(meshes, out, settings, workers=workers, on_progress=show)
    refused = [entry["refused"] for entry in report["objects"] if entry["refused"] is not None]
    print(
        f"{report['scenes']} scenes; {len(refused)} objects refused, {len(report['failures'])} scenes failed:"
        f" reasons in {out / 'manifest.json'}"
    )
    reasons = Counter([*refused, *(failure["reason"] for failure in report["failures"])])
    for reason, count in reasons.most_common(3):
        print(f"  {count} x {reason}")
