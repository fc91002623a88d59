"""What the training of OrbitDiT on orbits and on scenes has in common: the network, its loss, its exported model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from v3d.diffusion.dit import Geometry, OrbitDiT, OrbitDiTConfig, load_dit
from v3d.diffusion.edm import Denoiser, NoiseLaw, Preconditioning, expand
from v3d.diffusion.mini import MiniModel
from v3d.diffusion.pixelnerf import PixelNeRF
from v3d.diffusion.vae import VAE
from v3d.errors import V3DError
from v3d.training.export import Sampling
from v3d.training.loop import Draw
from v3d.training.recipe import OrbitRecipe, SceneRecipe

SIGMA_MAX = Sampling().sigma_max


@dataclass(frozen=True)
class Batch:
    """Latents of B sets of V views, and what is known of them.

    Attributes:
        views: [B, V, C, h, w].
        guide: [B, V, C, h, w] of PixelNeRF's images of the views.
        photos: [B, N, C, h, w].
        geometry: of N + V cameras, the same for all sets or one for each.
    """

    views: Tensor
    guide: Tensor
    photos: Tensor
    geometry: Geometry

    @property
    def residual(self) -> Tensor:
        """What the guide leaves of the views: the video model's data."""
        return self.views - self.guide


def make_dit(recipe: OrbitRecipe | SceneRecipe, latents: Tensor, init: Path | None) -> OrbitDiT:
    """A network for latents [..., C, h, w]: new, or that of the mini model in the folder `init`.

    Raises:
        V3DError: the network in `init` is of other sizes than the recipe's.
    """
    config = OrbitDiTConfig(latents.shape[-3], latents.shape[-1], recipe.patch, recipe.width, recipe.depth)
    torch.manual_seed(recipe.seed)
    net = OrbitDiT(config) if init is None else load_dit(init)
    if net.config != config:
        raise V3DError(f"The network in {init} is {net.config}, the recipe's is {config}; change the recipe.")
    return net


@dataclass(frozen=True)
class Denoised:
    """What the network makes of noisy residuals.

    Attributes:
        loss: [B] EDM loss.
        sigma: [B] noise level.
        estimate: [B, V, C, h, w] of the residual.
    """

    loss: Tensor
    sigma: Tensor
    estimate: Tensor


def denoise_residual(
    network: nn.Module,
    batch: Batch,
    draw: Draw,
    recipe: OrbitRecipe | SceneRecipe,
    g: torch.Generator,
    pure_noise: Tensor | None = None,
) -> Denoised:
    """Noise the residuals of a batch and denoise them; what all samples share is drawn from `g`.

    Args:
        pure_noise: [B] samples at `SIGMA_MAX`, where a sampler begins; the others follow the recipe's noise law.
    """
    keep = (torch.rand(draw.batch, generator=g) >= recipe.drop)[draw.samples].to(draw.device)
    sigma = NoiseLaw(recipe.P_mean, recipe.P_std).sample(draw.batch, g)[draw.samples].to(draw.device)
    if pure_noise is not None:
        sigma = sigma.masked_fill(pure_noise.to(draw.device), SIGMA_MAX)
    x0 = batch.residual
    noise = torch.stack(
        [
            torch.randn(x0.shape[1:], generator=draw.sample_generator(j, draw.device), device=draw.device)
            for j in draw.samples
        ]
    )
    estimate = denoiser(network, batch, keep, recipe)(x0 + expand(sigma, x0) * noise, sigma)
    error = (estimate - x0).square().flatten(1).mean(1)
    return Denoised(Preconditioning(recipe.sigma_data).loss_weight(sigma) * error, sigma, estimate)


def denoiser(network: nn.Module, batch: Batch, keep: Tensor, recipe: OrbitRecipe | SceneRecipe) -> Denoiser:
    """`D(x, sigma)` of the batch's residual; `keep` [B] is False where the photos are withheld."""
    raw = partial(network, photos=batch.photos, keep=keep, geometry=batch.geometry, guide=batch.guide)
    return partial(Preconditioning(recipe.sigma_data).denoise, raw)


def sampling(recipe: OrbitRecipe | SceneRecipe) -> Sampling:
    """Sampler defaults of the exported model."""
    return Sampling(steps=recipe.sampler_steps, guidance=recipe.guidance, sigma_data=recipe.sigma_data)


def mini_model(vae: VAE, pixelnerf: PixelNeRF, dit: OrbitDiT, recipe: OrbitRecipe | SceneRecipe) -> MiniModel:
    """The whole model, to be sampled."""
    size = 8 * dit.config.latent_size
    return MiniModel(vae=vae, pixelnerf=pixelnerf, dit=dit, size=size, hash="", **vars(sampling(recipe)))


def psnr(mse: Tensor) -> float:
    """Mean over images of -10 log10(mse)."""
    return float((-10 * mse.clamp_min(1e-10).log10()).mean())
