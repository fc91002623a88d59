"""Results of jobs where a browser may have them: linked into a folder of the page, and nothing else in it."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import torch

from v3d.errors import V3DError
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.serving.store import Job, JobStore

_MODELS = (".glb", ".ply", ".splat", ".spz", ".obj", ".mtl", ".stl", ".3mf", ".usdz")
_SUFFIXES = (*_MODELS, ".mp4", ".png", ".json")
NORMALS = "normals.glb"


class Shown:
    """The page's folder."""

    def __init__(self, store: JobStore, folder: Path) -> None:
        """`folder`: every file in it may be read by whoever reaches the page."""
        self._store, self._folder = store, folder

    def tidy(self) -> None:
        """Remove what belonged to jobs that are gone."""
        for path in self._folder.glob("*"):
            if path.name not in self._store:
                shutil.rmtree(path, ignore_errors=True)

    def results(self, job: Job) -> dict[str, str]:
        """Name -> path of the results that are there; those that somebody removed are left out."""
        out = {}
        for name in job.files:
            if name.endswith(_SUFFIXES) and "/" not in name:
                try:
                    out[name] = self.link(self._store.result(job, name), job.id, name)
                except (KeyError, OSError):
                    continue
        return out

    def views(self, job: Job) -> list[Path]:
        """The views as soon as they are drawn."""
        folder = self._store.root / job.id / "result/views"
        if not folder.with_name("transforms.json").is_file():
            return []
        return [Path(self.link(path, job.id, f"view_{path.name}")) for path in sorted(folder.glob("*.png"))]

    def link(self, path: Path, id: str, name: str) -> str:
        """The absolute path of a file in the page's folder."""
        target = self._folder / id / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except FileExistsError:
                pass  # another browser asked at the same time
            except OSError:  # another disk
                shutil.copyfile(path, target)
        return str(target.absolute())

    def archive(self, job: Job, files: list[str]) -> str:
        """All results in one zip."""
        path = self._folder / job.id / "all.zip"
        if not path.exists():
            temporary = path.with_suffix(f".{os.urandom(4).hex()}")
            with zipfile.ZipFile(temporary, "w") as archive:
                for file in files:
                    archive.write(file, Path(file).name)
            temporary.replace(path)
        return str(path.absolute())

    def normals(self, job: Job) -> str | None:
        """The mesh with its normals for colours, or None where there is no mesh."""
        target = self._folder / job.id / NORMALS
        try:
            if not target.exists():
                mesh = load_mesh(self._store.result(job, "mesh.glb"))
                target.parent.mkdir(parents=True, exist_ok=True)
                save_glb(coloured_by_normals(mesh), target)
        except (KeyError, OSError, V3DError):
            return None
        return str(target.absolute())


def coloured_by_normals(mesh: Mesh) -> Mesh:
    """The mesh with a face a colour: (normal + 1) / 2 as red, green, blue.

    Faces share no vertices, so that each shows one texel of a square of all directions (octahedral).
    """
    side = 64
    normal = mesh.face_normals / mesh.face_normals.abs().sum(-1, keepdim=True).clamp_min(1e-9)
    below = normal[:, 2:] < 0
    folded = (1 - normal[:, [1, 0]].abs()) * torch.where(normal[:, :2] < 0, -1.0, 1.0)
    uv = (torch.where(below, folded, normal[:, :2]) + 1) / 2
    uv = ((uv * side).floor().clamp(0, side - 1) + 0.5) / side
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(at, at, indexing="ij")
    z = 1 - x.abs() - y.abs()
    unfolded = [torch.where(z < 0, (1 - b.abs()) * a.sign(), a) for a, b in ((x, y), (y, x))]
    texture = (torch.nn.functional.normalize(torch.stack([*unfolded, z], -1), dim=-1) + 1) / 2
    faces = torch.arange(3 * len(mesh.faces)).view(-1, 3)
    return Mesh(mesh.vertices[mesh.faces].reshape(-1, 3), faces, uv.repeat_interleave(3, 0), texture)
