"""Results of jobs where a browser may have them: linked into a folder of the page, and nothing else in it."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from v3d.serving.store import Job, JobStore, is_for_clients

_MODELS = (".glb", ".ply", ".splat", ".spz", ".obj", ".mtl", ".stl", ".3mf", ".usdz")
_SUFFIXES = (*_MODELS, ".mp4", ".png", ".json", ".html")


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
            if name.endswith(_SUFFIXES) and is_for_clients(name):
                try:
                    out[name] = self.link(self._store.result(job, name), job.id, _flat(name, job))
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

    def archive(self, job: Job, files: dict[str, str]) -> str:
        """All results in one zip, by their names."""
        path = self._folder / job.id / f"{job.request.get('name') or 'all'}.zip"
        if not path.exists():
            temporary = path.with_suffix(f".{os.urandom(4).hex()}")
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, file in files.items():
                    archive.write(file, name)
            temporary.replace(path)
        return str(path.absolute())


def _flat(name: str, job: Job) -> str:
    """What a result is called in one list: files name each other, so most keep their names."""
    own = name.removeprefix("finished/")
    return own if own == name or own not in job.files else f"finished_{own}"
