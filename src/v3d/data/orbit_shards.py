"""Rendered orbits of a folder, whatever their files, as one list."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from v3d.cameras import ORBIT_VIEWS, Cameras, orbit
from v3d.data.shards import Shard, open_shard
from v3d.errors import V3DError

log = logging.getLogger(__name__)


class OrbitShards:
    """All orbits of a folder, by index.

    `self[i]` is `(views [V, H, W, 4], photo [H, W, 4])`, uint8: colour on white, then alpha. Reads
    safetensors shards, WebDataset tars and folders of images (see `v3d.data.records`), lazily.

    Attributes:
        folder: that is searched.
        paths: the files that hold orbits, in order.
        skipped: those that could not be read, each logged once.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open every shard of a folder; damaged ones are skipped.

        Raises:
            V3DError: the folder holds no readable orbit.
        """
        self.folder = folder = Path(folder)
        candidates = [*folder.glob("orbits-*.safetensors"), *folder.glob("orbits-*.tar")]
        candidates += folder.rglob("transforms.json")
        self.paths: list[Path] = []
        self.skipped: list[Path] = []
        self._shards: list[Shard] = []
        for path in sorted(candidates):
            try:
                shard = open_shard(path)
            except V3DError as error:
                log.warning("skipped %s: %s", path, error)
                self.skipped.append(path)
                continue
            self.paths.append(path)
            self._shards.append(shard)
        self._index = [(shard, row) for shard in self._shards for row in range(len(shard.ids))]
        if not self._index:
            raise V3DError(
                f"{folder} holds no rendered orbits (orbits-*.safetensors, ...); make some with v3d render."
            )

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        shard, row = self._index[i]
        return shard.views(row), shard.photo(row)

    def view(self, i: int, k: int) -> Tensor:
        """View k (modulo the number of views) of orbit i, uint8 [H, W, 4], without reading the others."""
        shard, row = self._index[i]
        return shard.view(row, k % len(shard.cameras(row)))

    def photo(self, i: int) -> Tensor:
        """The photo of orbit i, uint8 [H, W, 4]."""
        shard, row = self._index[i]
        return shard.photo(row)

    def cameras(self, i: int) -> Cameras:
        """The cameras of the views of orbit i."""
        shard, row = self._index[i]
        return shard.cameras(row)

    def id(self, i: int) -> str:
        """The name of the object of orbit i."""
        shard, row = self._index[i]
        return shard.ids[row]

    def shards(self) -> list[tuple[Path, Shard]]:
        """The readable files and what they hold."""
        return list(zip(self.paths, self._shards, strict=True))


def check_cameras(path: Path, shard: Shard) -> None:
    """Refuse orbits that the models do not learn; views from all around may follow an orbit's own.

    Raises:
        V3DError: the first views of the shard are not an orbit of 18 views at elevation 0.
    """
    cameras = shard.cameras(0)[:ORBIT_VIEWS]
    if len(cameras) < ORBIT_VIEWS or not torch.allclose(cameras.c2w, orbit(ORBIT_VIEWS).c2w, atol=1e-3):
        raise V3DError(
            f"{path} does not hold orbits of {ORBIT_VIEWS} views at elevation 0, which the model learns."
        )


def recoloured(images: Tensor, generator: torch.Generator) -> tuple[Tensor, bool]:
    """Views [V, H, W, 4] uint8, with colour channels permuted and tinted, mirrored with probability 1/2.

    Exact in pixels, far cheaper than rendering, on any device.

    Returns:
        the images, and whether they are mirrored: if so, they show the views at the opposite azimuths.
    """
    x = images.float() / 255
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    if mirrored:
        x = x.flip(2)
    alpha = x[..., 3:]
    tint = (0.8 + 0.2 * torch.rand(3, generator=generator)).to(x.device)
    colour = (x[..., :3] - (1 - alpha))[..., torch.randperm(3, generator=generator)] * tint + 1 - alpha
    return (torch.cat([colour, alpha], -1).clamp(0, 1) * 255 + 0.5).to(torch.uint8), mirrored
