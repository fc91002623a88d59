"""What a worker can be asked to do: the product's own functions with their arguments, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from v3d.callbacks import OnProgress
from v3d.settings import GenerateSettings


@dataclass(frozen=True)
class Made:
    """What a task left behind.

    Attributes:
        folder: of the results.
        warnings: what the user should know, one sentence each.
        files: names of the results in the folder.
    """

    folder: Path
    warnings: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class GenerateTask:
    """Photos of one object become an asset.

    Attributes:
        photos: azimuth in degrees -> image file; 0 is the front.
        out: the folder that gets the asset's folder.
        settings: of the run.
        name: of the asset's folder; by default that of the front photo.
    """

    photos: Mapping[float, Path]
    out: Path
    settings: GenerateSettings
    name: str | None = None

    def __call__(self, on_progress: OnProgress) -> Made:
        """Carry the task out.

        Raises:
            V3DError: a photo, the weights or the folder cannot be used.
        """
        from v3d.objects import pipeline

        asset = pipeline.generate(
            dict(self.photos), self.out, self.settings, name=self.name, on_progress=on_progress
        )
        files = [file for stage in asset.report["stages"].values() for file in stage["files"]]
        return Made(asset.folder, tuple(asset.report["warnings"]), tuple(files))
