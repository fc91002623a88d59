"""Rendered scenes of a folder as one list, read lazily (`v3d.data.render_scenes` says what a shard holds)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from v3d.cameras import Cameras
from v3d.data.shards import reading
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
        self._index: list[tuple[Path, Any, int]] = []  # shard of each scene, opened, and the row there
        self._objects: list[list[str]] = []
        self._keys: list[str] = []
        for path in sorted(self.folder.glob("scenes-*.safetensors")):
            try:
                with reading(path):
                    file: Any = safe_open(path, "pt")
                    objects = json.loads(file.metadata()["objects"])
                    count = _scenes(file)
                    if type(objects) is not list or len(objects) != count:
                        raise ValueError(f"{count} scenes of which {len(objects)} are named")
            except V3DError as error:
                log.warning("skipped %s: %s", path, error)
                self.skipped.append(path)
                continue
            self._index += [(path, file, row) for row in range(count)]
            self._objects += objects
            self._keys += [f"{path.stem}-{row:04d}" for row in range(count)]
        if not self._index:
            raise V3DError(
                f"{folder} holds no rendered scenes (scenes-*.safetensors); make some with v3d render-scenes."
            )

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> tuple[Tensor, Cameras, Tensor]:
        path, file, row = self._index[i]
        with reading(path):
            rgb, c2w, K, depth = (file.get_slice(name)[row] for name in ("rgb", "c2w", "K", "depth"))
        return rgb, Cameras(c2w, K, rgb.shape[2], rgb.shape[1]), depth

    def objects(self, i: int) -> list[str]:
        """Names of the objects of scene i."""
        return self._objects[i]

    def key(self, i: int) -> str:
        """A name of scene i, of its shard and its row there, which stays when other shards arrive."""
        return self._keys[i]


def _scenes(file: Any) -> int:
    """How many scenes an open shard holds.

    Raises:
        ValueError: its tensors do not belong together.
    """
    shapes = [list(file.get_slice(name).get_shape()) for name in ("rgb", "c2w", "K", "depth")]
    N, V, H, W, _ = shapes[0]
    if shapes != [[N, V, H, W, 3], [N, V, 4, 4], [N, V, 3, 3], [N, V, H // 4, W // 4]]:
        raise ValueError(f"tensors of shapes {shapes} are no scenes")
    return int(N)
