"""What SVD's UNet is conditioned on: a photo's CLIP embedding, its VAE latent, and three numbers.

The sampler (`v3d.diffusion.svd`) and the training (`v3d.training.tasks.svd`) build their conditions from here
and run the network through `run_unet`, so that these are the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.diffusion.official.networks import CLIP_MEAN, CLIP_STD

FPS, MOTION_BUCKET, NOISE_AUGMENTATION = 1.0, 300.0, 0.02
"""The three numbers that V3D was tuned with (paper sec. 3.1)."""


@dataclass(frozen=True)
class Conditions:
    """What the UNet is conditioned on, of B photos.

    Attributes:
        embedding: [B, 1, C] CLIP image embedding.
        latent: [B, 4, h, w] VAE latent, not scaled, with noise of standard deviation 0.02.
        time_ids: [B, 3] frames per second, motion bucket, noise augmentation.
    """

    embedding: Tensor
    latent: Tensor
    time_ids: Tensor

    def dropped(self) -> Conditions:
        """The unconditional half of guidance: embedding and latent are zero, the three numbers stay."""
        return Conditions(torch.zeros_like(self.embedding), torch.zeros_like(self.latent), self.time_ids)


def cat_conditions(parts: Sequence[Conditions]) -> Conditions:
    """Several batches of conditions as one, in their order."""
    return Conditions(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Conditions)))


def run_unet(unet: Any, x: Tensor, c_noise: Tensor, conditions: Conditions) -> Tensor:
    """The raw network F(x, c_noise) of the EDM preconditioning, in the precision of its weights.

    Args:
        unet: diffusers' `UNetSpatioTemporalConditionModel`.
        x: [B, V, 4, h, w] latents, scaled by c_in.
        c_noise: [B]; stays in float32, as the three numbers do.

    Returns:
        [B, V, 4, h, w] in the type of `x`.
    """
    dtype = unet.conv_in.weight.dtype
    latent = conditions.latent[:, None].expand(-1, x.shape[1], -1, -1, -1)
    inputs = torch.cat([x, latent.to(x)], dim=2).to(dtype)
    output: Tensor = unet(inputs, c_noise, conditions.embedding.to(dtype), conditions.time_ids).sample
    return output.to(x)


def clip_pixels(image: Tensor, size: int = 224) -> Tensor:
    """CLIP's input [B, 3, size, size] from images [B, 3, H, W] in [-1, 1].

    Resized as in the original code: a Gaussian blur of (factor - 1) / 2 pixels, then bicubic.
    """
    for axis in (2, 3):
        factor = image.shape[axis] / size
        sigma = max((factor - 1) / 2, 0.001)
        radius = int(max(4 * sigma, 3)) // 2
        offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        kernel = (-(offsets**2) / (2 * sigma**2)).exp()
        kernel = (kernel / kernel.sum()).view(1, 1, *((-1, 1) if axis == 2 else (1, -1)))
        padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = F.pad(image, padding, mode="reflect")
        image = F.conv2d(padded, kernel.expand(image.shape[1], -1, -1, -1), groups=image.shape[1])
    image = F.interpolate(image, (size, size), mode="bicubic", align_corners=True)
    mean, std = (
        torch.tensor(v, dtype=image.dtype, device=image.device).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD)
    )
    return (image * 0.5 + 0.5 - mean) / std
