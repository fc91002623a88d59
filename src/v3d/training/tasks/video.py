"""Training of OrbitDiT, on orbits or on scenes: denoise what PixelNeRF's guide leaves of the views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from v3d.diffusion.configs import Sampling
from v3d.diffusion.dit import Geometry, OrbitDiT, load_dit
from v3d.diffusion.edm import Denoiser, NoiseDistribution, Preconditioning, expand
from v3d.diffusion.guide import Guide, add_residual
from v3d.errors import V3DError
from v3d.networks.perceptual import Perceptual
from v3d.networks.pixelnerf import load_pixelnerf
from v3d.training.examples import Examples, open_examples
from v3d.training.export import export_mini
from v3d.training.fresh_guides import FreshGuides
from v3d.training.guides import GuidedViews, Guides
from v3d.training.order import Order, Passing
from v3d.training.processes import SINGLE_PROCESS, Processes
from v3d.training.recipe import VideoRecipe
from v3d.training.task import BatchShare
from v3d.weights import MINI

SIGMA_MAX = Sampling().sigma_max
"""Noise level of the sampler's first step."""

_CUT = 16  # pixels: LPIPS's network has strides, so it looks at views cut at random
_LEVELS = (0.1, 0.5, 2.0)  # of the noise in validation, over sigma_data
_VALIDATION, _SHOWN = 24, 4


@dataclass(frozen=True)
class Batch:
    """B sets of views with equally many photos and views.

    Attributes:
        views: [B, V, 4, S, S] in [-1, 1], colour on white, then alpha.
        guide: of the views.
        photos: [B, N, 4, S, S] in [-1, 1], colour on white, then alpha.
        geometry: of the N + V cameras of each set.
    """

    views: Tensor
    guide: Guide
    photos: Tensor
    geometry: Geometry

    @staticmethod
    def of(examples: list[GuidedViews], grid: int, device: torch.device) -> Batch:
        """Stack examples on a device; `grid` is the network's number of tokens a side."""
        views, photos = (torch.stack([getattr(e, name) for e in examples]) for name in ("views", "photos"))
        guide = Guide.stack([e.guide for e in examples])
        geometry = Geometry.stack([Geometry.of(e.cameras, grid) for e in examples])
        return Batch(views.to(device), guide.to(device), photos.to(device), geometry.to(device))

    @property
    def residual(self) -> Tensor:
        """What the guide leaves of the views: the video model's data."""
        return self.views - self.guide.images


