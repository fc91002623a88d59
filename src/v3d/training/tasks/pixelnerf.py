"""Training of PixelNeRF: render random rays of an object's or a scene's views from its source photos."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.errors import V3DError
from v3d.metrics import decibels
from v3d.networks.perceptual import Perceptual
from v3d.networks.pixelnerf import PixelNeRF, load_pixelnerf
from v3d.networks.sources import Sources, camera_similarity
from v3d.networks.volume_rendering import Rendered
from v3d.training.examples import Clip, Examples, open_examples
from v3d.training.export import export_pixelnerf
from v3d.training.order import Order
from v3d.training.processes import SINGLE_PROCESS, Processes
from v3d.training.recipe import PixelNeRFRecipe
from v3d.training.task import BatchShare

_VALIDATION, _SHOWN = 32, 8


@dataclass(frozen=True)
class Sample:
    """What a step draws of one clip: R random rays, and the rays of a square of neighbouring pixels.

    Attributes:
        sources: its photos (B = 1).
        rays: [R + square^2, 7] origins, directions, and where in its interval each sample lies; those of the
            square come last.
        truth: [R, 5] what the random rays show: premultiplied colour, alpha, camera depth (0: unknown).
        square: [square, square, 3] what the others show, on white; [0] where no square is asked for.
    """

    sources: Sources
    rays: Tensor
    truth: Tensor
    square: Tensor


class PixelNeRFTask:
    """Trains PixelNeRF on rays of orbits or scenes (a `v3d.training.task.Task`).

    Attributes:
        network: PixelNeRF.
        data: the training examples.
    """

    network: nn.Module
    data: Examples

    def __init__(
        self, recipe: PixelNeRFRecipe, processes: Processes = SINGLE_PROCESS, init: Path | None = None
    ) -> None:
        """Open the data and make the network.

        Args:
            recipe: what is trained, and how.
            processes: this process among those that train together.
            init: folder of a PixelNeRF to start from; its sizes must be the recipe's.

        Raises:
            V3DError: data or weights are missing or do not fit, or the recipe's sizes do not.
        """
        check_sizes(recipe)
        self.recipe, self.processes = recipe, processes
        self.refresh()
        self._validation = None if recipe.validation is None else self._open(recipe.validation)
        config = replace(recipe.network, opaque=self.data.opaque)
        torch.manual_seed(recipe.seed)
        net = PixelNeRF(config) if init is None else load_pixelnerf(init).requires_grad_(True).train()
        if net.config != config:
            raise V3DError(
                f"The network in {init} is {net.config}, the recipe's is {config}; change the recipe."
            )
        self.network = net.to(processes.device)
        self.perceptual = Perceptual.load("lpips", device=processes.device) if recipe.lpips else None

    def _open(self, folder: Path) -> Examples:
        data, size = open_examples(self.recipe.examples, folder), self.recipe.network.size
        if data.size != size:
            raise V3DError(
                f"The views in {folder} have {data.size} pixels, the recipe wants {size}: "
                f"say --size {data.size}, or render others."
            )
        return data

    def refresh(self) -> None:
        """Open the data anew, with what has arrived."""
        self.data = self._open(self.recipe.data)
        self.order = Order(len(self.data), self.recipe.seed)

    def batch_size(self, done: float) -> int:
        """Clips of a step; always the recipe's."""
        return self.recipe.batch

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        """Per clip [B]: squared error of rays with depth error and LPIPS, and these apart."""
        r = self.recipe
        count = 1 + int(torch.randint(r.sources, (), generator=share.generator()))  # the same for all samples
        samples = [self._sample(share, j, count) for j in share.samples]
        sources = Sources.stack([s.sources for s in samples]).to(share.device)
        rays = torch.stack([s.rays for s in samples]).to(share.device)
        out: Rendered = network(sources, *torch.split(rays, [3, 3, 1], -1))
        truth = torch.stack([s.truth for s in samples]).to(share.device)
        colours, depth = torch.split(truth, [4, 1], -1)
        n_random = colours.shape[1]  # random rays; those of the square come after them
        error = torch.cat([out.rgb, out.alpha[..., None]], -1)[:, :n_random] - colours
        has_depth, z = depth[..., 0] > 0, out.depth[:, :n_random]
        ratio = z.clamp_min(1e-3) / depth[..., 0].where(has_depth, z.detach().clamp_min(1e-3))
        depth_error = (ratio.log().abs() * has_depth).mean(1)
        values = {
            "loss": error.square().mean((1, 2)) + r.depth_loss * depth_error,
            "psnr of rays": decibels(error[..., :3].square().mean((1, 2))),
        }
        shape_errors = {"depth": depth_error, "alpha": error[..., 3].square().mean(1)}
        values |= {name: shape_errors[name] for name in self.data.metrics}
        if self.perceptual is not None:
            on_white = (out.rgb + 1 - out.alpha[..., None])[:, n_random:]
            generated = torch.unflatten(on_white, 1, (r.square, r.square))
            lpips = self._lpips(generated, torch.stack([s.square for s in samples]).to(share.device))
            values |= {"loss": values["loss"] + r.lpips * lpips, "lpips": lpips}
        return values

    def _sample(self, share: BatchShare, j: int, count: int) -> Sample:
        """Sample `j` of a step, from `count` photos."""
        r, g = self.recipe, share.sample_generator(j)
        any_front = share.done < r.photos_only_after
        clip = self.data.clip(self.order[share.position + j], count, r.views, g, any_front=any_front)
        near = camera_similarity(clip.source_cameras, clip.target_cameras)
        origins, directions, colours, depth = draw_rays(clip, r.pixels, r.rays, g)
        rays = torch.cat([origins, directions, torch.rand(len(origins), 1, generator=g)], -1)
        square = colours.new_zeros(0)
        if self.perceptual is not None:
            origins, directions, square = draw_square(clip, r.square, g)
            middle = torch.full((len(origins), 1), 0.5)
            rays = torch.cat([rays, torch.cat([origins, directions, middle], -1)])
            near = torch.cat([near, near[:, :1].expand(-1, r.square**2 // r.rays)], 1)
        sources = Sources.of(clip.sources * 2 - 1, clip.source_cameras, near)
        return Sample(sources, rays, torch.cat([colours, depth], -1), square)

    def _lpips(self, generated: Tensor, true: Tensor) -> Tensor:
        """[B] LPIPS of squares [B, S, S, 3], twice enlarged: its first layer has a stride of four pixels."""
        assert self.perceptual is not None
        a, b = (
            F.interpolate(x.permute(0, 3, 1, 2).float(), scale_factor=2.0, mode="bilinear").permute(
                0, 2, 3, 1
            )
            for x in (generated, true)
        )
        return self.perceptual.distances(a, self.perceptual.prepare(b))

    def export(self, network: nn.Module, folder: Path) -> None:
        """Write the PixelNeRF's weights and sizes."""
        assert isinstance(network, PixelNeRF)
        export_pixelnerf(network, folder)

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """PSNR of whole views at half size on white, and rows of pictures: source, views, truth.

        Beside it the PSNR of repeating the first source, of the views in reverse order (which a network that
        has learned to turn does not resemble), and of views from around, if there are some.
        """
        if self._validation is None:
            return {}, None
        assert isinstance(network, PixelNeRF)
        rows: list[Tensor] = []
        psnrs: dict[str, list[Tensor]] = defaultdict(list)
        for i in range(min(_VALIDATION, len(self._validation))):
            clip = self._validation.whole_clip(i)
            true, generated = F.avg_pool2d(clip.targets, 2), _generated(network, clip)
            repeated = F.avg_pool2d(clip.sources[:1], 2).expand_as(true)
            path = self._validation.path_views(clip)
            reversed_ = generated[[0, *range(path - 1, 0, -1)]]
            shown = {
                "psnr": generated[:path],
                "psnr of repeating": repeated[:path],
                "psnr reversed": reversed_,
            }
            for name, images in shown.items():
                psnrs[name].append(_psnr(images, true[:path])[1:].mean())
            if len(generated) > path:
                psnrs["psnr around"].append(_psnr(generated, true)[path:].mean())
            if i < _SHOWN:
                chosen = list(range(0, len(true), max(1, len(true) // 6)))[:6]
                pictures = [repeated[0], *(x[k] for x in (generated, true) for k in chosen)]
                rows.append(torch.cat([p[:3].permute(1, 2, 0) for p in pictures], 1))
        return {name: float(torch.stack(v).mean()) for name, v in psnrs.items()}, torch.cat(rows)


def check_sizes(recipe: PixelNeRFRecipe) -> None:
    """Refuse a recipe whose sizes do not fit each other.

    Raises:
        V3DError: the square of the perceptual loss is no multiple of the rays; a ray has no sample; or the
            sizes of views, patches, frusta, tokens and training rays do not divide each other.
    """
    c = recipe.network
    if recipe.lpips and recipe.square**2 % recipe.rays:
        raise V3DError(
            f"A square of {recipe.square} pixels a side is no multiple of {recipe.rays} rays; change one."
        )
    if min(c.samples, c.fine) < 1 or c.texture < 0:
        raise V3DError("A ray has at least one sample, even and fine, and --texture is 0 or more channels.")
    if c.patch < 1 or c.size % c.patch or c.grid % (c.size // c.patch) or c.width % 64:
        raise V3DError(
            f"--size ({c.size}) must be a multiple of --patch ({c.patch}), --grid ({c.grid}) of their"
            f" quotient, and --width ({c.width}) of 64."
        )
    if recipe.pixels < 1 or c.size % recipe.pixels:
        raise V3DError(
            f"--size ({c.size}) must be a multiple of --pixels ({recipe.pixels}), to which views are reduced."
        )


def _generated(network: PixelNeRF, clip: Clip) -> Tensor:
    """The targets as the network renders them at half size: [V, 4, S/2, S/2] in [0, 1], on the CPU."""
    half = clip.targets.shape[-1] // 2
    near = camera_similarity(clip.source_cameras, clip.target_cameras)
    sources = Sources.of(clip.sources * 2 - 1, clip.source_cameras, near)
    images, _ = network.render_images(
        sources.to(network.position.device), clip.target_cameras.resized(half, half)
    )
    return images.cpu() / 2 + 0.5


def _psnr(images: Tensor, true: Tensor) -> Tensor:
    """[V] of the colours of [V, 4, H, W] in [0, 1]."""
    return decibels((images - true)[:, :3].square().mean((1, 2, 3)))


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
