"""What the video model is shown and asked for: views of orbits and scenes, and their guides, which are drawn once.

PixelNeRF takes far longer to draw a view than the video model to learn from it, so its views are kept in files beside
the data, named after the network's weights and the size it draws at. Recoloured and mirrored copies are made of both together, every time anew.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from v3d.cameras import ORBIT_VIEWS, Cameras, orbit
from v3d.data.orbit_shards import OrbitShards, check_cameras, recoloured
from v3d.data.scene_shards import SceneShards
from v3d.data.shards import UNREADABLE, Shard
from v3d.diffusion.guide import Guide, make_guide, render_views
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.networks.pixelnerf import PixelNeRF
from v3d.weights.storage import weights_fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One set of views.

    Attributes:
        views: [V, 4, S, S] in [-1, 1], colour on white, then alpha.
        guide: of the views.
        photos: [N, 4, S, S].
        cameras: of the N photos, then of the V views.
    """

    views: Tensor
    guide: Guide
    photos: Tensor
    cameras: Cameras


class OrbitGuides:
    """The orbits of a folder: the source is the photo."""

    def __init__(self, folder: Path, pixelnerf: PixelNeRF, warps: int) -> None:
        """Draw the guides that are not in the cache. Shards whose images cannot be decoded are logged and skipped.

        Raises:
            V3DError: the orbits are not 18 views at elevation 0, differ in size, or none can be read.
        """
        self._warps, self._opaque = warps, pixelnerf.config.opaque
        mark = f"{weights_fingerprint(pixelnerf)}-{pixelnerf.config.drawn}"
        self._index: list[tuple[Shard, int, Any]] = []
        shards = OrbitShards(folder)
        for path, shard in shards.shards():
            check_cameras(path, shard)
            cache = path.with_name(f"guides-{mark}-{path.stem}.safetensors")
            try:
                found = _open(cache) or self._make(cache, shard, pixelnerf)
            except UNREADABLE as error:
                log.warning("skipped %s: %s", path, error)
                continue
            self._index += [(shard, row, found) for row in range(len(shard.ids))]
        if not self._index:
            raise V3DError(f"None of the orbits in {folder} can be read.")
        if len({tuple(f.get_slice("images").get_shape()[1:]) for _, _, f in self._index}) > 1:
            raise V3DError(f"The orbits in {folder} differ in size; train on one size at a time.")
        self.size = int(self._index[0][2].get_slice("images").get_shape()[-1])

    @staticmethod
    def _make(cache: Path, shard: Shard, pixelnerf: PixelNeRF) -> Any:
        rows = []
        for row in range(len(shard.ids)):
            photo, cameras = _images(shard.photo(row)[None]), orbit(ORBIT_VIEWS)
            shard.views(row)  # a damaged one shows itself here, not in the middle of the training
            rows.append(draw_bytes(pixelnerf, photo, cameras[0], cameras))
        images, depth = (torch.stack(part) for part in zip(*rows, strict=True))
        return _keep(cache, {"images": images, "depth": depth})

    def __len__(self) -> int:
        return len(self._index)

    def draw(self, i: int, sources: int, views: int, generator: torch.Generator) -> Example:
        """`views` random views of orbit i (all of them in order, if they are 18) in a random appearance."""
        shard, row, found = self._index[i]
        frames = torch.arange(ORBIT_VIEWS)
        if views < ORBIT_VIEWS:
            frames = torch.randperm(ORBIT_VIEWS, generator=generator)[:views]
        guide, depth = (found.get_slice(name)[row][frames] for name in ("images", "depth"))
        rows = [shard.photo(row), *(shard.view(row, k) for k in frames.tolist())]
        images, mirrored = recoloured(torch.cat([torch.stack(rows), guide.permute(0, 2, 3, 1)]), generator)
        x = _images(images)
        if mirrored:
            frames, depth = -frames % ORBIT_VIEWS, depth.flip(-1)
        photos, cameras = x[:1], orbit(ORBIT_VIEWS)[[0, *frames.tolist()]]
        seen = make_guide(
            x[1 + views :], depth.float(), photos, cameras[:1], cameras[1:], self._warps, opaque=self._opaque
        )
        return Example(x[1 : 1 + views], seen, photos, cameras)


