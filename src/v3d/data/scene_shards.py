"""Rendered scenes of a folder as one list, read lazily (`v3d.data.render_scenes` says what a shard holds)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from v3d.cameras import Cameras
from v3d.data.shards import UNREADABLE
from v3d.errors import V3DError

log = logging.getLogger(__name__)


class SceneShards:
    """All scenes of a folder, by index, read lazily.

    `self[i]` is `(rgb, cameras, depth)`: `rgb` uint8 [V, H, W, 3]; `depth` float16 [V, H/4, W/4], camera z at
    the pixel centres of `cameras.resized(W // 4, H // 4)`, 0 for sky.

    Attributes:
        folder: of the shards.
        skipped: shards that could not be read, each logged once.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open every shard of a folder; damaged ones are skipped.

        Raises:
            V3DError: the folder holds no readable scene.
        """
        self.folder = Path(folder)
        self.skipped: list[Path] = []
        self._index: list[tuple[Any, int]] = []  # the open shard of each scene, and its row there
        self._objects: list[list[str]] = []
        self._keys: list[str] = []
        for path in sorted(self.folder.glob("scenes-*.safetensors")):
            try:
                file: Any = safe_open(path, "pt")
                objects = json.loads(file.metadata()["objects"])
                count = file.get_slice("rgb").get_shape()[0]
            except UNREADABLE as error:
                log.warning("skipped %s: %s", path, error)
                self.skipped.append(path)
                continue
            self._index += [(file, row) for row in range(count)]
            self._objects += objects
            self._keys += [f"{path.stem}-{row:04d}" for row in range(count)]
        if not self._index:
            raise V3DError(
                f"{folder} holds no rendered scenes (scenes-*.safetensors); make some with v3d render-scenes."
            )

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> tuple[Tensor, Cameras, Tensor]:
        file, row = self._index[i]
        rgb, c2w, K, depth = (file.get_slice(name)[row] for name in ("rgb", "c2w", "K", "depth"))
        return rgb, Cameras(c2w, K, rgb.shape[2], rgb.shape[1]), depth

    def objects(self, i: int) -> list[str]:
        """Names of the objects of scene i."""
        return self._objects[i]

    def key(self, i: int) -> str:
        """A name of scene i, of its shard and its row there, which stays when other shards arrive."""
        return self._keys[i]
