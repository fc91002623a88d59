"""What PixelNeRF learns from in a step: rays of views, their colours, and the photos they are asked of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.errors import V3DError
from v3d.networks.pixelnerf import Frusta
from v3d.networks.sources import Sources, camera_similarity
from v3d.training.examples import Clip, Examples, open_examples
from v3d.training.order import Order, Passing
from v3d.training.recipe import PixelNeRFRecipe
from v3d.training.task import BatchShare


@dataclass(frozen=True)
class Squares:
    """A square of S x S neighbouring pixels of one view, for each of the first Q sets of a batch.

    Attributes:
        weights: [Q, N, 1] of the photos, for that view.
        rays: [Q, S^2, 6] origins and directions, rows of pixels first.
        colours: [Q, S, S, 3] what they show, on white.
    """

    weights: Tensor
    rays: Tensor
    colours: Tensor

    def frusta(self, all_sets: Frusta) -> Frusta:
        """What the encoder made of the photos of these sets."""
        q, s = len(self.weights), all_sets.sources
        sources = Sources(s.images[:q], s.w2c[:q], s.K[:q], self.weights)
        return Frusta(sources, all_sets.volumes[:q], all_sets.pixels[:q])


@dataclass(frozen=True)
class RayBatch:
    """B sets of photos, with R random rays each.

    Attributes:
        sources: the photos.
        rays: [B, R, 7] origins, directions, and where in its interval each sample lies.
        truth: [B, R, 5] what the rays show: premultiplied colour, alpha, camera depth (0: unknown).
        squares: of the first sets; None where none has one.
    """

    sources: Sources
    rays: Tensor
    truth: Tensor
    squares: Squares | None


class RayData(Protocol):
    """Where batches of rays come from.

    Attributes:
        opaque: every ray ends on something; else what is left is the white ground.
        metrics: names of the shape errors that say something about these data, "alpha" or "depth".
    """

    opaque: bool
    metrics: tuple[str, ...]

    def batch_size(self, count: int) -> int:
        """Sets of a step whose sets have `count` photos."""
        ...

    def draw(self, share: BatchShare, count: int, generator: torch.Generator) -> RayBatch:
        """The share's samples, of `count` photos each, on its device.

        Args:
            share: says which samples, and how far the run is.
            count: photos of a set.
            generator: random numbers of the step, which all its shares draw alike.
        """
        ...

    def report(self) -> dict[str, float]:
        """What the log should say of the data."""
        ...

    def refresh(self) -> None:
        """Take in data that have arrived since the last look."""
        ...

    def close(self) -> None:
        """End processes that render."""
        ...


class ExampleRays:
    """Rays of rendered orbits or scenes on disk.

    Attributes:
        data: the orbits or scenes.
    """

    data: Examples

    def __init__(self, recipe: PixelNeRFRecipe) -> None:
        """Open the recipe's data.

        Raises:
            V3DError: there are none, or their views have another size than the recipe's.
        """
        self._recipe, self._passing = recipe, Passing()
        self.refresh()
        self.opaque, self.metrics = self.data.opaque, self.data.metrics

    def batch_size(self, count: int) -> int:
        """Always the recipe's."""
        return self._recipe.batch

    def report(self) -> dict[str, float]:
        """Nothing: the data stand still."""
        return {}

    def refresh(self) -> None:
        """Open the data anew, with what has arrived."""
        self.data = open_sized(self._recipe, self._recipe.data)
        self._order = Order(len(self.data), self._recipe.seed)

    def close(self) -> None:
        """Say what was passed over."""
        self._passing.close(self._recipe.data)

    def draw(self, share: BatchShare, count: int, generator: torch.Generator) -> RayBatch:
        """The share's samples: each a clip, from which rays and a square are drawn."""
        sets = [self._sample(share, j, count) for j in share.samples]
        squares = None
        if sets[0].squares is not None:
            parts = [s.squares for s in sets if s.squares is not None]
            squares = Squares(
                *(
                    torch.cat([getattr(part, name) for part in parts]).to(share.device)
                    for name in ("weights", "rays", "colours")
                )
            )
        rays, truth = (torch.cat([getattr(s, name) for s in sets]) for name in ("rays", "truth"))
        sources = Sources.stack([s.sources for s in sets]).to(share.device)
        return RayBatch(sources, rays.to(share.device), truth.to(share.device), squares)

    def _sample(self, share: BatchShare, j: int, count: int) -> RayBatch:
        """Sample `j` of a step (B = 1), on the CPU."""
        r, g = self._recipe, share.sample_generator(j)
        any_front = share.done < r.photos_only_after
        clip = self._passing.draw(
            self._order,
            share.position + j,
            lambda i: self.data.clip(i, count, r.views, g, any_front=any_front),
        )
        near = camera_similarity(clip.source_cameras, clip.target_cameras)
        origins, directions, colours, depth = draw_rays(clip, r.pixels, r.rays, g)
        rays = torch.cat([origins, directions, torch.rand(len(origins), 1, generator=g)], -1)
        squares = None
        if j < squares_of(r, share):
            origins, directions, square = draw_square(clip, r.square, g)
            squares = Squares(near[None, :, :1], torch.cat([origins, directions], -1)[None], square[None])
        sources = Sources.of(clip.sources * 2 - 1, clip.source_cameras, near)
        return RayBatch(sources, rays[None], torch.cat([colours, depth], -1)[None], squares)


