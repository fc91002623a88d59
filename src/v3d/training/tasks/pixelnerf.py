"""Training of PixelNeRF: render random rays of an object's or a scene's views from its source photos."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.errors import V3DError
from v3d.metrics import decibels
from v3d.networks.perceptual import Perceptual
from v3d.networks.pixelnerf import Frusta, PixelNeRF, load_pixelnerf
from v3d.networks.sources import Sources, camera_similarity
from v3d.networks.volume_rendering import Rendered
from v3d.training.examples import Clip
from v3d.training.export import export_pixelnerf
from v3d.training.fresh_rays import FreshRays
from v3d.training.order import Passing
from v3d.training.processes import SINGLE_PROCESS, Processes
from v3d.training.rays import ExampleRays, RayData, Squares, open_sized, squares_of
from v3d.training.recipe import PixelNeRFRecipe
from v3d.training.task import BatchShare, step_generator

_VALIDATION, _SHOWN = 32, 8


class PixelNeRFTask:
    """Trains PixelNeRF on rays of orbits or scenes (a `v3d.training.task.Task`).

    Attributes:
        network: PixelNeRF.
        data: where its batches come from.
    """

    network: nn.Module
    data: RayData

    def __init__(
        self,
        recipe: PixelNeRFRecipe,
        processes: Processes = SINGLE_PROCESS,
        init: Path | None = None,
        workers: int = 0,
    ) -> None:
        """Open the data and make the network.

        Args:
            recipe: what is trained, and how.
            processes: this process among those that train together.
            init: folder of a PixelNeRF to start from; its sizes must be the recipe's.
            workers: processes that render fresh orbits for this one; 0 renders them in it.

        Raises:
            V3DError: data or weights are missing or do not fit, or the recipe's sizes do not.
        """
        check_sizes(recipe)
        self.recipe, self.processes = recipe, processes
        fresh = bool(recipe.fresh.meshes)
        self.data = FreshRays(recipe, processes, workers) if fresh else ExampleRays(recipe)
        self._validation = None if recipe.validation is None else open_sized(recipe, recipe.validation)
        config = replace(recipe.network, opaque=self.data.opaque)
        torch.manual_seed(recipe.seed)
        net = PixelNeRF(config) if init is None else load_pixelnerf(init).requires_grad_(True).train()
        if net.config != config:
            raise V3DError(
                f"The network in {init} is {net.config}, the recipe's is {config}; change the recipe."
            )
        self.network = net.to(processes.device)
        self.perceptual = Perceptual.load("lpips", device=processes.device) if recipe.lpips else None

    def refresh(self) -> None:
        """Take in data that have arrived."""
        self.data.refresh()

    def close(self) -> None:
        """End processes that render."""
        self.data.close()

    def _photos(self, generator: torch.Generator) -> int:
        """How many photos the sets of a step have: the first thing that its generator decides."""
        counts = self.recipe.source_counts
        return counts[int(torch.randint(len(counts), (), generator=generator))]

    def batch_size(self, step: int, done: float) -> int:
        """Sets of photos of a step."""
        return self.data.batch_size(self._photos(step_generator(self.recipe.seed, step)))

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        """Per set [B]: squared error of rays with depth error and LPIPS, and these apart."""
        assert isinstance(network, PixelNeRF)
        r, generator = self.recipe, share.generator()
        batch = self.data.draw(share, self._photos(generator), generator)
        frusta = network.encode(batch.sources)
        origins, directions, jitter = torch.split(batch.rays, [3, 3, 1], -1)
        out = network.render(frusta, origins, directions, None, jitter)
        colours, depth = torch.split(batch.truth, [4, 1], -1)
        error = torch.cat([out.rgb, out.alpha[..., None]], -1) - colours
        depth_error = log_depth_error(out, depth[..., 0])
        values = {
            "loss": error.square().mean((1, 2)) + r.depth_loss * depth_error,
            "psnr of rays": decibels(error[..., :3].square().mean((1, 2))),
        }
        shape_errors = {"depth": depth_error, "alpha": error[..., 3].square().mean(1)}
        values |= {name: shape_errors[name] for name in self.data.metrics}
        if batch.squares is not None:
            lpips, squared = self._of_squares(network, frusta, batch.squares)
            more = share.batch / squares_of(r, share)  # for the samples that have none
            on_top = more * (r.lpips * lpips + r.square_error * squared)
            without = values["loss"].new_full((len(share.samples) - len(lpips),), torch.nan)
            values["lpips"] = torch.cat([lpips, without])
            values["loss"] = values["loss"] + torch.cat([on_top, without]).nan_to_num(0)
        return values

    def _of_squares(self, network: PixelNeRF, frusta: Frusta, squares: Squares) -> tuple[Tensor, Tensor]:
        """[Q] LPIPS and squared error of squares, LPIPS of squares twice enlarged.

        Its first layer has a stride of four pixels.
        """
        assert self.perceptual is not None
        out = network.render(squares.frusta(frusta), *squares.rays.split(3, -1))
        true = squares.colours
        generated = (out.rgb + 1 - out.alpha[..., None]).view_as(true)
        a, b = (
            F.interpolate(x.permute(0, 3, 1, 2).float(), scale_factor=2.0, mode="bilinear").permute(
                0, 2, 3, 1
            )
            for x in (generated, true)
        )
        lpips = self.perceptual.distances(a, self.perceptual.prepare(b))
        return lpips, (generated - true).square().mean((1, 2, 3))

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
        report = self.data.report()
        if self._validation is None:
            return report, None
        assert isinstance(network, PixelNeRF)
        rows: list[Tensor] = []
        psnrs: dict[str, list[Tensor]] = defaultdict(list)
        clips = Passing().first(_VALIDATION, len(self._validation), self._validation.whole_clip)
        for i, clip in enumerate(clips):
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
        return report | {name: float(torch.stack(v).mean()) for name, v in psnrs.items()}, torch.cat(rows)


def check_sizes(recipe: PixelNeRFRecipe) -> None:
    """Refuse a recipe whose sizes do not fit each other.

    Raises:
        V3DError: the square of the perceptual loss is larger than a view; a ray has no sample; the sizes of
            views, patches, frusta, tokens and training rays do not divide each other; orbits on disk are
            asked for several photos; or the network is to be compiled.
    """
    c = recipe.network
    if not 0 < recipe.square <= c.size:
        raise V3DError(f"--square is {recipe.square}; it has at most the {c.size} pixels of a view's side.")
    if recipe.compile:
        raise V3DError("PixelNeRF's encoder and renderer are called apart: leave out --compile.")
    several = recipe.examples == "scenes" or recipe.fresh.meshes
    if min(recipe.source_counts, default=0) < 1 or (max(recipe.source_counts) > 1 and not several):
        raise V3DError(
            "--source-counts are 1 or more, and orbits of --data have 1: several need scenes or --meshes."
        )
    if recipe.fresh.meshes and recipe.examples == "scenes":
        raise V3DError("Scenes are not rendered while training; leave out --meshes, or train pixelnerf.")
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


def log_depth_error(out: Rendered, depth: Tensor) -> Tensor:
    """[B] mean of |ln(z / depth)| over the rays.

    Those whose depth is not stated, or where almost nothing was rendered, count 0.

    Args:
        out: R rays of each of B sets.
        depth: [B, R] true camera depth z, 0 where unknown.
    """
    has_depth = (depth > 0) & (out.alpha > 0.3)
    z = (out.depth / out.alpha.clamp_min(0.3)).clamp_min(1e-3)
    return (z.log() - depth.where(has_depth, 1.0).log()).abs().where(has_depth, 0.0).mean(1)


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
