"""The model that ships in the package: OrbitDiT over the latents of a small RGBA VAE, guided by PixelNeRF.

PixelNeRF draws what the photo alone says about every view: right in pose, blurred where there are several answers.
The video model, which sees that guide, the photo, and all its own views at once, draws the orbit.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.diffusion import edm
from v3d.diffusion.dit import Geometry, OrbitDiT, OrbitDiTConfig
from v3d.diffusion.pixelnerf import PixelNeRF, Sources, load_pixelnerf
from v3d.diffusion.vae import VAE, load_vae, unusable_weights
from v3d.errors import V3DError
from v3d.runtime import has_fast_bfloat16
from v3d.views import Views


@dataclass
class MiniModel:
    """The networks and their sampling defaults.

    Attributes:
        vae, pixelnerf, dit: networks in evaluation mode.
        size: pixels of a view's side.
        steps, guidance: sampling defaults.
        sigma_min, sigma_max: ends of the Karras grid.
        hash: of the weight files, for reports.
    """

    vae: VAE
    pixelnerf: PixelNeRF
    dit: OrbitDiT
    size: int
    steps: int
    guidance: float
    sigma_min: float
    sigma_max: float
    hash: str

    @staticmethod
    def load(folder: str | Path, device: torch.device | str = "cpu") -> MiniModel:
        """Read `config.json` and the weights of the three networks.

        Raises:
            V3DError: a file is missing, damaged or does not fit the configuration.
        """
        folder = Path(folder)
        vae, pixelnerf = load_vae(folder, device), load_pixelnerf(folder, device)
        try:
            config = json.loads((folder / "config.json").read_text())
            dit = OrbitDiT(OrbitDiTConfig(**config["dit"]))
            dit.load_state_dict(load_file(folder / "dit.safetensors"))
            files = [(folder / f"{name}.safetensors").read_bytes() for name in ("vae", "pixelnerf", "dit")]
            sampling = {k: config["sampling"][k] for k in ("steps", "guidance", "sigma_min", "sigma_max")}
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise V3DError(unusable_weights(folder, error)) from error
        dit.requires_grad_(False).eval().to(device)
        return MiniModel(
            vae=vae,
            pixelnerf=pixelnerf,
            dit=dit,
            size=8 * dit.config.latent_size,
            hash=hashlib.sha256(b"".join(files)).hexdigest()[:16],
            **sampling,
        )

    @torch.no_grad()
    def __call__(
        self,
        rgba: Tensor,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: edm.OnStep | None = None,
    ) -> Views:
        """One framed photo -> the 18 views of its orbit.

        Args:
            rgba: [S, S, 4] straight-alpha photo in [0, 1], framed by `v3d.photo`.
            seed: of the initial noise; the same seed gives the same views on the same machine.
            steps: sampler steps; guidance: classifier-free guidance (1: none).

        Returns:
            Views [18, size, size] with the generated alpha; view 0 is the photo itself wherever the model
            kept its framing (see `v3d.training.orbits` for when it does not).
        """
        device = self.dit.position.device
        photo = to_image(rgba.to(device), self.size)
        z_photo = self.vae.encode(photo[None])
        guide = orbit_guide(self.pixelnerf, self.vae, photo)
        geometry = Geometry.of(orbit(ORBIT_VIEWS), self.dit.grid)[[0, *range(ORBIT_VIEWS)]].to(device)
        guidance = self.guidance if guidance is None else guidance

        latent = (ORBIT_VIEWS, *z_photo.shape[1:])
        noise = torch.randn(1, *latent, generator=torch.Generator().manual_seed(seed)).to(device)
        sigmas = edm.karras_sigmas(steps or self.steps, self.sigma_min, self.sigma_max)
        denoise = partial(self._denoise, z_photo=z_photo, guide=guide, geometry=geometry, guidance=guidance)
        z = edm.dpm_solver_2m(denoise, noise, sigmas, on_step)[0]

        images = torch.cat([self.vae.decode(part) for part in z.split(6)]).cpu()
        images = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        rgb, alpha = _solid(images[..., :3], images[..., 3])
        true = (photo * 0.5 + 0.5).permute(1, 2, 0).cpu()
        if _overlap(true[..., 3], alpha[0]) > 0.85:
            rgb[0], alpha[0] = true[..., :3], true[..., 3]
        return Views(rgb, alpha, orbit(ORBIT_VIEWS, size=self.size))

    def _denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        *,
        z_photo: Tensor,
        guide: Tensor,
        geometry: Geometry,
        guidance: float,
    ) -> Tensor:
        """Guided `D(x, sigma)`; the conditional and the unconditional half run as one batch."""
        keep = torch.tensor([True] if guidance == 1 else [True, False], device=x.device)
        fast = x.device.type != "cpu" or has_fast_bfloat16()

        def network(inputs: Tensor, c_noise: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=fast):
                photos = z_photo.expand(len(keep), 1, -1, -1, -1)
                guides = guide.expand(len(keep), *guide.shape)
                return self.dit(inputs, c_noise, photos, keep, geometry, guides).float()

        batch = x.expand(len(keep), *x.shape[1:])
        estimate = edm.Preconditioning().denoise(network, batch, sigma.expand(len(keep)))
        if guidance == 1:
            return estimate
        conditional, unconditional = estimate.chunk(2)
        return unconditional + guidance * (conditional - unconditional)


@torch.no_grad()
def orbit_guide(pixelnerf: PixelNeRF, vae: VAE, photo: Tensor) -> Tensor:
    """Latents [18, C, h, w] of PixelNeRF's orbit of a photo [4, S, S] in [-1, 1], drawn at half the photo's size."""
    size, side = photo.shape[-1], pixelnerf.config.size
    source = F.interpolate(photo[None], (side, side), mode="bilinear", antialias=True, align_corners=False)
    cameras = orbit(ORBIT_VIEWS, size=size // 2)
    images, _ = pixelnerf.images(Sources.of(source, cameras[0].to(photo.device)), cameras)
    images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
    return torch.cat([vae.encode(part) for part in images.split(6)])


def to_image(rgba: Tensor, size: int) -> Tensor:
    """Straight-alpha RGBA [S, S, 4] in [0, 1] -> the VAE's input [4, size, size] in [-1, 1]."""
    alpha = rgba[..., 3:]
    image = torch.cat([rgba[..., :3] * alpha + 1 - alpha, alpha], -1).permute(2, 0, 1)[None]
    image = F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return image[0] * 2 - 1


def _solid(rgb: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Views [V, H, W, 3] on white with steeper outlines.

    What the model is unsure of it draws half transparent, and on white that is washed out. The colour
    behind the transparency is sound: it is taken off the white and put on again with a steeper alpha.
    """
    straight = 1 - (1 - rgb) / alpha.clamp_min(0.05)[..., None]
    alpha = ((alpha - 0.5) * 3 + 0.5).clamp(0, 1)
    return straight.clamp(0, 1) * alpha[..., None] + 1 - alpha[..., None], alpha


def _overlap(a: Tensor, b: Tensor) -> float:
    """Soft intersection over union of two alphas."""
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum().clamp_min(1e-6))
