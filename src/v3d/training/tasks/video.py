"""Training of OrbitDiT, on orbits or on scenes: denoise what PixelNeRF's guide leaves of the views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from v3d.cameras import ORBIT_VIEWS
from v3d.diffusion.dit import Geometry, OrbitDiT, OrbitDiTConfig, load_dit
from v3d.diffusion.edm import Denoiser, NoiseLaw, Preconditioning, expand
from v3d.diffusion.guide import Guide, add_residual
from v3d.errors import V3DError
from v3d.networks.perceptual import Perceptual
from v3d.networks.pixelnerf import load_pixelnerf
from v3d.training.export import Sampling, export_mini
from v3d.training.guides import Example, OrbitGuides, SceneGuides
from v3d.training.loop import BatchShare
from v3d.training.order import Order
from v3d.training.processes import ALONE, Processes
from v3d.training.recipe import VideoRecipe
from v3d.weights import MINI, MINI_SCENE

SIGMA_MAX = Sampling().sigma_max
_CUT = 16  # pixels: LPIPS's network has strides, so it looks at views cut at random
_LEVELS = (0.1, 0.5, 2.0)  # of the noise in validation, over sigma_data
_VALIDATION, _SHOWN = 24, 4


@dataclass(frozen=True)
class Batch:
    """B examples with equally many photos and views.

    Attributes:
        views: [B, V, 4, S, S]; guide: of them; photos: [B, N, 4, S, S].
        geometry: of the N + V cameras of each.
    """

    views: Tensor
    guide: Guide
    photos: Tensor
    geometry: Geometry

    @staticmethod
    def of(examples: list[Example], grid: int, device: torch.device) -> Batch:
        views, photos = (torch.stack([getattr(e, name) for e in examples]) for name in ("views", "photos"))
        guide = Guide.stack([e.guide for e in examples])
        geometry = Geometry.stack([Geometry.of(e.cameras, grid) for e in examples])
        return Batch(views.to(device), guide.to(device), photos.to(device), geometry.to(device))

    @property
    def residual(self) -> Tensor:
        """What the guide leaves of the views: the video model's data."""
        return self.views - self.guide.images


