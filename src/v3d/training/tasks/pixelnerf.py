"""Training of PixelNeRF: draw rays of an object's or a scene's views from its source photos."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.cameras import ORBIT_VIEWS, Cameras
from v3d.data.orbit_shards import OrbitShards, check_cameras, recoloured
from v3d.data.scene_shards import SceneShards
from v3d.errors import V3DError
from v3d.networks.perceptual import Perceptual
from v3d.networks.pixelnerf import PixelNeRF, PixelNeRFConfig, load_pixelnerf
from v3d.networks.sources import Sources, camera_similarity
from v3d.networks.volume_rendering import Rendered
from v3d.training.export import export_pixelnerf
from v3d.training.loop import BatchShare
from v3d.training.order import Order
from v3d.training.processes import ALONE, Processes
from v3d.training.recipe import PixelNeRFRecipe

_VALIDATION, _SHOWN = 32, 8


@dataclass(frozen=True)
class Clip:
    """Source photos and the views to be drawn from them.

    Attributes:
        sources: [N, 4, S, S] in [0, 1], colour on white, then alpha; `source_cameras`: theirs.
        targets: [V, 4, S, S]; `target_cameras`: theirs.
        depth: [V, h, w] camera depth of the targets, 0 where unknown; None for orbits, whose silhouettes say enough.
    """

    sources: Tensor
    source_cameras: Cameras
    targets: Tensor
    target_cameras: Cameras
    depth: Tensor | None = None


@dataclass(frozen=True)
class Sample:
    """What a step draws of one clip.

    Attributes:
        sources: its photos (B = 1).
        rays: [R + square^2, 7] origins, directions, and where in its interval each sample lies: random rays, then those of the square.
        truth: [R, 5] what the random rays show: colour premultiplied by alpha, alpha, camera depth (0 where unknown).
        square: [square, square, 3] what the others show, on white; [0] where no square is asked for.
    """

    sources: Sources
    rays: Tensor
    truth: Tensor
    square: Tensor


class PixelNeRFTask:
    """See `v3d.training.loop.Task`."""

    network: nn.Module

    def __init__(
        self, recipe: PixelNeRFRecipe, processes: Processes = ALONE, init: Path | None = None
    ) -> None:
        """Open the data and make the network.

        Args:
            init: folder of a PixelNeRF to start from; its sizes must be the recipe's.

        Raises:
            V3DError: data or weights are missing or do not fit, or the recipe's sizes do not.
        """
        self.recipe, self.processes = recipe, processes
        if recipe.lpips and recipe.square**2 % recipe.rays:
            raise V3DError(
                f"A square of {recipe.square} pixels a side is no multiple of {recipe.rays} rays; change one."
            )
        if min(recipe.samples, recipe.fine) < 1 or recipe.texture < 0:
            raise V3DError(
                "A ray has at least one sample, even and fine, and --texture is 0 or more channels."
            )
        config = PixelNeRFConfig(
            size=recipe.size,
            patch=recipe.patch,
            width=recipe.width,
            depth=recipe.depth,
            planes=recipe.planes,
            near=recipe.near,
            far=recipe.far,
            samples=recipe.samples,
            fine=recipe.fine,
            texture=recipe.texture,
            drawn=recipe.drawn,
            opaque=recipe.of == "scenes",
            imagenet=recipe.imagenet,
        )
        torch.manual_seed(recipe.seed)
        net = PixelNeRF(config) if init is None else load_pixelnerf(init).requires_grad_(True).train()
        if net.config != config:
            raise V3DError(
                f"The network in {init} is {net.config}, the recipe's is {config}; change the recipe."
            )
        self.network = net.to(processes.device)
        self.perceptual = Perceptual.load("lpips", device=processes.device) if recipe.lpips else None
        self._validation = None if recipe.validation is None else self._open(recipe.validation)
        self.data = self._open(recipe.data)
        self.order = Order(len(self.data), recipe.seed)

    def _open(self, folder: Path) -> OrbitShards | SceneShards:
        data = SceneShards(folder) if self.recipe.of == "scenes" else OrbitShards(folder)
        if isinstance(data, OrbitShards):
            for path, shard in data.shards():
                check_cameras(path, shard)
        side = whole_clip(data, 0).targets.shape[-1]
        if side != self.recipe.size:
            raise V3DError(
                f"The views in {folder} have {side} pixels, the recipe wants {self.recipe.size}: say --size {side}, "
                "or render others."
            )
        return data

    def refresh(self) -> None:
        self.data = self._open(self.recipe.data)
        self.order = Order(len(self.data), self.recipe.seed)

    def batch_size(self, done: float) -> int:
        return self.recipe.batch

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        r = self.recipe
        count = 1 + int(torch.randint(r.sources, (), generator=share.generator()))  # the same for all samples
        samples = [self._sample(share, j, count) for j in share.samples]
        sources = Sources.stack([s.sources for s in samples]).to(share.device)
        origins, directions, jitter = (
            torch.stack([s.rays for s in samples]).to(share.device).split([3, 3, 1], -1)
        )
        out: Rendered = network(sources, origins, directions, jitter)
        colours, depth = torch.stack([s.truth for s in samples]).to(share.device).split([4, 1], -1)
        alone = colours.shape[1]  # rays of their own; those of the square come after them
        error = torch.cat([out.rgb, out.alpha[..., None]], -1)[:, :alone] - colours
        known, z = depth[..., 0] > 0, out.depth[:, :alone]
        ratio = z.clamp_min(1e-3) / depth[..., 0].where(known, z.detach().clamp_min(1e-3))
        astray = (ratio.log().abs() * known).mean(1)
        values = {
            "loss": error.square().mean((1, 2)) + r.depth_loss * astray,
            "psnr of rays": -10 * error[..., :3].square().mean((1, 2)).log10(),
        }
        values |= {"depth": astray} if r.of == "scenes" else {"alpha": error[..., 3].square().mean(1)}
        if self.perceptual is not None:
            drawn = (out.rgb + 1 - out.alpha[..., None])[:, alone:].unflatten(1, (r.square, r.square))
            unlike = self._unlike(drawn, torch.stack([s.square for s in samples]).to(share.device))
            values |= {"loss": values["loss"] + r.lpips * unlike, "lpips": unlike}
        return values

    def _sample(self, share: BatchShare, j: int, count: int) -> Sample:
        """Sample `j` of a step, from `count` photos."""
        r, g = self.recipe, share.sample_generator(j)
        clip = self._draw(
            self.data, self.order[share.position + j], count, share.done < r.photos_only_after, g
        )
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

    def _unlike(self, drawn: Tensor, true: Tensor) -> Tensor:
        """[B] LPIPS of squares [B, S, S, 3], twice enlarged: its first layer has a stride of four pixels."""
        assert self.perceptual is not None
        large = [
            F.interpolate(x.permute(0, 3, 1, 2).float(), scale_factor=2.0, mode="bilinear").permute(
                0, 2, 3, 1
            )
            for x in (drawn, true)
        ]
        return self.perceptual.distances(large[0], self.perceptual.prepare(large[1]))

    def _draw(
        self, data: OrbitShards | SceneShards, i: int, count: int, any_front: bool, g: torch.Generator
    ) -> Clip:
        if isinstance(data, SceneShards):
            return scene_clip(data, i, count, self.recipe.views, g)
        return orbit_clip(data, i, self.recipe.views, any_front, g)

    def export(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, PixelNeRF)
        export_pixelnerf(network, folder)

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """PSNR of whole views at half size on white, beside repeating the first source; for orbits also against
        the truth played backwards, which a network that has learned to turn does not resemble, and of views from around, if there are some."""
        if self._validation is None:
            return {}, None
        assert isinstance(network, PixelNeRF)
        rows: list[Tensor] = []
        psnrs: dict[str, list[Tensor]] = defaultdict(list)
        device = next(network.parameters()).device
        for i in range(min(_VALIDATION, len(self._validation))):
            clip = whole_clip(self._validation, i)
            half = clip.targets.shape[-1] // 2
            true = F.avg_pool2d(clip.targets, 2)
            near = camera_similarity(clip.source_cameras, clip.target_cameras)
            images, _ = network.render_images(
                Sources.of(clip.sources * 2 - 1, clip.source_cameras, near).to(device),
                clip.target_cameras.resized(half, half),
            )
            made = images.cpu() / 2 + 0.5
            again = F.avg_pool2d(clip.sources[:1], 2).expand_as(true)
            # What follows an orbit's own views is from around.
            path = ORBIT_VIEWS if self.recipe.of == "orbits" else len(made)
            backwards = made[[0, *range(path - 1, 0, -1)]]
            shown = {"psnr": made[:path], "psnr of repeating": again[:path], "psnr reversed": backwards}
            for name, images in shown.items():
                psnrs[name].append(_psnr(images, true[:path])[1:].mean())
            if len(made) > path:
                psnrs["psnr around"].append(_psnr(made, true)[path:].mean())
            if i < _SHOWN:
                chosen = list(range(0, len(made), max(1, len(made) // 6)))[:6]
                pictures = [again[0], *(x[k] for x in (made, true) for k in chosen)]
                rows.append(torch.cat([p[:3].permute(1, 2, 0) for p in pictures], 1))
        return {name: float(torch.stack(v).mean()) for name, v in psnrs.items()}, torch.cat(rows)


def _psnr(images: Tensor, true: Tensor) -> Tensor:
    """[V] of the colours of [V, 4, H, W] in [0, 1]."""
    return -10 * (images - true)[:, :3].square().mean((1, 2, 3)).log10()


def orbit_clip(data: OrbitShards, i: int, views: int, any_front: bool, generator: torch.Generator) -> Clip:
    """Random views of an object in a random appearance: of its orbit, and from around if there are some; the source is the photo.

    With `any_front`, half of the time it is any other view of the orbit, turned to the front: eighteen times the fronts, though
    not quite framed as photos are.
    """
    cameras, front = data.cameras(i), 0
    if any_front and torch.rand((), generator=generator) < 0.5:
        front = int(torch.randint(ORBIT_VIEWS, (), generator=generator))
    frames = torch.randperm(len(cameras), generator=generator)[:views]
    photo = data.view(i, front) if front else data.photo(i)
    images = torch.stack([photo, *(data.view(i, k) for k in frames.tolist())])
    images, mirrored = recoloured(images, generator)
    targets = cameras[frames].turned(-front * 360 / ORBIT_VIEWS)
    x = images.permute(0, 3, 1, 2).float() / 255
    return Clip(x[:1], cameras[0], x[1:], targets.mirrored() if mirrored else targets)


def scene_clip(data: SceneShards, i: int, count: int, views: int, generator: torch.Generator) -> Clip:
    """`count` random views of a scene as sources, `views` others as targets."""
    rgb, cameras, depth = data[i]
    chosen = torch.randperm(len(rgb), generator=generator)[: count + views]
    x, new = opaque(rgb[chosen]), chosen[count:]
    return Clip(x[:count], cameras[chosen[:count]], x[count:], cameras[new], depth[new].float())


def whole_clip(data: OrbitShards | SceneShards, i: int) -> Clip:
    """For validation: all views of an object from its photo, or a scene's other views from its first, middle and last one."""
    if isinstance(data, OrbitShards):
        x = torch.cat([data.photo(i)[None], data[i][0]]).permute(0, 3, 1, 2).float() / 255
        cameras = data.cameras(i)
        return Clip(x[:1], cameras[0], x[1:], cameras)
    rgb, cameras, _ = data[i]
    last = len(rgb) - 1
    given = [0, last // 2, last]
    others = [k for k in range(len(rgb)) if k not in given]
    x = opaque(rgb)
    return Clip(x[given], cameras[given], x[others], cameras[others])


def draw_rays(
    clip: Clip, pixels: int, rays: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rays through random pixels of the targets, which are reduced to `pixels` a side first.

    Returns:
        origins and directions [V * rays, 3], what they show [V * rays, 4] (colour premultiplied by alpha), and camera
        depth [V * rays, 1], 0 where unknown.
    """
    x = F.avg_pool2d(clip.targets, clip.targets.shape[-1] // pixels)
    x = torch.cat([x[:, :3] - (1 - x[:, 3:]), x[:, 3:]], 1)
    depth = x.new_zeros(len(x), 1, 1) if clip.depth is None else clip.depth
    depth = F.interpolate(depth[:, None], (pixels, pixels), mode="nearest")
    maps = [*clip.target_cameras.resized(pixels, pixels).rays(), *(t.movedim(1, -1) for t in (x, depth))]
    at = torch.randint(pixels**2, (len(x), rays, 1), generator=generator)
    drawn = [t.flatten(1, 2).gather(1, at.expand(-1, -1, t.shape[-1])).flatten(0, 1) for t in maps]
    origins, directions, colours, depth = drawn
    return origins, directions, colours, depth


def draw_square(clip: Clip, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A random square of neighbouring pixels of the first target.

    Returns:
        origins and directions [side^2, 3], rows first, and what they show [side, side, 3] on white.
    """
    size = clip.targets.shape[-1]
    y, x = torch.randint(size - side + 1, (2,), generator=generator).tolist()
    there = (slice(y, y + side), slice(x, x + side))
    origins, directions = (t[0][there].flatten(0, 1) for t in clip.target_cameras[0].rays())
    return origins, directions, clip.targets[0, :3].permute(1, 2, 0)[there]


def opaque(rgb: Tensor) -> Tensor:
    """uint8 [V, H, W, 3] -> [V, 4, H, W] in [0, 1] with alpha 1."""
    x = rgb.permute(0, 3, 1, 2).float() / 255
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)
