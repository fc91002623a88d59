"""Training of OrbitDiT: denoise what PixelNeRF's guide leaves of the latents of an orbit's views."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.diffusion.dit import Geometry, OrbitDiT
from v3d.diffusion.edm import Preconditioning, edm_loss
from v3d.diffusion.pixelnerf import load_pixelnerf
from v3d.diffusion.vae import load_vae
from v3d.training.dataset import OrbitShards, Order
from v3d.training.export import export_mini
from v3d.training.latents import Latents, encode
from v3d.training.loop import Draw
from v3d.training.recipe import OrbitRecipe
from v3d.training.video import Batch, denoise_residual, denoiser, make_dit, mini_model, psnr, sampling
from v3d.training.world import ALONE, World
from v3d.views import straight_rgba
from v3d.weights import MINI

BUCKETS = (0.0, 0.5, 2.0, 8.0, float("inf"))
_VALIDATION, _SHOWN = 32, 4


class OrbitTask:
    """See `v3d.training.loop.Task`."""

    network: nn.Module

    def __init__(self, recipe: OrbitRecipe, world: World = ALONE, init: Path | None = None) -> None:
        """Encode the data and make the network.

        Args:
            init: folder of a mini model to start from; its sizes must be the recipe's.

        Raises:
            V3DError: data or weights are missing or do not fit.
        """
        self.recipe, self.world = recipe, world
        self.vae = load_vae(recipe.vae or MINI, world.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pixelnerf = load_pixelnerf(recipe.pixelnerf or MINI, world.device)
        self._load()
        if recipe.validation is not None:
            self._validation_shards = OrbitShards(recipe.validation)
            self._validation = encode(self._validation_shards, self.vae, self.pixelnerf)
        self.network = make_dit(recipe, self.latents.views, init).to(world.device)
        self.geometry = Geometry.of(orbit(ORBIT_VIEWS), self.network.grid).to(world.device)

    def _load(self) -> None:
        """The data; the first process encodes what is not in the cache."""
        if not self.world.main:
            self.world.wait()
        self.latents = encode(
            OrbitShards(self.recipe.data), self.vae, self.pixelnerf, self.recipe.appearances
        )
        if self.world.main:
            self.world.wait()
        self.order = Order(len(self.latents), self.recipe.seed)

    def refresh(self) -> None:
        if len(OrbitShards(self.recipe.data)) * self.recipe.appearances > len(self.latents):
            self._load()

    def batch_size(self, done: float) -> int:
        r = self.recipe
        if done <= r.all_views_after:
            return r.batch
        return max(1, r.batch * (r.views_per_orbit + 1) // (ORBIT_VIEWS + 1))

    def losses(self, network: nn.Module, draw: Draw) -> dict[str, Tensor]:
        r, g = self.recipe, draw.generator()
        frames = torch.arange(ORBIT_VIEWS)
        if draw.done <= r.all_views_after:
            frames = torch.randperm(ORBIT_VIEWS, generator=g)[: r.views_per_orbit]
        index = torch.tensor([self.order[draw.position + j] for j in draw.samples])
        batch = self._batch(self.latents, index, frames, draw.device)
        out = denoise_residual(network, batch, draw, r, g)
        return {"loss": out.loss} | {
            f"loss sigma {low:g}-{high:g}": out.loss.where((out.sigma >= low) & (out.sigma < high), torch.nan)
            for low, high in pairwise(BUCKETS)
        }

    def _batch(self, latents: Latents, index: Tensor, frames: Tensor, device: torch.device) -> Batch:
        """The orbits `index` [B], of which the views `frames` [V]."""
        return Batch(
            views=latents.views[index[:, None], frames].to(device).float(),
            guide=latents.guides[index[:, None], frames].to(device).float(),
            photos=latents.photo[index, None].to(device).float(),
            geometry=self.geometry[[0, *frames.tolist()]],
        )

    def export(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, OrbitDiT)
        export_mini(self.vae, self.pixelnerf, network, folder, sampling(self.recipe))

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """One-step controls from almost pure noise, the loss at four noise levels, and whole samples.

        `D80` is the RMSE, in latents, of the guide and D(x, 80) for the views after the first. 'reversed' compares it with the
        truth played backwards and 'wrong' gives it another object's photo: a model that has learned to turn, and
        to look at the photo, is worse on both. 'guide' is PixelNeRF's answer, 'repeat' the photo's view repeated.
        """
        if self.recipe.validation is None:
            return {}, None
        assert isinstance(network, OrbitDiT)
        device = self.geometry.plucker.device
        found = self._validation
        index = torch.arange(min(_VALIDATION, len(found)))
        batch = self._batch(found, index, torch.arange(ORBIT_VIEWS), device)
        other = self._batch(found, index.roll(1), torch.arange(ORBIT_VIEWS), device)
        keep = torch.ones(len(index), dtype=torch.bool, device=device)
        views, x0 = batch.views, batch.residual
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(device)
        fast = self.world.precision(self.recipe.precision) == torch.bfloat16

        def rmse(a: Tensor, b: Tensor) -> float:
            return (a[:, 1:] - b[:, 1:]).square().mean().sqrt().item()

        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            denoise = denoiser(network, batch, keep, self.recipe)
            sigma = torch.full((len(x0),), 80.0, device=device)
            estimate = batch.guide + denoise(x0 + 80 * noise, sigma)
            wrong = other.guide + denoiser(network, other, keep, self.recipe)(x0 + 80 * noise, sigma)
            values = {
                "D80": rmse(estimate, views),
                "reversed": rmse(estimate, views[:, [0, *range(ORBIT_VIEWS - 1, 0, -1)]]),
                "wrong": rmse(wrong, views),
                "guide": rmse(batch.guide, views),
                "repeat": rmse(views[:, :1].expand_as(views), views),
            }
            edm = Preconditioning(self.recipe.sigma_data)
            for level in (0.3, 1.0, 4.0, 20.0):
                loss = edm_loss(denoise, x0, sigma / 80 * level, noise, edm)
                values[f"loss{level:g}"] = loss.mean().item()
        scores, picture = self._samples(network)
        return values | scores, picture

    def _samples(self, network: OrbitDiT) -> tuple[dict[str, float], Tensor]:
        """PSNR of sampled views, and a row for each object: photo, six generated views, the six true ones."""
        model = mini_model(self.vae, self.pixelnerf, network, self.recipe)
        rows, made, repeated = [], [], []
        for i in range(min(_SHOWN, len(self._validation_shards))):
            true, photo = (x.float() / 255 for x in self._validation_shards[i])
            views = model(straight_rgba(photo[..., :3], photo[..., 3]).float() / 255).rgb
            made.append((views - true[..., :3])[1:].square().mean())
            repeated.append((true[:1, ..., :3] - true[..., :3])[1:].square().mean())
            rows.append(torch.cat([photo[..., :3], *views[::3], *true[::3, ..., :3]], 1))
        return {"psnr": psnr(torch.stack(made)), "psnr of repeating": psnr(torch.stack(repeated))}, torch.cat(
            rows
        )