class VideoTask:
    """See `v3d.training.loop.Task`."""

    network: nn.Module

    def __init__(self, recipe: VideoRecipe, processes: Processes = ALONE, init: Path | None = None) -> None:
        """BatchShare the guides of the data and make the network.

        Args:
            init: folder of a mini model to start from; its sizes must be the recipe's.

        Raises:
            V3DError: data or weights are missing or do not fit.
        """
        if recipe.of == "orbits" and max(recipe.views, recipe.all_views) > ORBIT_VIEWS:
            raise V3DError(f"An orbit has {ORBIT_VIEWS} views; --views and --all-views cannot be more.")
        self.recipe, self.processes = recipe, processes
        shipped = MINI_SCENE if recipe.of == "scenes" else MINI
        self.pixelnerf = load_pixelnerf(recipe.pixelnerf or shipped, processes.device)
        self.perceptual = Perceptual.load("lpips", device=processes.device) if recipe.lpips else None
        self._load()
        self._validation = None if recipe.validation is None else self._open(recipe.validation)
        config = OrbitDiTConfig(
            self.data.size, recipe.channels, recipe.width, recipe.depth, recipe.warps, recipe.sigma_data
        )
        if self.data.size % config.patch:
            raise V3DError(
                f"The views have {self.data.size} pixels, no multiple of {config.patch}: change --channels, or render others."
            )
        torch.manual_seed(recipe.seed)
        net = OrbitDiT(config) if init is None else load_dit(init)
        if net.config != config:
            raise V3DError(
                f"The network in {init} is {net.config}, the recipe's is {config}; change the recipe."
            )
        self.grid = config.grid
        self.network = net.to(processes.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _open(self, folder: Path) -> OrbitGuides | SceneGuides:
        r = self.recipe
        if r.of == "scenes":
            return SceneGuides(folder, self.pixelnerf, r.warps, r.source_counts, r.views)
        return OrbitGuides(folder, self.pixelnerf, r.warps)

    def _load(self) -> None:
        """The data; the first process draws the guides that are not in the cache."""
        if not self.processes.main:
            self.processes.wait()
        self.data = self._open(self.recipe.data)
        if self.processes.main:
            self.processes.wait()
        self.order = Order(len(self.data), self.recipe.seed)

    def refresh(self) -> None:
        self._load()

    def views(self, done: float) -> int:
        """Views of an example, `done` in [0, 1] of the way."""
        return self.recipe.views if done <= self.recipe.all_views_after else self.recipe.all_views

    def batch_size(self, done: float) -> int:
        """As many views in every step, more or less."""
        return max(1, self.recipe.batch * self.recipe.views // self.views(done))

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        """The first of `first_steps` samples take the sampler's first step, from pure noise, and are looked at."""
        r, g = self.recipe, share.generator()
        count = r.source_counts[int(torch.randint(len(r.source_counts), (), generator=g))]
        keep = (torch.rand(share.batch, generator=g) >= r.drop)[share.samples].to(share.device)
        sigma = NoiseLaw(r.P_mean, r.P_std).sample(share.batch, g)[share.samples].to(share.device)
        first = torch.tensor([j < r.first_steps * share.batch for j in share.samples], device=share.device)
        sigma = torch.where(first, SIGMA_MAX, sigma)
        cut, ground = torch.randint(_CUT, (2,), generator=g).tolist(), torch.rand(3, generator=g)
        examples = [
            self.data.draw(
                self.order[share.position + j], count, self.views(share.done), share.sample_generator(j)
            )
            for j in share.samples
        ]
        batch = Batch.of(examples, self.grid, share.device)
        x0 = batch.residual
        noise = torch.stack(
            [
                torch.randn(
                    x0.shape[1:], generator=share.sample_generator(j, share.device), device=share.device
                )
                for j in share.samples
            ]
        )
        estimate = denoiser(network, batch, keep, r.sigma_data)(x0 + expand(sigma, x0) * noise, sigma)
        weight = Preconditioning(r.sigma_data).loss_weight(sigma)
        loss = weight * (estimate - x0).square().flatten(1).mean(1)
        values = {
            "loss": loss,
            "first step": loss.where(first, torch.nan),
            "noisy": loss.where(~first, torch.nan),
        }
        if self.perceptual is None:
            return values
        unlike = loss.new_full(loss.shape, torch.nan)
        if first.any():
            drawn, true = (on(t[first], ground) for t in (self.drawn(batch, estimate), batch.views))
            unlike[first] = self.unlike(drawn, true, cut)
        return values | {"loss": loss + r.lpips * unlike.nan_to_num(0), "lpips": unlike}

    def drawn(self, batch: Batch, residual: Tensor) -> Tensor:
        """The views [B, V, 4, S, S] that the model would show, as `v3d.diffusion.mini` makes them."""
        return add_residual(batch.guide.images, residual, opaque=self.pixelnerf.config.opaque)

    def unlike(self, drawn: Tensor, true: Tensor, cut: list[int]) -> Tensor:
        """[B] LPIPS of colours [B, V, H, W, 3], without `cut` rows and columns at their top and left, others at bottom and right."""
        assert self.perceptual is not None
        (y, x), (h, w) = cut, drawn.shape[2:4]
        a, b = (t[:, :, y : h - _CUT + y, x : w - _CUT + x].flatten(0, 1) for t in (drawn, true))
        return self.perceptual.distances(a, self.perceptual.prepare(b)).unflatten(0, drawn.shape[:2]).mean(1)

    def export(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, OrbitDiT)
        r = self.recipe
        export_mini(self.pixelnerf, network, folder, Sampling(steps=r.sampler_steps, guidance=r.guidance))

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """For every number of photos the PSNR and LPIPS of the guide and of one step, the loss at three noise levels; and
        rows of pictures: photos, truth, guide, one step."""
        if self._validation is None:
            return {}, None
        counts = self.recipe.source_counts
        lpips = Perceptual.load("lpips", device=next(network.parameters()).device)
        scores: dict[str, list[float]] = {}
        rows = []
        for i in range(min(_VALIDATION, len(self._validation))):
            for count in counts:
                measured, row = self._look(network, self._validation, i, count, lpips)
                for name, value in measured.items():
                    scores.setdefault(name, []).append(value)
                if i < _SHOWN and count == counts[len(counts) // 2]:
                    rows.append(row)
        return {name: sum(v) / len(v) for name, v in scores.items()}, torch.cat(rows)

    def _look(
        self, network: nn.Module, data: OrbitGuides | SceneGuides, i: int, count: int, lpips: Perceptual
    ) -> tuple[dict[str, float], Tensor]:
        """What `validate` measures of the i-th example with `count` photos, and its row of pictures."""
        r, device = self.recipe, next(network.parameters()).device
        fast = self.processes.precision(r.precision) == torch.bfloat16
        generator = torch.Generator().manual_seed(i)
        batch = Batch.of([data.draw(i, count, r.views, generator)], self.grid, device)
        x0 = batch.residual
        noise = torch.randn(x0.shape, generator=generator).to(device)
        D = denoiser(network, batch, torch.ones(1, dtype=torch.bool, device=device), r.sigma_data)

        def denoise(sigma: float, x: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=fast):
                return D(x, x.new_full((1,), sigma))

        drawn = self.drawn(batch, denoise(SIGMA_MAX, SIGMA_MAX * noise))
        true, *made = (pixels(images)[0] for images in (batch.views, batch.guide.images, drawn))
        features = lpips.prepare(true)
        scores = {}
        for name, images in zip(("guide", "one step"), made, strict=True):
            mse = (images - true).square().mean((1, 2, 3)).clamp_min(1e-10)
            scores[f"psnr of {name}, {count}"] = float(-10 * mse.log10().mean())
            scores[f"lpips of {name}, {count}"] = float(lpips(images, features))
        for level in _LEVELS:
            sigma = level * r.sigma_data
            error = (denoise(sigma, x0 + sigma * noise) - x0).square().mean()
            weight = Preconditioning(r.sigma_data).loss_weight(torch.tensor(sigma))
            scores[f"loss at {level:g}"] = float(weight * error)
        shown = [pixels(batch.photos)[0, :3], *(images[:4] for images in (true, *made))]
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


def pixels(images: Tensor) -> Tensor:
    """[..., 4, H, W] in [-1, 1] -> colours [..., H, W, 3] in [0, 1], on white."""
    return (images[..., :3, :, :] / 2 + 0.5).clamp(0, 1).movedim(-3, -1)


def on(images: Tensor, ground: Tensor) -> Tensor:
    """[..., 4, H, W] in [-1, 1] -> colours [..., H, W, 3] in [0, 1] on a ground of another colour [3], which shows alpha too."""
    clear = (1 - images[..., 3:, :, :]).clamp(0, 2).movedim(-3, -1) / 2
    return (pixels(images) - clear * (1 - ground.to(images))).clamp(0, 1)
