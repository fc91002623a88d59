"""Tuning of SVD's UNet on orbits, with the paper's changes to SVD's own training (paper sec. 3.1).

Much more noise (ln sigma ~ N(1.5, 2^2)), the photo's latent and its CLIP embedding withheld one by one at a
rate of 0.2, log-normal noise on the photo's latent, constant frame rate and motion, a random front, and no
elevation condition. VAE and CLIP tower are frozen and run once (`v3d.training.svd_latent_cache`).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from v3d.cameras import ORBIT_VIEWS
from v3d.data.orbit_shards import OrbitShards
from v3d.diffusion import edm
from v3d.diffusion.conditions import (
    FPS,
    MOTION_BUCKET,
    NOISE_AUGMENTATION,
    Conditions,
    cat_conditions,
    run_unet,
)
from v3d.diffusion.official.networks import load_networks, official_folder, save_networks
from v3d.diffusion.svd import SVDModel, use_single_token_attention
from v3d.errors import V3DError
from v3d.metrics import decibels
from v3d.training.order import Order
from v3d.training.processes import SINGLE_PROCESS, Processes
from v3d.training.recipe import SVDRecipe
from v3d.training.svd_latent_cache import LatentCache, OrbitLatents, pixels
from v3d.training.task import BatchShare

EDM = edm.Preconditioning()
"""SVD's preconditioning."""

BUCKETS = (0.0, 0.5, 2.0, 8.0, 40.0, float("inf"))
"""Ranges of sigma whose losses are logged apart."""

_LEVELS = (0.3, 1.0, 4.0, 20.0, 100.0)
_VALIDATION, _SHOWN = 16, 2


