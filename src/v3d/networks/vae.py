"""A small RGBA VAE: images to an 8x smaller grid of latents, and back.

Its encoder's activations are the perceptual features that fits use by default (`v3d.networks.perceptual`): a
better loss there than LPIPS's AlexNet (docs/results.md). The models that ship generate pixels, not latents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.networks.configs import VAEConfig as VAEConfig
from v3d.weights import MINI
from v3d.weights.storage import load_network


class Residual(nn.Module):
    """Two 3x3 convolutions on a residual branch that starts at zero, so no normalisation is needed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> [B, width, H, W]."""
        residual: Tensor = self.conv2(F.silu(self.conv1(F.silu(x))))
        return x + residual


class VAE(nn.Module):
    """Images [B, 4, H, W] in [-1, 1] (colour on white, alpha) <-> latents [B, C, H/8, W/8].

    H and W are multiples of 8. `mean` and `std` [C] standardise the latents for diffusion.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: VAEConfig = VAEConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.config = config
        a, b, c = config.widths
        z = config.latent_channels
        self.encoder = nn.ModuleList(
            [
                nn.Conv2d(4, a, 5, stride=2, padding=2),
                nn.Sequential(nn.SiLU(), nn.Conv2d(a, b, 3, stride=2, padding=1), Residual(b)),
                nn.Sequential(
                    nn.SiLU(),
                    nn.Conv2d(b, c, 3, stride=2, padding=1),
                    *[Residual(c) for _ in range(config.blocks)],
                ),
            ]
        )
        self.to_moments = nn.Sequential(nn.SiLU(), nn.Conv2d(c, 2 * z, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(z, c, 3, padding=1),
            *[Residual(c) for _ in range(config.blocks)],
            nn.Conv2d(c, 4 * b, 3, padding=1),
            nn.PixelShuffle(2),
            *[Residual(b) for _ in range(config.blocks)],
            nn.Conv2d(b, 4 * a, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(a),
            nn.Conv2d(a, 4 * (a // 2), 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(a // 2, 4, 3, padding=1),
        )
        self.register_buffer("mean", torch.zeros(z))
        self.register_buffer("std", torch.ones(z))

    def features(self, x: Tensor) -> list[Tensor]:
        """Encoder activations at 1/2, 1/4 and 1/8 of the image's size."""
        maps = []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        return maps

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, [B, C, H/8, W/8] each, not standardised."""
        mean, logvar = self.to_moments(self.features(x)[-1]).chunk(2, dim=1)
        return mean, logvar.clamp(-20, 5)

    def encode(self, x: Tensor) -> Tensor:
        """The posterior's mean [B, C, H/8, W/8], standardised: zero mean and unit variance over the data."""
        return (self.moments(x)[0] - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, z: Tensor) -> Tensor:
        """Standardised latents -> images [B, 4, H, W], about [-1, 1] (not clamped)."""
        images: Tensor = self.decoder(z * self.std[:, None, None] + self.mean[:, None, None])
        return images


def load_vae(folder: str | Path = MINI, device: torch.device | str = "cpu") -> VAE:
    """The frozen VAE of a folder of weights; by default the one in the package.

    Raises:
        V3DError: a file is missing, damaged or does not fit its configuration.
    """

    def make(config: dict[str, Any]) -> VAE:
        return VAE(VAEConfig(**{**config, "widths": tuple(config["widths"])}))

    return load_network(Path(folder), "vae", make).requires_grad_(False).eval().to(device)