def squares_of(recipe: PixelNeRFRecipe, share: BatchShare) -> int:
    """How many samples of the share's step have a square; they are its first."""
    if not recipe.lpips or share.done < recipe.lpips_after:
        return 0
    return max(1, round(recipe.square_share * share.batch))


def open_sized(recipe: PixelNeRFRecipe, folder: Path) -> Examples:
    """The examples of a folder.

    Raises:
        V3DError: there are none, or their views have another size than the recipe's.
    """
    data, size = open_examples(recipe.examples, folder), recipe.network.size
    if data.size != size:
        raise V3DError(
            f"The views in {folder} have {data.size} pixels, the recipe wants {size}: "
            f"say --size {data.size}, or render others."
        )
    return data


def draw_rays(
    clip: Clip, pixels: int, rays: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rays through random pixels of the targets, which are reduced to `pixels` a side first.

    Args:
        clip: its targets' side is a multiple of `pixels`.
        pixels: side of the reduced targets.
        rays: of each target.
        generator: of the choice.

    Returns:
        origins and directions [V * rays, 3], what they show [V * rays, 4] (colour premultiplied by alpha),
        and camera depth [V * rays, 1], 0 where unknown.
    """
    x = F.avg_pool2d(clip.targets, clip.targets.shape[-1] // pixels)
    x = torch.cat([x[:, :3] - (1 - x[:, 3:]), x[:, 3:]], 1)
    depth = x.new_zeros(len(x), 1, 1) if clip.depth is None else clip.depth
    depth = F.interpolate(depth[:, None], (pixels, pixels), mode="nearest")
    maps = [*clip.target_cameras.resized(pixels, pixels).rays(), *(t.movedim(1, -1) for t in (x, depth))]
    at = torch.randint(pixels**2, (len(x), rays, 1), generator=generator)
    origins, directions, colours, depth = (
        t.flatten(1, 2).gather(1, at.expand(-1, -1, t.shape[-1])).flatten(0, 1) for t in maps
    )
    return origins, directions, colours, depth


def draw_square(clip: Clip, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A random square of neighbouring pixels of the first target.

    Args:
        clip: its targets are at least `side` pixels wide.
        side: of the square, in pixels.
        generator: of its place.

    Returns:
        origins and directions [side^2, 3], rows first, and what they show [side, side, 3] on white.
    """
    size = clip.targets.shape[-1]
    y, x = torch.randint(size - side + 1, (2,), generator=generator).tolist()
    there = (slice(y, y + side), slice(x, x + side))
    origins, directions = (t[0][there].flatten(0, 1) for t in clip.target_cameras[0].rays())
    return origins, directions, clip.targets[0, :3].permute(1, 2, 0)[there]