class SVDTask:
    """Tunes SVD's UNet on orbits, as the paper does (a `v3d.training.task.Task`).

    Attributes:
        network: the UNet.
    """

    network: nn.Module

    def __init__(self, recipe: SVDRecipe, processes: Processes = SINGLE_PROCESS) -> None:
        """Load the networks and encode the data.

        Args:
            recipe: what is trained, and how.
            processes: this process among those that train together.

        Raises:
            V3DError: data or weights are missing or do not fit, or a step has fewer samples than parts.
        """
        if recipe.batch < processes.size * recipe.accumulate:
            raise V3DError(
                f"A batch of {recipe.batch} cannot be cut into {recipe.accumulate} parts for each of"
                f" {processes.size} processes; lower --accumulate or raise --batch."
            )
        self.recipe, self.processes = recipe, processes
        self.folder = official_folder(recipe.model)
        self.networks = load_networks(self.folder, torch.float32)
        self.scale = float(self.networks.vae.config.scaling_factor)
        self._load()
        if recipe.validation is not None:
            self._validation_shards = OrbitShards(recipe.validation)
            self._validation = self._encode(self._validation_shards)
        self.networks.vae.to(processes.device)
        # diffusers warns of any .to(dtype).
        logging.getLogger("diffusers.models.modeling_utils").setLevel(logging.ERROR)
        unet = self.networks.unet.to(processes.device)
        use_single_token_attention(unet)
        if recipe.checkpointing:
            recompute_blocks(unet)
        for name, p in unet.named_parameters():
            p.requires_grad_(recipe.layers == "all" or is_temporal(name))
        self.network = unet.train()
        self.noise_distribution = edm.NoiseDistribution(recipe.P_mean, recipe.P_std)

    def _encode(self, shards: OrbitShards) -> LatentCache:
        """The first process encodes what is not in the cache."""
        n = self.networks
        if not self.processes.main:
            self.processes.wait()
        cache = LatentCache(shards, n.vae, n.image_encoder, self.recipe.size, self.processes.device)
        n.image_encoder.to("cpu")  # training itself does not need it
        if self.processes.main:
            self.processes.wait()
        return cache

    def _load(self) -> None:
        self.latents = self._encode(OrbitShards(self.recipe.data))
        self.order = Order(len(self.latents), self.recipe.seed)

    def refresh(self) -> None:
        """Encode orbits that have arrived."""
        if len(OrbitShards(self.recipe.data)) > len(self.latents):
            self._load()

    def close(self) -> None:
        """Nothing was started."""

    def batch_size(self, step: int, done: float) -> int:
        """Orbits of a step; always the recipe's."""
        return self.recipe.batch

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        """Per orbit [B]: the EDM loss, and the same value under the name of its range of sigma."""
        r, g = self.recipe, share.generator()
        sigma = self.noise_distribution.sample(share.batch, g)
        augmentation = (
            r.augmentation_mean + r.augmentation_std * torch.randn(share.batch, generator=g)
        ).exp()
        keep = torch.rand(share.batch, 2, generator=g) >= r.drop
        fronts = torch.randint(ORBIT_VIEWS if r.random_front else 1, (share.batch,), generator=g)
        x0, noise, conditions = [], [], []
        for j in share.samples:
            orbit = self.latents[self.order[share.position + j]].from_front(int(fronts[j]))
            generator = share.sample_generator(j, share.device)
            views, condition = self.sample(orbit, float(augmentation[j]), generator)
            x0.append(views)
            noise.append(torch.randn(views.shape, generator=generator, device=share.device))
            conditions.append(withheld(condition, embedding=not keep[j, 0], latent=not keep[j, 1]))
        sigma = sigma[share.samples].to(share.device)
        denoise = partial(EDM.denoise, partial(run_unet, network, conditions=cat_conditions(conditions)))
        loss = edm.edm_loss(denoise, torch.stack(x0), sigma, torch.stack(noise), EDM)
        return {"loss": loss} | {
            f"loss sigma {low:g}-{high:g}": loss.where((sigma >= low) & (sigma < high), torch.nan)
            for low, high in pairwise(BUCKETS)
        }

    def sample(
        self, orbit: OrbitLatents, augmentation: float, generator: torch.Generator
    ) -> tuple[Tensor, Conditions]:
        """Scaled latents [V, 4, h, w] of the views, and the conditions (of one photo) that belong to them.

        As the sampler has them: the photo's latent is a sample of the VAE's posterior, not scaled, to which
        noise of standard deviation `augmentation` is added; that number is the third time id.
        """
        device = generator.device
        mean, std = orbit.mean.to(device), orbit.std.to(device)
        z = mean + std * torch.randn(mean.shape, generator=generator, device=device)
        latent = z[:1] + augmentation * torch.randn(z[:1].shape, generator=generator, device=device)
        time_ids = torch.tensor([[FPS, MOTION_BUCKET, augmentation]], device=device)
        return z[1:] * self.scale, Conditions(orbit.embedding[:1, None].to(device), latent, time_ids)

    def export(self, network: nn.Module, folder: Path) -> None:
        """Write a folder as `v3d convert` does: this UNet, and the recipe's model's other networks."""
        trained = {name for name, p in self.network.named_parameters() if p.requires_grad}
        tuned = {name: tensor for name, tensor in network.state_dict().items() if name in trained}
        save_networks(tuned, self.folder, folder)

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """The loss at fixed noise levels over objects not trained on, and orbits sampled for some."""
        if self.recipe.validation is None:
            return {}, None
        device = self.processes.device
        fast = self.processes.precision(self.recipe.precision) == torch.bfloat16
        losses = torch.zeros(len(_LEVELS))
        count = min(_VALIDATION, len(self._validation))
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            for i in range(count):
                generator = torch.Generator(device).manual_seed(i)
                x0, conditions = self.sample(self._validation[i], NOISE_AUGMENTATION, generator)
                noise = torch.randn(x0.shape, generator=generator, device=device)
                denoise = partial(EDM.denoise, partial(run_unet, network, conditions=conditions))
                for k, level in enumerate(_LEVELS):
                    sigma = torch.full((1,), level, device=device)
                    losses[k] += float(edm.edm_loss(denoise, x0[None], sigma, noise[None], EDM)) / count
            scores, picture = self._sampled(network)
        return {f"loss{level:g}": float(losses[k]) for k, level in enumerate(_LEVELS)} | scores, picture

    def _sampled(self, network: nn.Module) -> tuple[dict[str, float], Tensor]:
        """PSNR of sampled views, and a row for each object: photo, six generated views, the six true ones."""
        r, device = self.recipe, self.processes.device
        model = SVDModel(replace(self.networks, unet=network), device, "", size=r.size)
        rows, generated, repeated = [], [], []
        for i in range(min(_SHOWN, len(self._validation))):
            generator = torch.Generator(device).manual_seed(i)
            x0, conditions = self.sample(self._validation[i], NOISE_AUGMENTATION, generator)
            noise = torch.randn(x0[None].shape, generator=generator, device=device)
            latents = model.sample(conditions, noise, r.sampler_steps, r.guidance)
            views = (model.decode(latents[0]).cpu() * 0.5 + 0.5).clamp(0, 1)
            true, photo = (pixels(images, r.size) for images in self._images(i))
            generated.append((views - true)[1:].square().mean())
            repeated.append((true[:1] - true)[1:].square().mean())
            rows.append(torch.cat([photo[0], *views[::3], *true[::3]], -1).permute(1, 2, 0))
        scores = {"psnr": _psnr(generated), "psnr of repeating": _psnr(repeated)}
        return scores, torch.cat(rows)

    def _images(self, i: int) -> tuple[Tensor, Tensor]:
        views, photo = self._validation_shards[i]
        return views, photo[None]


def is_temporal(name: str) -> bool:
    """Whether a parameter of the UNet mixes frames (or says how much they are mixed)."""
    return "temporal_" in name or ".time_pos_embed." in name or ".time_mixer." in name


def recompute_blocks(unet: nn.Module) -> None:
    """Let every residual and attention block of the UNet keep nothing but its inputs for the backward pass.

    The UNet is changed in place; the rest is computed again when it is needed. diffusers' own checkpointing
    leaves the temporal transformers out.
    """
    for module in unet.modules():
        if type(module).__name__ in ("SpatioTemporalResBlock", "TransformerSpatioTemporalModel"):
            module.__class__ = _recomputing(type(module))  # type: ignore[arg-type]


@cache
def _recomputing(kind: Any) -> Any:
    """A class, not a wrapped method, so that deep copies of a module compute with their own weights."""

    class Recomputing(kind):  # type: ignore[misc,unused-ignore]  # a class known at run time only
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return super().forward(*args, **kwargs)
            return checkpoint(super().forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return Recomputing


def withheld(conditions: Conditions, *, embedding: bool, latent: bool) -> Conditions:
    """Conditions without the embedding, the latent, both or neither: what guidance subtracts has neither."""
    dropped = conditions.dropped()
    return replace(
        conditions,
        embedding=dropped.embedding if embedding else conditions.embedding,
        latent=dropped.latent if latent else conditions.latent,
    )


def _psnr(mse: list[Tensor]) -> float:
    return float(decibels(torch.stack(mse)).mean())
