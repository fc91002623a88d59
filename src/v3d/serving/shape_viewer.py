"""The page that shows what a job made: the one it wrote, or one that is made when somebody looks."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from v3d.serving.store import Job, JobStore


def viewer_of(store: JobStore, job: Job) -> Path:
    """The HTML file that shows a job's Gaussians and mesh.

    Raises:
        KeyError: the job has neither, or they are gone.
        V3DError: they cannot be read.
    """
    with suppress(KeyError):
        return store.result(job, "viewer.html")
    path = store.root / job.id / "viewer.html"
    if path.is_file():
        return path
    splats, mesh = _found(store, job, "splats.ply"), _found(store, job, "mesh.glb")
    if splats is None and mesh is None:
        raise KeyError(job.id)
    from v3d.meshes.files import load_mesh
    from v3d.objects.exports import save_viewer
    from v3d.splats.files.ply import load_ply

    save_viewer(
        path,
        None if splats is None else load_ply(splats),
        None if mesh is None else load_mesh(mesh),
        title=job.request.get("name") or job.kind,
    )
    return path


def _found(store: JobStore, job: Job, name: str) -> Path | None:
    try:
        return store.result(job, name)
    except KeyError:
        return None
