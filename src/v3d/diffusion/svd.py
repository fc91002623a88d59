"""The released model: Stable Video Diffusion as V3D tuned it for orbits (paper sec. 3.1), run as there.

Conditions: the photo's CLIP embedding by cross-attention, its latent joined to every frame, and three
numbers (frames per second, motion bucket, noise augmentation) with the noise level.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from v3d.callbacks import OnStep
from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.capture.plain import soft_alpha
from v3d.compositing import over_white, resize_rgba
from v3d.diffusion import edm
from v3d.diffusion.conditions import (
    FPS,
    MOTION_BUCKET,
    NOISE_AUGMENTATION,
    Conditions,
    cat_conditions,
    clip_pixels,
    run_unet,
)
from v3d.diffusion.official.networks import OfficialNetworks, load_networks
from v3d.diffusion.photos import OrbitPhotos, with_photos
from v3d.distribution import install_hint
from v3d.errors import V3DError
from v3d.runtime import has_fast_bfloat16
from v3d.views import Views

STEPS, GUIDANCE = 25, 3.5

_log = logging.getLogger(__name__)


@dataclass
class SVDModel:
    """The released networks and how they are run.

    Attributes:
        networks: UNet, VAE and CLIP image tower.
        device: where the sampling runs.
        hash: fingerprint of the weight files, for reports.
        memory: "normal" keeps everything on the device, guides in one batch and decodes 6 frames at a
            time; "low" keeps one network there at a time, guides in two passes and decodes frame by frame.
        views: frames of the orbit.
        size: pixels of a view's side.
        sampler: `edm.euler` as in the paper; `edm.dpm_solver_2m` wants fewer steps
            (docs/official_weights.md).
    """

    networks: OfficialNetworks
    device: torch.device
    hash: str
    agrees_in_colour: ClassVar[bool] = True
    memory: Literal["normal", "low"] = "normal"
    views: int = ORBIT_VIEWS
    size: int = 512
    sampler: edm.Sampler = edm.euler

    @staticmethod
    def load(
        source: str | Path,
        device: torch.device | str = "cpu",
        *,
        memory: Literal["auto", "normal", "low"] = "auto",
        dtype: torch.dtype | None = None,
        sampler: edm.Sampler = edm.euler,
        int8: bool = False,
    ) -> SVDModel:
        """Load a folder that `v3d convert` wrote, a diffusers folder of SVD, or such a hub repository.

        Args:
            source: the folder, or the hub id `owner/name`.
            device: where the sampling runs.
            memory: see the class; "auto" is low on devices with less than 12 GB.
            dtype: of the weights; by default float16 on a GPU (as the original's autocast), bfloat16 on
                CPUs that compute in it, else float32.
            sampler: see the class.
            int8: keep the matrices of the UNet (54 % of its weights) as 8-bit integers (needs the extra
                `int8`).

        Raises:
            V3DError: see `v3d.diffusion.official.networks.load_networks`; or the device cannot be used.
        """
        device = torch.device(device)
        if dtype is None:
            on_cpu = torch.bfloat16 if has_fast_bfloat16() else torch.float32
            dtype = on_cpu if device.type == "cpu" else torch.float16
        if memory == "auto":
            memory = "low" if _device_bytes(device) < 12e9 else "normal"
        networks = load_networks(source, dtype)
        model = SVDModel(networks, device, networks.hash, memory, sampler=sampler)
        use_single_token_attention(model.networks.unet)
        if int8:
            store_in_int8(model.networks.unet)
        if memory == "normal":
            with _clear_device_errors(device):
                for network in (model.networks.unet, model.networks.vae, model.networks.image_encoder):
                    network.to(device)
        return model

    @torch.no_grad()
    def __call__(
        self,
        photos: OrbitPhotos,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
    ) -> Views:
        """Photos -> the views of their orbit.

        The front is the model's condition. Further photos hold their views in the sampler (`edm.hold`), so
        that the views between them are generated to fit.

        Args:
            photos: the front, and others that the orbit has a view of.
            seed: of all noise, drawn on the CPU, so that every device starts from the same.
            steps: sampler steps from sigma 700 to 0.002, at least 1.
            guidance: constant over frames, 3.5 to 4.5 in the paper.
            on_step: called after every step.

        Returns:
            Views [views, size, size]; view 0 is the photo itself wherever the model kept its framing.

        Raises:
            V3DError: there is not one step, a photo is of no view, or the device's memory is too small.
        """
        steps = STEPS if steps is None else steps
        guidance = GUIDANCE if guidance is None else guidance
        if steps < 1:
            raise V3DError(
                f"The official weights cannot take {steps} steps; give 1 or more, or leave steps out for"
                f" {STEPS}."
            )
        # The model saw level photos only: it turns around the object as the front shows it, tilted or not.
        cameras = orbit(self.views, size=self.size).tilted(photos.elevation)
        held = photos.among(cameras)
        if len(held) < len(photos):
            raise V3DError(
                f"With the official weights photos can be of the front or every {360 / self.views:g} degrees"
                " from it, at elevation 0 if there are several: the model generates these views only."
            )
        if self.device.type == "cpu":
            minutes = self.estimate_seconds(steps) / 60
            _log.warning("The official weights will take about %.0f minutes on this CPU.", math.ceil(minutes))
        images = {v: self._on_white(image) for v, image in held.items()}
        generator = torch.Generator().manual_seed(seed)
        with _clear_device_errors(self.device):
            conditions = self.condition(images.pop(0), generator)
            noise = torch.randn(1, self.views, *conditions.latent.shape[1:], generator=generator)
            known = {v: self.encode(image) for v, image in images.items()}
            latents = self.sample(conditions, noise.to(self.device), steps, guidance, on_step, known=known)
            frames = self.decode(latents[0])
        rgb = (frames * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu()
        alpha = torch.from_numpy(np.stack([soft_alpha(frame) for frame in rgb.numpy()]))
        return with_photos(Views(rgb, alpha, cameras), photos)

    def _on_white(self, rgba: Tensor) -> Tensor:
        """A photo [S, S, 4], straight alpha -> [1, 3, size, size] in [-1, 1]."""
        photo = resize_rgba(rgba.float().cpu(), self.size, self.size)
        return over_white(photo[..., :3], photo[..., 3]).permute(2, 0, 1)[None] * 2 - 1

    def encode(self, image: Tensor) -> Tensor:
        """Latent [4, h, w] of an image [1, 3, S, S] in [-1, 1], scaled as the UNet denoises it."""
        vae = self.networks.vae
        with self._resident(vae):
            pixels = image.to(self.device, vae.quant_conv.weight.dtype)
            latent: Tensor = vae.encode(pixels).latent_dist.mean[0].float() * vae.config.scaling_factor
        return latent

    def condition(self, image: Tensor, generator: torch.Generator) -> Conditions:
        """Conditions of photos [B, 3, S, S] in [-1, 1] (paper sec. 3.1).

        As in the original code, the latent is a *sample* of the VAE's posterior, and the augmentation noise
        is added to it, not to the photo.
        """
        networks, image = self.networks, image.to(self.device)
        with self._resident(networks.image_encoder):
            weight = networks.image_encoder.visual_projection.weight
            embedding = networks.image_encoder(clip_pixels(image).to(weight.dtype)).image_embeds
        with self._resident(networks.vae):
            pixels = image.to(networks.vae.quant_conv.weight.dtype)
            posterior = networks.vae.encode(pixels).latent_dist
        noise = torch.randn(2, *posterior.mean.shape, generator=generator).to(self.device)
        latent = posterior.mean + posterior.std * noise[0] + NOISE_AUGMENTATION * noise[1]
        time_ids = torch.tensor([[FPS, MOTION_BUCKET, NOISE_AUGMENTATION]], device=self.device)
        return Conditions(embedding[:, None], latent, time_ids.expand(len(image), -1))

    def sample(
        self,
        conditions: Conditions,
        noise: Tensor,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        on_step: OnStep | None = None,
        *,
        known: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Sample orbits by classifier-free guidance.

        Args:
            conditions: of the B photos.
            noise: [B, V, 4, h, w] standard normal.
            steps: sampler steps from sigma 700 to 0.002, at least 1.
            guidance: constant over frames; 1 for none.
            on_step: called after every step.
            known: number of a view -> its latent [4, h, w] (see `encode`), which the sampler holds.

        Returns:
            Latents [B, V, 4, h, w], scaled for the UNet; see `decode`.
        """

        def network(x: Tensor, c_noise: Tensor) -> Tensor:
            return self._guided(x, c_noise, conditions, guidance)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return edm.Preconditioning().denoise(network, x, sigma)

        with self._resident(self.networks.unet):
            return self.sampler(edm.hold(denoise, known or {}), noise, edm.karras_sigmas(steps), on_step)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames [V, 3, S, S], about [-1, 1], of one orbit's latents [V, 4, h, w] (see `sample`)."""
        vae = self.networks.vae
        z = (latents / vae.config.scaling_factor).to(vae.decoder.conv_in.weight.dtype)
        with self._resident(vae):
            chunks = z.split(6 if self.memory == "normal" else 1)
            return torch.cat([vae.decode(chunk, num_frames=len(chunk)).sample.float() for chunk in chunks])

    @torch.no_grad()
    def estimate_seconds(self, steps: int = STEPS) -> float:
        """Seconds that one guided orbit will take here, by one pass of UNet and decoder over two frames.

        Almost all of the work is proportional to the number of frames.
        """
        part = min(2, self.views)
        side = self.size // 2 ** (len(self.networks.vae.config.block_out_channels) - 1)
        x = torch.zeros(1, part, self.networks.vae.config.latent_channels, side, side, device=self.device)
        context = torch.zeros(1, 1, self.networks.unet.config.cross_attention_dim, device=self.device)
        conditions = Conditions(context, x[:, 0], x.new_zeros(1, 3))
        with self._resident(self.networks.unet):
            start = time.perf_counter()
            run_unet(self.networks.unet, x, x.new_zeros(1), conditions)
            step = (time.perf_counter() - start) * 2 * self.views / part
        start = time.perf_counter()
        self.decode(x[0, :1])
        return steps * step + (time.perf_counter() - start) * self.views

    def _guided(self, x: Tensor, c_noise: Tensor, conditions: Conditions, guidance: float) -> Tensor:
        """Classifier-free guidance of the raw network F; it equals that of D, which is affine in F."""
        if guidance == 1:
            return run_unet(self.networks.unet, x, c_noise, conditions)
        dropped = conditions.dropped()
        if self.memory == "low":
            unconditional = run_unet(self.networks.unet, x, c_noise, dropped)
            conditional = run_unet(self.networks.unet, x, c_noise, conditions)
        else:
            both = cat_conditions([dropped, conditions])
            output = run_unet(self.networks.unet, torch.cat([x, x]), torch.cat([c_noise, c_noise]), both)
            unconditional, conditional = output.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    @contextmanager
    def _resident(self, network: nn.Module) -> Iterator[None]:
        """Have a network on the device; with `memory="low"` only as long as it is used."""
        network.to(self.device)
        try:
            yield
        finally:
            if self.memory == "low":
                network.to("cpu")


def _device_bytes(device: torch.device) -> float:
    """Memory of a GPU; infinite for other devices, where nothing can be moved away."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return math.inf
    return torch.cuda.get_device_properties(device).total_memory


def store_in_int8(unet: nn.Module) -> None:
    """Keep every matrix of a UNet as 8-bit integers with a scale for each row, in place.

    The arithmetic keeps its precision.

    Raises:
        V3DError: torchao is missing.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise V3DError(f"8-bit weights need torchao; run: {install_hint('int8')}") from error
    quantize_(unet, Int8WeightOnlyConfig())


class SingleTokenAttention:
    """Cross-attention to one token: the softmax over one key is 1, so queries and keys are not computed."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The processor protocol of diffusers: [B, T, C] and one context token [B, 1, C] -> [B, T, C]."""
        value: Tensor = attn.to_out[0](attn.to_v(encoder_hidden_states))
        return value.expand_as(hidden_states)


def use_single_token_attention(unet: nn.Module) -> None:
    """Let every cross-attention of a UNet with one context token skip what cannot matter, in place."""
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            module.set_processor(SingleTokenAttention())


@contextmanager
def _clear_device_errors(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise V3DError(
            f"The memory of {device} is too small for the official weights; close other programs that use it,"
            " load them with memory='low', or run on the CPU (--device cpu)."
        ) from error
    except (AssertionError, RuntimeError) as error:
        if device.type != "cuda" or torch.cuda.is_available():
            raise
        raise V3DError(
            "CUDA cannot be used here; `v3d doctor` says what is missing, --device cpu runs without it."
        ) from error