class SceneGuides:
    """The scenes of a folder: of each, a choice of photos and of views for every number of photos."""

    def __init__(
        self, folder: Path, pixelnerf: PixelNeRF, warps: int, counts: Sequence[int], views: int
    ) -> None:
        """Draw the guides that are not in the cache.

        Args:
            counts: numbers of photos; views: of a choice.

        Raises:
            V3DError: the folder holds no scenes, or they have too few views.
        """
        self._warps, self._opaque = warps, pixelnerf.config.opaque
        self._shards = SceneShards(folder)
        if (there := len(self._shards[0][0])) < max(counts) + views:
            raise V3DError(
                f"Scenes in {folder} have {there} views, too few for {max(counts)} photos and {views} others: lower "
                "--source-counts or --views, or render longer clips."
            )
        mark = "-".join(map(str, (weights_fingerprint(pixelnerf), pixelnerf.config.drawn, *counts, views)))
        self._choices: list[Any] = []
        for i in range(len(self._shards)):
            cache = folder / f".guides-{mark}/{i:06d}.safetensors"
            self._choices.append(_open(cache) or self._make(cache, i, pixelnerf, counts, views))
        self.size = self._shards[0][0].shape[1]

    def _make(self, cache: Path, i: int, pixelnerf: PixelNeRF, counts: Sequence[int], views: int) -> Any:
        rgb, cameras, _ = self._shards[i]
        x, generator = _images(rgb), torch.Generator().manual_seed(zlib.crc32(f"{i} {len(rgb)}".encode()))
        tensors: dict[str, Tensor] = {}
        for n in counts:
            chosen = torch.randperm(len(rgb), generator=generator)[: n + views]
            images, depth = draw_bytes(pixelnerf, x[chosen[:n]], cameras[chosen[:n]], cameras[chosen[n:]])
            tensors |= {f"chosen{n}": chosen, f"images{n}": images[:, :3].contiguous(), f"depth{n}": depth}
        return _keep(cache, tensors)

    def __len__(self) -> int:
        return len(self._shards)

    def draw(self, i: int, sources: int, views: int, generator: torch.Generator) -> Example:
        """The choice of `sources` photos of scene i and its first `views` views, colour channels permuted."""
        found = self._choices[i]
        chosen, guide, depth = (
            found.get_slice(f"{name}{sources}")[:] for name in ("chosen", "images", "depth")
        )
        chosen = chosen[: sources + views]
        rgb, cameras, _ = self._shards[i]
        channels = torch.randperm(3, generator=generator)
        x = _images(rgb[chosen][..., channels])
        drawn = _images(guide[:views].permute(0, 2, 3, 1)[..., channels])
        photos, (given, new) = x[:sources], (cameras[chosen[:sources]], cameras[chosen[sources:]])
        seen = make_guide(drawn, depth[:views].float(), photos, given, new, self._warps, opaque=self._opaque)
        return Example(x[sources:], seen, photos, cameras[chosen])


@torch.no_grad()
def draw_bytes(
    pixelnerf: PixelNeRF, photos: Tensor, photo_cameras: Cameras, cameras: Cameras
) -> tuple[Tensor, Tensor]:
    """PixelNeRF's views as uint8 [V, 4, S, S], and their depth as float16."""
    images, depth = render_views(pixelnerf, photos.to(pixelnerf.position.device), photo_cameras, cameras)
    return (images.add(1).mul(127.5).add(0.5).clamp(0, 255)).to(torch.uint8).cpu(), depth.half().cpu()


def _images(pixels: Tensor) -> Tensor:
    """uint8 [V, H, W, 3 or 4] -> [V, 4, H, W] in [-1, 1]; without alpha it is 1."""
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    return x if x.shape[1] == 4 else torch.cat([x, torch.ones_like(x[:, :1])], 1)


def _open(cache: Path) -> Any:
    """The file, its tensors read when they are asked for; None where it is missing or damaged."""
    try:
        return safe_open(cache, "pt")
    except (OSError, SafetensorError):
        return None


def _keep(cache: Path, tensors: dict[str, Tensor]) -> Any:
    with atomic(cache) as temporary:
        save_file(tensors, temporary)
    return safe_open(cache, "pt")