class VideoTask:
    """Trains OrbitDiT on what the guide leaves open of orbits or scenes (a `v3d.training.task.Task`).

    Attributes:
        network: OrbitDiT.
        data: the training views with their guides.
    """

    network: nn.Module
    data: Guides

    def __init__(
        self,
        recipe: VideoRecipe,
        processes: Processes = SINGLE_PROCESS,
        init: Path | None = None,
        workers: int = 0,
    ) -> None:
        """Render the guides of the data and make the network.

        Args:
            recipe: what is trained, and how.
            processes: this process among those that train together.
            init: folder of a mini model to start from; its sizes must be the recipe's.
            workers: processes that render fresh orbits for this one; 0 renders them in it.

        Raises:
            V3DError: data or weights are missing or do not fit.
        """
        self.recipe, self.processes = recipe, processes
        self._passing = Passing()
        examples = None if recipe.fresh.meshes else open_examples(recipe.examples, recipe.data)
        shipped = MINI if examples is None else examples.shipped
        self.pixelnerf = load_pixelnerf(recipe.pixelnerf or shipped, processes.device)
        self.perceptual = Perceptual.load("lpips", device=processes.device) if recipe.lpips else None
        self._fresh: FreshGuides | None = None
        if examples is None:
            if recipe.examples == "scenes":
                raise V3DError("Scenes are not rendered while training; leave out --meshes, or train orbit.")
            self.data = self._fresh = FreshGuides(recipe, self.pixelnerf, processes, workers)
        else:
            self._load(examples)
        self._validation: Guides | None = None
        if recipe.validation is not None:
            self._validation = self._guides(open_examples(recipe.examples, recipe.validation))
        config = replace(recipe.network, size=self.data.size)
        if config.size % config.patch:
            raise V3DError(
                f"The views have {config.size} pixels, no multiple of {config.patch}: "
                "change --channels, or render others."
            )
        torch.manual_seed(recipe.seed)
        net = OrbitDiT(config) if init is None else load_dit(init)
        if net.config != config:
            raise V3DError(
                f"The network in {init} is {net.config}, the recipe's is {config}; change the recipe."
            )
        self.grid = config.grid
        self.network = net.to(processes.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _guides(self, examples: Examples) -> Guides:
        r = self.recipe
        return examples.guides(self.pixelnerf, r.network.warps, r.source_counts, max(r.views, r.all_views))

    def _load(self, examples: Examples) -> None:
        """Take the training data; the first process renders the guides that are not in the cache."""
        if not self.processes.main:
            self.processes.wait()
        self.data = self._guides(examples)
        if self.processes.main:
            self.processes.wait()
        self.order = Order(len(self.data), self.recipe.seed)

    def refresh(self) -> None:
        """Open data on disk anew, and render the guides of what has arrived."""
        if self._fresh is None:
            self._load(open_examples(self.recipe.examples, self.recipe.data))

    def close(self) -> None:
        """End processes that render, and say what was passed over."""
        self._passing.close(self.recipe.data)
        if self._fresh is not None:
            self._fresh.close()

    def views(self, done: float) -> int:
        """Views that are generated together, `done` in [0, 1] of the way."""
        return self.recipe.views if done <= self.recipe.all_views_after else self.recipe.all_views

    def batch_size(self, step: int, done: float) -> int:
        """Sets of views of a step: smaller batches of more views each."""
        return max(1, self.recipe.batch * self.recipe.views // self.views(done))

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        """Per set of views [B]: the EDM loss, for some with LPIPS, and these apart.

        The first samples (the share `first_steps`) take the sampler's first step, from pure noise, and are
        judged by LPIPS; the others follow the noise distribution.
        """
        r, g = self.recipe, share.generator()
        if self._fresh is not None:
            self._fresh.advance(share.step)
            self.order = Order(len(self._fresh), r.seed)
        count = r.source_counts[int(torch.randint(len(r.source_counts), (), generator=g))]
        keep = (torch.rand(share.batch, generator=g) >= r.drop)[share.samples].to(share.device)
        sigma = NoiseDistribution(r.P_mean, r.P_std).sample(share.batch, g)[share.samples].to(share.device)
        n_first = sum(j < r.first_steps * share.batch for j in share.samples)  # they come first
        first = torch.arange(len(share.samples), device=share.device) < n_first
        sigma = torch.where(first, SIGMA_MAX, sigma)
        cut, background = torch.randint(_CUT, (2,), generator=g).tolist(), torch.rand(3, generator=g)
        examples = [
            self._passing.draw(
                self.order,
                share.position + j,
                partial(
                    self.data.draw,
                    sources=count,
                    views=self.views(share.done),
                    generator=share.sample_generator(j),
                ),
            )
            for j in share.samples
        ]
        batch = Batch.of(examples, self.grid, share.device)
        x0 = batch.residual
        generators = [share.sample_generator(j, share.device) for j in share.samples]
        noise = torch.stack([torch.randn(x0.shape[1:], generator=g, device=share.device) for g in generators])
        sigma_data = r.network.sigma_data
        estimate = denoiser(network, batch, keep, sigma_data)(x0 + expand(sigma, x0) * noise, sigma)
        weight = Preconditioning(sigma_data).loss_weight(sigma)
        loss = weight * (estimate - x0).square().flatten(1).mean(1)
        values = {
            "loss": loss,
            "first step": loss.where(first, torch.nan),
            "noisy": loss.where(~first, torch.nan),
        }
        if self.perceptual is None:
            return values
        lpips = loss.new_full(loss.shape, torch.nan)
        if n_first:
            generated = self.generated(batch, estimate)
            a, b = (on_background(t[:n_first], background) for t in (generated, batch.views))
            lpips[:n_first] = self.lpips(a, b, cut)
        return values | {"loss": loss + r.lpips * lpips.nan_to_num(0), "lpips": lpips}

    def generated(self, batch: Batch, residual: Tensor) -> Tensor:
        """The views [B, V, 4, S, S] that the model would show, as `v3d.diffusion.mini` makes them."""
        return add_residual(batch.guide.images, residual, opaque=self.pixelnerf.config.opaque)

    def lpips(self, generated: Tensor, true: Tensor, cut: list[int]) -> Tensor:
        """LPIPS [B] of colours [B, V, H, W, 3], cropped by 16 rows and columns.

        Args:
            generated: views in [0, 1].
            true: views in [0, 1].
            cut: rows and columns to leave out at the top and at the left, in [0, 16]; the rest of the 16 is
                left out at the bottom and at the right.
        """
        assert self.perceptual is not None
        (y, x), (h, w) = cut, generated.shape[2:4]
        a, b = (t[:, :, y : h - _CUT + y, x : w - _CUT + x].flatten(0, 1) for t in (generated, true))
        distances = self.perceptual.distances(a, self.perceptual.prepare(b))
        return torch.unflatten(distances, 0, generated.shape[:2]).mean(1)

    def export(self, network: nn.Module, folder: Path) -> None:
        """Write PixelNeRF, the network and the sampler's defaults: a mini model."""
        assert isinstance(network, OrbitDiT)
        r = self.recipe
        export_mini(self.pixelnerf, network, folder, Sampling(steps=r.sampler_steps, guidance=r.guidance))

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """PSNR and LPIPS of the guide and of one step, the loss at three noise levels, and rows of pictures.

        Scores are taken apart for every number of photos; a row shows photos, truth, guide, one step.
        """
        report = {} if self._fresh is None else self._fresh.ring.report
        if self._validation is None:
            return report, None
        scenes = self.recipe.examples == "scenes"
        counts = sorted(set(self.recipe.source_counts)) if scenes else [1]  # orbits on disk have one photo
        lpips = Perceptual.load("lpips", device=next(network.parameters()).device)
        scores: dict[str, list[float]] = {}
        rows = []
        for i in range(min(_VALIDATION, len(self._validation))):
            for count in counts:
                measured, row = self._measure(network, self._validation, i, count, lpips)
                for name, value in measured.items():
                    scores.setdefault(name, []).append(value)
                if i < _SHOWN and count == counts[len(counts) // 2]:
                    rows.append(row)
        return report | {name: sum(v) / len(v) for name, v in scores.items()}, torch.cat(rows)

    def _measure(
        self, network: nn.Module, data: Guides, i: int, count: int, lpips: Perceptual
    ) -> tuple[dict[str, float], Tensor]:
        """What `validate` measures of the i-th example with `count` photos, and its row of pictures."""
        r, device = self.recipe, next(network.parameters()).device
        fast = self.processes.precision(r.precision) == torch.bfloat16
        generator = torch.Generator().manual_seed(i)
        batch = Batch.of([data.draw(i, count, r.views, generator)], self.grid, device)
        x0 = batch.residual
        noise = torch.randn(x0.shape, generator=generator).to(device)
        sigma_data = r.network.sigma_data
        D = denoiser(network, batch, torch.ones(1, dtype=torch.bool, device=device), sigma_data)

        def denoise(sigma: float, x: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=fast):
                return D(x, x.new_full((1,), sigma))

        one_step = self.generated(batch, denoise(SIGMA_MAX, SIGMA_MAX * noise))
        true, *generated = (colours_of(images)[0] for images in (batch.views, batch.guide.images, one_step))
        features = lpips.prepare(true)
        scores = {}
        for name, images in zip(("guide", "one step"), generated, strict=True):
            mse = (images - true).square().mean((1, 2, 3)).clamp_min(1e-10)
            scores[f"psnr of {name}, {count}"] = float(-10 * mse.log10().mean())
            scores[f"lpips of {name}, {count}"] = float(lpips(images, features))
        for level in _LEVELS:
            sigma = level * sigma_data
            error = (denoise(sigma, x0 + sigma * noise) - x0).square().mean()
            weight = Preconditioning(sigma_data).loss_weight(torch.tensor(sigma))
            scores[f"loss at {level:g}"] = float(weight * error)
        shown = [colours_of(batch.photos)[0, :3], *(images[:4] for images in (true, *generated))]
        return scores, torch.cat([*torch.cat(shown)], 1)


def denoiser(network: nn.Module, batch: Batch, keep: Tensor, sigma_data: float) -> Denoiser:
    """`D(x, sigma)` of the batch's residual; `keep` [B] is False where the photos are withheld."""
    raw = partial(
        network,
        photos=batch.photos,
        keep=keep,
        geometry=batch.geometry,
        guide=batch.guide.images,
        warped=batch.guide.warped,
    )
    return partial(Preconditioning(sigma_data).denoise, raw)


def colours_of(images: Tensor) -> Tensor:
    """[..., 4, H, W] in [-1, 1] -> colours [..., H, W, 3] in [0, 1], on white."""
    return (images[..., :3, :, :] / 2 + 0.5).clamp(0, 1).movedim(-3, -1)


def on_background(images: Tensor, background: Tensor) -> Tensor:
    """[..., 4, H, W] in [-1, 1] -> colours [..., H, W, 3] in [0, 1] on a background [3]."""
    clear = (1 - images[..., 3:, :, :]).clamp(0, 2).movedim(-3, -1) / 2
    return (colours_of(images) - clear * (1 - background.to(images))).clamp(0, 1)
