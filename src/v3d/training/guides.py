"""What the video model learns from: views of orbits and scenes, and their guides, which are rendered once.

PixelNeRF takes far longer to render a view than the video model to learn from it, so its views are kept in
files beside the data, named after the network's weights and the size of its images. Recoloured and mirrored
copies are made of views and guides together, every time anew.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from v3d.cameras import ORBIT_VIEWS, Cameras, orbit
from v3d.data.orbit_shards import OrbitShards, recoloured
from v3d.data.scene_shards import SceneShards
from v3d.data.shards import UNREADABLE, Shard
from v3d.diffusion.guide import Guide, make_guide, render_views
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.networks.pixelnerf import PixelNeRF
from v3d.weights.storage import weights_fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GuidedViews:
    """Views of one orbit or scene, with their guide.

    Attributes:
        views: [V, 4, S, S] in [-1, 1], colour on white, then alpha.
        guide: of the views.
        photos: [N, 4, S, S] in [-1, 1], colour on white, then alpha.
        cameras: of the N photos, then of the V views.
    """

    views: Tensor
    guide: Guide
    photos: Tensor
    cameras: Cameras


class Guides(Protocol):
    """Views with their guides, by index.

    Attributes:
        size: pixels of a view's side.
    """

    size: int

    def __len__(self) -> int: ...

    def draw(self, i: int, sources: int, views: int, generator: torch.Generator) -> GuidedViews:
        """`views` views of example i with `sources` photos, in a random appearance, and their guide."""
        ...


class OrbitGuides:
    """Orbits with guides of all their views: the source is the photo.

    Attributes:
        size: pixels of a view's side.
    """

    def __init__(self, shards: OrbitShards, pixelnerf: PixelNeRF, warps: int) -> None:
        """Render the guides that are not in the cache.

        Shards whose images cannot be decoded are logged and skipped.

        Args:
            shards: orbits of 18 views at elevation 0.
            pixelnerf: renders the guides.
            warps: photos that are warped to every view.

        Raises:
            V3DError: the orbits differ in size, or none can be read.
        """
        self._warps, self._opaque = warps, pixelnerf.config.opaque
        version = f"{weights_fingerprint(pixelnerf)}-{pixelnerf.config.drawn}"
        self._index: list[tuple[Shard, int, Any]] = []
        for path, shard in shards.shards():
            cache = path.with_name(f"guides-{version}-{path.stem}.safetensors")
            try:
                kept = _open(cache) or self._make(cache, shard, pixelnerf)
            except UNREADABLE as error:
                log.warning("skipped %s: %s", path, error)
                continue
            self._index += [(shard, row, kept) for row in range(len(shard.ids))]
        if not self._index:
            raise V3DError(f"None of the orbits in {shards.folder} can be read.")
        if len({tuple(f.get_slice("images").get_shape()[1:]) for _, _, f in self._index}) > 1:
            raise V3DError(f"The orbits in {shards.folder} differ in size; train on one size at a time.")
        self.size = int(self._index[0][2].get_slice("images").get_shape()[-1])

    @staticmethod
    def _make(cache: Path, shard: Shard, pixelnerf: PixelNeRF) -> Any:
        rows = []
        for row in range(len(shard.ids)):
            photo, cameras = images_of(shard.photo(row)[None]), orbit(ORBIT_VIEWS)
            shard.views(row)  # a damaged one shows itself here, not in the middle of the training
            rows.append(render_bytes(pixelnerf, photo, cameras[0], cameras))
        images, depth = (torch.stack(part) for part in zip(*rows, strict=True))
        return _keep(cache, {"images": images, "depth": depth})

    def __len__(self) -> int:
        return len(self._index)

    def draw(self, i: int, sources: int, views: int, generator: torch.Generator) -> GuidedViews:
        """`views` random views of orbit i (all 18 in order) and the photo, in a random appearance."""
        shard, row, kept = self._index[i]
        frames = torch.arange(ORBIT_VIEWS)
        if views < ORBIT_VIEWS:
            frames = torch.randperm(ORBIT_VIEWS, generator=generator)[:views]
        guide, depth = (kept.get_slice(name)[row][frames] for name in ("images", "depth"))
        views_of_orbit = torch.stack([shard.view(row, k) for k in frames.tolist()])
        photos = OrbitImages(shard.photo(row)[None], torch.zeros(1, dtype=torch.int64))
        return recoloured_orbit(
            photos,
            OrbitImages(views_of_orbit, frames),
            guide,
            depth,
            self._warps,
            generator,
            opaque=self._opaque,
        )


@dataclass(frozen=True)
class OrbitImages:
    """Images of an orbit.

    Attributes:
        images: uint8 [N, S, S, 4] colour on white, then alpha.
        frames: [N] which of the orbit's 18 cameras each was taken by.
    """

    images: Tensor
    frames: Tensor


def recoloured_orbit(
    photos: OrbitImages,
    views: OrbitImages,
    guide: Tensor,
    depth: Tensor,
    warps: int,
    generator: torch.Generator,
    *,
    opaque: bool,
) -> GuidedViews:
    """Views of an orbit with their guide, photos and guide in one random appearance.

    Args:
        photos: that the guide was rendered from.
        views: V of them.
        guide, depth: PixelNeRF's part of these views, as `render_bytes` returns it.
        warps: photos that are warped to every view.
        generator: of the appearance.
        opaque: PixelNeRF's own setting.
    """
    n, v = len(photos.images), len(views.images)
    images, mirrored = recoloured(
        torch.cat([photos.images, views.images, guide.permute(0, 2, 3, 1)]), generator
    )
    x, frames = images_of(images), torch.cat([photos.frames, views.frames])
    if mirrored:
        frames, depth = -frames % ORBIT_VIEWS, depth.flip(-1)
    cameras = orbit(ORBIT_VIEWS).to(x.device)[frames]
    guided = make_guide(x[n + v :], depth.float(), x[:n], cameras[:n], cameras[n:], warps, opaque=opaque)
    return GuidedViews(x[n : n + v], guided, x[:n], cameras)


class SceneGuides:
    """Scenes with guides: of each scene, one choice of photos and of views for every number of photos.

    Attributes:
        size: pixels of a view's side.
    """

    def __init__(
        self, shards: SceneShards, pixelnerf: PixelNeRF, warps: int, counts: Sequence[int], views: int
    ) -> None:
        """Render the guides that are not in the cache.

        Args:
            shards: the scenes.
            pixelnerf: renders the guides.
            warps: photos that are warped to every view.
            counts: numbers of photos.
            views: of a choice.

        Raises:
            V3DError: the scenes have too few views.
        """
        self._warps, self._opaque = warps, pixelnerf.config.opaque
        self._shards = shards
        if (available := len(shards[0][0])) < max(counts) + views:
            raise V3DError(
                f"Scenes in {shards.folder} have {available} views, too few for {max(counts)} photos"
                f" and {views} others: lower --source-counts or --views, or render longer clips."
            )
        version = "-".join(map(str, (weights_fingerprint(pixelnerf), pixelnerf.config.drawn, *counts, views)))
        self._choices: list[tuple[int, Any]] = []  # number of a scene, and what is kept of it
        for i in range(len(self._shards)):
            cache = shards.folder / f".guides-{version}/{shards.key(i)}.safetensors"
            try:
                kept = _open(cache) or self._make(cache, i, pixelnerf, counts, views)
            except UNREADABLE as error:
                log.warning("skipped scene %d of %s: %s", i, shards.folder, error)
                continue
            self._choices.append((i, kept))
        if not self._choices:
            raise V3DError(f"None of the scenes in {shards.folder} can be read.")
        self.size = self._shards[self._choices[0][0]][0].shape[1]

    def _make(self, cache: Path, i: int, pixelnerf: PixelNeRF, counts: Sequence[int], views: int) -> Any:
        rgb, cameras, _ = self._shards[i]
        x, generator = images_of(rgb), torch.Generator().manual_seed(zlib.crc32(f"{i} {len(rgb)}".encode()))
        tensors: dict[str, Tensor] = {}
        for n in counts:
            chosen = torch.randperm(len(rgb), generator=generator)[: n + views]
            images, depth = render_bytes(pixelnerf, x[chosen[:n]], cameras[chosen[:n]], cameras[chosen[n:]])
            tensors |= {f"chosen{n}": chosen, f"images{n}": images[:, :3].contiguous(), f"depth{n}": depth}
        return _keep(cache, tensors)

    def __len__(self) -> int:
        return len(self._choices)

    def draw(self, i: int, sources: int, views: int, generator: torch.Generator) -> GuidedViews:
        """The choice of `sources` photos of scene i and its first `views` views, colour channels permuted."""
        scene, kept = self._choices[i]
        chosen, guide, depth = (
            kept.get_slice(f"{name}{sources}")[:] for name in ("chosen", "images", "depth")
        )
        chosen = chosen[: sources + views]
        rgb, cameras, _ = self._shards[scene]
        channels = torch.randperm(3, generator=generator)
        x = images_of(rgb[chosen][..., channels])
        images = images_of(guide[:views].permute(0, 2, 3, 1)[..., channels])
        photos, (given, new) = x[:sources], (cameras[chosen[:sources]], cameras[chosen[sources:]])
        guided = make_guide(
            images, depth[:views].float(), photos, given, new, self._warps, opaque=self._opaque
        )
        return GuidedViews(x[sources:], guided, photos, cameras[chosen])


@torch.no_grad()
def render_bytes(
    pixelnerf: PixelNeRF, photos: Tensor, photo_cameras: Cameras, cameras: Cameras
) -> tuple[Tensor, Tensor]:
    """PixelNeRF's views as they are kept: uint8 [V, 4, S, S], and camera depth as float16 [V, h, w].

    Args:
        pixelnerf: the network, on any device.
        photos: [N, 4, S, S] in [-1, 1], colour on white, then alpha.
        photo_cameras, cameras: of the photos and of the V views, in one world.

    Returns:
        Images (127.5 (x + 1) of values in [-1, 1], rounded) and depth, on the network's device.
    """
    images, depth = render_views(pixelnerf, photos.to(pixelnerf.position.device), photo_cameras, cameras)
    return (images.add(1).mul(127.5).add(0.5).clamp(0, 255)).to(torch.uint8), depth.half()


def images_of(pixels: Tensor) -> Tensor:
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
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, temporary)
    return safe_open(cache, "pt")
