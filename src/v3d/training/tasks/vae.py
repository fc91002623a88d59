"""Training of the small RGBA VAE on crops of rendered views."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.data.orbit_shards import OrbitShards
from v3d.data.shards import UNREADABLE
from v3d.errors import V3DError
from v3d.metrics import decibels
from v3d.networks.vae import VAE, load_vae
from v3d.training.export import export_vae
from v3d.training.order import Order, Passing
from v3d.training.processes import SINGLE_PROCESS, Processes
from v3d.training.recipe import VAERecipe
from v3d.training.task import BatchShare

log = logging.getLogger(__name__)
_CROPS = 4  # of one orbit before the next: opening an orbit costs more than cropping it
_STATISTICS, _VALIDATION, _SHOWN = 32, 16, 8


class AutoEncoder(nn.Module):
    """The VAE as it is trained: images and noise in; the reconstruction, mean and log-variance out."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode x [B, 4, H, W] in [-1, 1], add noise [B, C, H/8, W/8] to the latents, decode."""
        mean, logvar = self.vae.moments(x)
        z = mean.float() + (logvar.float() / 2).exp() * noise
        return self.vae.decoder(z.to(x.dtype)).float(), mean.float(), logvar.float()


class VAETask:
    """Trains the VAE on crops of rendered views (a `v3d.training.task.Task`).

    Attributes:
        network: the VAE with its noise as an input.
    """

    network: nn.Module

    def __init__(
        self, recipe: VAERecipe, processes: Processes = SINGLE_PROCESS, init: Path | None = None
    ) -> None:
        """Open the data and make the network.

        Args:
            recipe: what is trained, and how.
            processes: this process among those that train together.
            init: folder of a VAE to start from; its sizes must be the recipe's.

        Raises:
            V3DError: data or weights are missing or do not fit.
        """
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        vae = VAE(recipe.network) if init is None else load_vae(init).requires_grad_(True).train()
        if vae.config != recipe.network:
            raise V3DError(
                f"The VAE in {init} is {vae.config}, the recipe's is {recipe.network}; change the recipe."
            )
        self.network = AutoEncoder(vae).to(processes.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._validation = None if recipe.validation is None else OrbitShards(recipe.validation)
        self._passing, self._passing_validation = Passing(), Passing()
        self.refresh()
        side = min(next(self._passing.first(1, len(self.data), self.data.photo)).shape[:2])
        if not 8 <= recipe.crop <= side or recipe.crop % 8:
            raise V3DError(
                f"--crop is {recipe.crop}; it must be a multiple of 8, at most the {side} pixels of a view."
            )

    def refresh(self) -> None:
        """Open the data anew, with what has arrived."""
        self.data = OrbitShards(self.recipe.data)
        self.order = Order(len(self.data), self.recipe.seed)

    def close(self) -> None:
        """Say what was passed over."""
        self._passing.close(self.recipe.data)

    def batch_size(self, step: int, done: float) -> int:
        """Crops of a step; always the recipe's."""
        return self.recipe.batch

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        """Per crop [B]: the loss, the divergence from N(0, 1) and the reconstruction's PSNR."""
        r = self.recipe
        dtype = next(network.parameters()).dtype
        crops, noises = [], []
        for j in share.samples:
            g = share.sample_generator(j)
            crops.append(self._crop((share.position + j) // _CROPS, g))
            noises.append(torch.randn(r.network.latent_channels, r.crop // 8, r.crop // 8, generator=g))
        x = (torch.stack(crops).permute(0, 3, 1, 2).float() / 127.5 - 1).to(share.device)
        x = x.contiguous(memory_format=torch.channels_last)
        y, mean, logvar = network(x.to(dtype), torch.stack(noises).to(share.device))
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).flatten(1).mean(1)
        loss = reconstruction_loss(y, x) + r.kl * divergence * r.network.latent_channels * 16
        mse = (y - x).square().flatten(1).mean(1) / 4  # images are in [-1, 1]
        return {"loss": loss, "kl": divergence.detach(), "psnr of crops": decibels(mse.detach())}

    def _crop(self, position: int, generator: torch.Generator) -> Tensor:
        """A random crop [S, S, 4] uint8 that touches the object; unreadable images are passed over."""
        S = self.recipe.crop

        def read(orbit: int) -> Tensor:
            image = self.data.view(orbit, int(torch.randint(1 << 20, (), generator=generator)))
            inside = image[..., 3].nonzero()
            if len(inside) == 0:
                raise V3DError(f"A view of {self.data.id(orbit)} is empty.")
            y, x = inside[int(torch.randint(len(inside), (), generator=generator))].tolist()
            dy, dx = torch.randint(-S // 2, S // 2, (2,), generator=generator).tolist()
            top = min(max(y - S // 2 + dy, 0), image.shape[0] - S)
            left = min(max(x - S // 2 + dx, 0), image.shape[1] - S)
            crop = image[top : top + S, left : left + S]
            return crop.flip(1) if torch.rand((), generator=generator) < 0.5 else crop

        return self._passing.draw(self.order, position, read)

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """PSNR of whole images that were not trained on, and rows of images above their reconstructions."""
        if self._validation is None:
            return {}, None
        assert isinstance(network, AutoEncoder)
        vae = network.vae
        p = next(vae.parameters())
        data = self._validation
        read = self._passing_validation.first(_VALIDATION, len(data), lambda i: data.view(i, 5 * i))
        images = torch.stack(list(read))
        x = images.permute(0, 3, 1, 2).float().to(p.device) / 127.5 - 1
        y = vae.decoder(vae.moments(x.to(p.dtype))[0]).float().clamp(-1, 1)
        mse = (y - x).square().mean((2, 3)) / 4
        colour, alpha = decibels(mse).split([3, 1], 1)
        shown = torch.stack([x[:_SHOWN, :3], y[:_SHOWN, :3]]) / 2 + 0.5
        picture = shown.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        return {"psnr": float(colour.mean()), "psnr of alpha": float(alpha.mean())}, picture

    @torch.no_grad()
    def export(self, network: nn.Module, folder: Path) -> None:
        """Write the VAE with its latents standardised over whole training images."""
        assert isinstance(network, AutoEncoder)
        vae = copy.deepcopy(network.vae)
        device = next(vae.parameters()).device
        z = []
        for i in torch.randperm(len(self.data), generator=torch.Generator().manual_seed(0))[
            :_STATISTICS
        ].tolist():
            try:
                images = torch.stack([self.data.view(i, k) for k in (0, 6, 12)])
            except UNREADABLE:
                continue
            z.append(vae.moments(images.permute(0, 3, 1, 2).float().to(device) / 127.5 - 1)[0])
        latents = torch.cat(z)
        vae.mean.copy_(latents.mean((0, 2, 3)))
        vae.std.copy_(latents.std((0, 2, 3)))
        export_vae(vae, folder)


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """L1 on colours, hues and gradients over three scales, per image [B].

    The gradients keep edges sharp without a perceptual network. The hue term (opponent colours) matters:
    without it a small network spends its latents on brightness and learns one hue axis only, so that yellow
    comes back orange and green comes back blue.
    """

    def mean(t: Tensor) -> Tensor:
        return t.abs().flatten(1).mean(1)

    loss = mean(x - y)
    for _ in range(3):
        d = x - y
        loss = loss + mean(d[:, 0] - d[:, 1]) + mean(d[:, 2] - d[:, :2].mean(1))
        loss = loss + mean(d.diff(dim=-1)) + mean(d.diff(dim=-2))
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return loss
