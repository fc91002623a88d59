"""What the UNet of SVD and V3D knows of a photo: its CLIP embedding, its VAE latent, and three numbers.

For scenes it also knows what PixelNeRF draws of every view (the guide), as further input channels: `widen_for_guide`.

The sampler (`v3d.diffusion.svd`) and the training (`v3d.training.tasks.svd`) build their conditions from here and run the
network through `run_unet`, so both mean the same by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.diffusion.official.networks import CLIP_MEAN, CLIP_STD

FPS, MOTION_BUCKET, NOISE_AUGMENTATION = 1.0, 300.0, 0.02


@dataclass(frozen=True)
class Conditions:
    """What the UNet knows of B photos.

    Attributes:
        embedding: [B, 1, C] CLIP image embedding.
        latent: [B, 4, h, w] VAE latent, not scaled, with noise of standard deviation 0.02.
        time_ids: [B, 3] frames per second, motion bucket, noise augmentation.
        guide: [B, V, 4, h, w] latents, not scaled, of PixelNeRF's images of the V views, for a widened network.
    """

    embedding: Tensor
    latent: Tensor
    time_ids: Tensor
    guide: Tensor | None = None

    def dropped(self) -> Conditions:
        """The unconditional half of guidance: embedding, latent and guide are zero, the three numbers stay."""
        guide = None if self.guide is None else torch.zeros_like(self.guide)
        return Conditions(
            torch.zeros_like(self.embedding), torch.zeros_like(self.latent), self.time_ids, guide
        )


def cat_conditions(parts: Sequence[Conditions]) -> Conditions:
    """Of one batch after the other; all have a guide, or none has."""
    joined = {
        name: None if getattr(parts[0], name) is None else torch.cat([getattr(part, name) for part in parts])
        for name in vars(parts[0])
    }
    return Conditions(**joined)  # type: ignore[arg-type]


def widen_for_guide(unet: Any) -> Any:
    """Give the UNet four more input channels for PixelNeRF's guide, in place (the paper's scene-level model).

    The new weights are zero: until they are trained, the network's output is what it was, whatever the guide.
    """
    narrow = unet.conv_in
    if narrow.in_channels != 8:
        raise ValueError(
            f"The network reads {narrow.in_channels} channels, not the 8 of SVD: it has a guide already."
        )
    wide = torch.nn.Conv2d(12, narrow.out_channels, narrow.kernel_size, padding=narrow.padding)
    wide.to(narrow.weight)
    wide.load_state_dict(
        {"weight": torch.cat([narrow.weight, narrow.weight.new_zeros(narrow.weight[:, :4].shape)], 1)}
        | {"bias": narrow.bias}
    )
    unet.conv_in = wide
    unet.register_to_config(in_channels=12)
    return unet


def run_unet(unet: Any, x: Tensor, c_noise: Tensor, conditions: Conditions) -> Tensor:
    """The raw network F(x [B, V, 4, h, w], c_noise [B]) in the precision of its weights.

    The noise level and the three numbers stay in float32, and the result has the type of `x`.
    """
    dtype = unet.conv_in.weight.dtype
    latent = conditions.latent[:, None].expand(-1, x.shape[1], -1, -1, -1)
    guide = [] if conditions.guide is None else [conditions.guide.to(x)]
    inputs = torch.cat([x, latent.to(x), *guide], dim=2).to(dtype)
    return unet(inputs, c_noise, conditions.embedding.to(dtype), conditions.time_ids).sample.to(x)


def clip_pixels(image: Tensor, size: int = 224) -> Tensor:
    """CLIP's input [B, 3, size, size] from images [B, 3, H, W] in [-1, 1].

    Resized as the original does: a Gaussian blur of (factor - 1) / 2 pixels, then bicubic with aligned corners.
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
