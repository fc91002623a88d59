"""Training of OrbitDiT: denoise what PixelNeRF's guide leaves of the latents of an orbit's views."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.diffusion.dit import Geometry, OrbitDiT, OrbitDiTConfig
from v3d.diffusion.edm import NoiseLaw, Preconditioning, edm_loss
from v3d.diffusion.mini import MiniModel
from v3d.diffusion.pixelnerf import load_pixelnerf
from v3d.diffusion.vae import load_vae
from v3d.errors import V3DError
from v3d.training.dataset import OrbitShards, Order
from v3d.training.export import Sampling, export_mini
from v3d.training.latents import encode
from v3d.training.loop import Draw
from v3d.training.recipe import OrbitRecipe
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
        channels, size = self.latents.views.shape[2], self.latents.views.shape[-1]
        config = OrbitDiTConfig(channels, size, recipe.patch, recipe.width, recipe.depth)
        if init is None:
            torch.manual_seed(recipe.seed)
            net = OrbitDiT(config)
        else:
            net = MiniModel.load(init).dit.requires_grad_(True).train()
            if net.config != config:
                raise V3DError(
                    f"The network in {init} is {net.config}, the recipe's is {config}; change the recipe."
                )
        self.network = net.to(world.device)
        self.geometry = Geometry.of(orbit(ORBIT_VIEWS), net.grid).to(world.device)
        self.law, self.edm = NoiseLaw(recipe.P_mean, recipe.P_std), Preconditioning(recipe.sigma_data)

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
        keep = (torch.rand(draw.batch, generator=g) >= r.drop)[draw.samples].to(draw.device)
        sigma = self.law.sample(draw.batch, g)[draw.samples].to(draw.device)
        index = torch.tensor([self.order[draw.position + j] for j in draw.samples])
        x0 = self.latents.views[index[:, None], frames].to(draw.device).float()
        photo = self.latents.photo[index].to(draw.device).float()
        guide = self.latents.guides[index[:, None], frames].to(draw.device).float()
        noise = torch.stack(
            [
                torch.randn(x0.shape[1:], generator=draw.sample_generator(j, draw.device), device=draw.device)
                for j in draw.samples
            ]
        )
        geometry = self.geometry[[0, *frames.tolist()]]
        raw = partial(raw_network, network, photos=photo[:, None], keep=keep, geometry=geometry, guide=guide)
        denoise = partial(self.edm.denoise, raw)
        loss = edm_loss(denoise, x0 - guide, sigma, noise, self.edm)
        return {"loss": loss} | {
            f"loss sigma {low:g}-{high:g}": loss.where((sigma >= low) & (sigma < high), torch.nan)
            for low, high in pairwise(BUCKETS)
        }

    def _sampling(self) -> Sampling:
        r = self.recipe
        return Sampling(steps=r.sampler_steps, guidance=r.guidance, sigma_data=r.sigma_data)

    def export(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, OrbitDiT)
        export_mini(self.vae, self.pixelnerf, network, folder, self._sampling())

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
        views = self._validation.views[:_VALIDATION].to(device).float()
        photos = self._validation.photo[:_VALIDATION].to(device).float()
        guides = self._validation.guides[:_VALIDATION].to(device).float()
        keep = torch.ones(len(views), dtype=torch.bool, device=device)
        geometry = self.geometry[[0, *range(ORBIT_VIEWS)]]
        noise = torch.randn(views.shape, generator=torch.Generator().manual_seed(0)).to(device)

        precision = self.world.precision(self.recipe.precision)

        def denoise(x: Tensor, sigma: Tensor, photo: Tensor = photos, guide: Tensor = guides) -> Tensor:
            raw = partial(
                raw_network, network, photos=photo[:, None], keep=keep, geometry=geometry, guide=guide
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
                return self.edm.denoise(raw, x, sigma)

        def rmse(a: Tensor, b: Tensor) -> float:
            return (a[:, 1:] - b[:, 1:]).square().mean().sqrt().item()

        sigma = torch.full((len(views),), 80.0, device=device)
        x = views - guides + 80 * noise
        estimate = guides + denoise(x, sigma)
        wrong = guides.roll(1, 0) + denoise(x, sigma, photos.roll(1, 0), guides.roll(1, 0))
        values = {
            "D80": rmse(estimate, views),
            "reversed": rmse(estimate, views[:, [0, *range(ORBIT_VIEWS - 1, 0, -1)]]),
            "wrong": rmse(wrong, views),
            "guide": rmse(guides, views),
            "repeat": rmse(views[:, :1].expand_as(views), views),
        }
        for level in (0.3, 1.0, 4.0, 20.0):
            values[f"loss{level:g}"] = (
                edm_loss(denoise, views - guides, sigma / 80 * level, noise, self.edm).mean().item()
            )
        scores, picture = self._samples(network)
        return values | scores, picture

    def _samples(self, network: OrbitDiT) -> tuple[dict[str, float], Tensor]:
        """PSNR of sampled views, and a row for each object: photo, six generated views, the six true ones."""
        model = MiniModel(
            vae=self.vae,
            pixelnerf=self.pixelnerf,
            dit=network,
            size=8 * network.config.latent_size,
            hash="",
            **vars(self._sampling()),
        )
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


def psnr(mse: Tensor) -> float:
    """Mean over images of -10 log10(mse)."""
    return float((-10 * mse.clamp_min(1e-10).log10()).mean())


def raw_network(
    net: nn.Module,
    x: Tensor,
    c_noise: Tensor,
    *,
    photos: Tensor,
    keep: Tensor,
    geometry: Geometry,
    guide: Tensor,
) -> Tensor:
    """The raw network in the precision of its weights; inputs and output are float32."""
    dtype = next(net.parameters()).dtype
    out: Tensor = net(x.to(dtype), c_noise, photos.to(dtype), keep, geometry, guide.to(dtype))
    return out.float()
