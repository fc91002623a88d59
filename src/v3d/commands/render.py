"""`v3d render`: meshes -> orbit data. (Imports nothing heavy until it runs.)"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from v3d.commands.shared import Out
from v3d.data.settings import RenderSettings


def render(
    meshes: Positional[tuple[Path, ...]],
    /,
    out: Out = Path("data"),
    settings: OmitArgPrefixes[RenderSettings] = RenderSettings(),  # noqa: B008 (frozen)
    workers: int = 1,
) -> None:
    """Meshes -> orbit data for training.

    Args:
        meshes: GLB, glTF, OBJ, PLY, STL files, folders of them, manifests (JSON list with `file`, `id`,
            `split`, `licence`), or packed corpora (.npz).
        out: folder of the data and of manifest.json; a job that was stopped goes on when it is started again.
        settings: see `v3d.data.settings`.
        workers: processes.
    """
    from v3d.data.render_orbits import render_meshes
    from v3d.progress import ProgressDisplay

    with ProgressDisplay() as show:
        show.title(f"{len(meshes)} inputs -> {out}")
        report = render_meshes(meshes, out, settings, workers=workers, on_progress=show)
    refused = sum(entry["refused"] is not None for entry in report["objects"])
    print(
        f"{report['orbits']} orbits of {len(report['objects']) - refused} objects; {refused} objects refused,"
        f" {len(report['failures'])} orbits failed: reasons in {out / 'manifest.json'}"
    )
    reasons = Counter(entry["refused"] for entry in report["objects"] if entry["refused"] is not None)
    reasons.update(failure["reason"] for failure in report["failures"])
    for reason, count in reasons.most_common(3):
        print(f"  {count} x {reason}")
    noted = sum(bool(entry.get("notes")) for entry in report["objects"])
    if noted:
        print(f"{noted} objects show not all that their files say: see `notes` there")
