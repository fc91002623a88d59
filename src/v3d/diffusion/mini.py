"""The model that ships in the package: OrbitDiT over the latents of a small RGBA VAE, guided by PixelNeRF.

PixelNeRF draws what the photo alone says about every view: right in pose, blurred where there are several answers.
The video model, which sees that guide, the photo, and all its own views at once, draws what the guide leaves open: it is
an EDM model of the *residual*, the latents of the views less those of the guide (as in CorrDiff, arXiv 2309.15214).
One sampler step gives the mean of what is possible, more steps one possibility; with 0 steps the video model is not asked,
and the guide is the answer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import ORBIT_VIEWS, Cameras, cat_cameras, orbit
from v3d.diffusion import edm
from v3d.diffusion.dit import Geometry, OrbitDiT, load_dit
from v3d.diffusion.front import with_photo
from v3d.diffusion.pixelnerf import PixelNeRF, Sources, load_pixelnerf, nearness
from v3d.diffusion.vae import VAE, load_vae, vae_home
from v3d.errors import V3DError
from v3d.runtime import fast_dtype
from v3d.views import Views
from v3d.weights.storage import unusable_weights

OUTLINE, STEEPNESS = 0.4, 4.0
"""Where the outline of PixelNeRF's views lies, and how much steeper than PixelNeRF's the drawn alpha is there.

An expected silhouette is cut below one half because IoU forgives what is too large more than what is missing. Steep
outlines cost PSNR, which likes fog (test split: 19.6 dB with a steepness of 1.5), but fog becomes torn surfaces
in the mesh, and firm views a body.
"""


MOST_READ = 3
"""PixelNeRF draws a view from so many photos, the nearest; and the nearer, the more they count.

Far photos blur what near ones show: views of validation scenes are 0.4 dB (three photos) and 0.6 dB (six) better than with
all photos alike, and those of a real capture 1.8 and 2.4 dB (docs/scenes.md).
"""

MOST_SEEN = 8
"""Photos that the video model sees."""


@dataclass(frozen=True)
class Drawn:
    """V new views.

    Attributes:
        images: [V, 4, size, size] in about [-1, 1], colour on white, then alpha.
        guide: the same by PixelNeRF alone.
        depth: [V, h, w] camera depth by PixelNeRF, 0 where a view is empty.
    """

    images: Tensor
    guide: Tensor
    depth: Tensor


@dataclass
class MiniModel:
    """The networks and their sampling defaults.

    Attributes:
        vae, pixelnerf, dit: networks in evaluation mode.
        size: pixels of a view's side.
        steps, guidance: sampling defaults.
        sigma_min, sigma_max: ends of the Karras grid.
        sigma_data: standard deviation of the residual.
        hash: of the weight files, for reports.
        sampler: a function of `v3d.diffusion.edm`.
    """

    vae: VAE
    pixelnerf: PixelNeRF
    dit: OrbitDiT
    size: int
    steps: int
    guidance: float
    sigma_min: float
    sigma_max: float
    sigma_data: float
    hash: str
    sampler: edm.Sampler = edm.dpm_solver_2m
    # The photo is sharp, the other views are not; see `v3d.diffusion.generator`.
    agrees_in_colour: ClassVar[bool] = False

    @staticmethod
    def load(folder: str | Path, device: torch.device | str = "cpu") -> MiniModel:
        """Read `config.json` and the weights of the three networks.

        Raises:
            V3DError: a file is missing, damaged or does not fit the configuration.
        """
        folder, device = Path(folder), torch.device(device)
        vae, pixelnerf = load_vae(folder, device), load_pixelnerf(folder, device)
        dit = load_dit(folder).requires_grad_(False).eval().to(device, fast_dtype(device))
        try:
            config = json.loads((folder / "config.json").read_text())
            homes = {"vae": vae_home(folder), "pixelnerf": folder, "dit": folder}
            files = [(home / f"{name}.safetensors").read_bytes() for name, home in homes.items()]
            names = ("steps", "guidance", "sigma_min", "sigma_max", "sigma_data")
            sampling = {k: config["sampling"][k] for k in names}
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise V3DError(unusable_weights(folder, error)) from error
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
            seed, steps, guidance, on_step: see `draw`.

        Returns:
            Views [18, size, size] with the generated alpha; view 0 is the photo itself wherever the model
            kept its framing (see `v3d.training.orbits` for when it does not).
        """
        photo = to_image(rgba, self.size)
        cameras = orbit(ORBIT_VIEWS, size=self.size)
        drawn = self.draw(
            photo[None], cameras[0], cameras, seed=seed, steps=steps, guidance=guidance, on_step=on_step
        )
        images = (drawn.images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        views = Views(images[..., :3].contiguous(), images[..., 3].contiguous(), cameras)
        return with_photo(views, (photo * 0.5 + 0.5).permute(1, 2, 0))

    @torch.no_grad()
    def draw(
        self,
        photos: Tensor,
        photo_cameras: Cameras,
        cameras: Cameras,
        *,
        drawn: int = 0,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: edm.OnStep | None = None,
    ) -> Drawn:
        """Posed photos -> new views, drawn together.

        Args:
            photos: [N, 4, size, size] in [-1, 1], colour on white, then alpha. Their order does not matter.
            photo_cameras: theirs.
            drawn: so many of them, the last, are views drawn before: the video model sees them, PixelNeRF does not.
            cameras: of the V new views, square.
            seed: of the initial noise; the same seed gives the same views on the same machine.
            steps: sampler steps; 0 leaves the guide as it is.
            guidance: classifier-free guidance (1: none).
            on_step: called with (finished steps, all steps).
        """
        device = self.dit.position.device
        photos = photos.to(device)
        steps = self.steps if steps is None else steps
        guidance = self.guidance if guidance is None else guidance
        given = len(photos) - drawn
        guide, depth = draw_guide(self.pixelnerf, photos[:given], photo_cameras[:given], cameras)
        opaque = self.pixelnerf.config.opaque
        alone = guide if opaque else solid(guide)
        if steps == 0:
            return Drawn(alone.cpu(), alone.cpu(), depth.cpu())

        seen = nearness(photo_cameras, cameras).sum(1).argsort(descending=True)[:MOST_SEEN]
        geometry = Geometry.of(
            cat_cameras([photo_cameras[seen].resized(1, 1), cameras.resized(1, 1)]), self.dit.grid
        )
        z_photos, z_guide = (encode(self.vae, x) for x in (photos[seen], guide))
        noise = torch.randn(z_guide.shape, generator=torch.Generator().manual_seed(seed)).to(device)
        sigmas = edm.karras_sigmas(steps, self.sigma_min, self.sigma_max)
        denoise = partial(
            self._denoise, z_photos=z_photos, guide=z_guide, geometry=geometry.to(device), guidance=guidance
        )
        residual = self.sampler(denoise, noise[None], sigmas, on_step)[0]
        images = decode(self.vae, z_guide + residual)
        if (
            opaque
        ):  # only what changes: the guide has details that the VAE cannot carry (an object's has fog instead)
            images = guide + images - decode(self.vae, z_guide)
        return Drawn(images.cpu(), alone.cpu(), depth.cpu())

    def _denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        *,
        z_photos: Tensor,
        guide: Tensor,
        geometry: Geometry,
        guidance: float,
    ) -> Tensor:
        """Guided `D(x, sigma)` of the residual; the conditional and the unconditional half run as one batch."""
        keep = torch.tensor([True] if guidance == 1 else [True, False], device=x.device)

        def network(inputs: Tensor, c_noise: Tensor) -> Tensor:
            photos = z_photos.expand(len(keep), *z_photos.shape)
            return self.dit(inputs, c_noise, photos, keep, geometry, guide.expand(len(keep), *guide.shape))

        batch = x.expand(len(keep), *x.shape[1:])
        estimate = edm.Preconditioning(self.sigma_data).denoise(network, batch, sigma.expand(len(keep)))
        if guidance == 1:
            return estimate
        conditional, unconditional = estimate.chunk(2)
        return unconditional + guidance * (conditional - unconditional)


@torch.no_grad()
def draw_guide(
    pixelnerf: PixelNeRF, photos: Tensor, photo_cameras: Cameras, cameras: Cameras
) -> tuple[Tensor, Tensor]:
    """What PixelNeRF says about new views, from photos [N, 4, S, S] in [-1, 1]; of every view those nearest to it.

    Returns:
        images [V, 4, S, S], drawn at `pixelnerf.config.drawn` pixels and enlarged, and camera depth [V, drawn, drawn].
    """
    size, side, drawn = photos.shape[-1], pixelnerf.config.size, pixelnerf.config.drawn
    sources = F.interpolate(photos, (side, side), mode="bilinear", antialias=True, align_corners=False)
    weights = nearness(photo_cameras, cameras)
    views_of: dict[tuple[int, ...], list[int]] = {}  # views that are drawn from the same photos
    for v, nearest in enumerate(weights.T.argsort(descending=True)[:, :MOST_READ].tolist()):
        views_of.setdefault(tuple(sorted(nearest)), []).append(v)
    images = photos.new_empty(len(cameras), 4, drawn, drawn)
    depth = photos.new_empty(len(cameras), drawn, drawn)
    for near, views in views_of.items():
        read = Sources.of(sources[list(near)], photo_cameras[near], weights[list(near)][:, views])
        images[views], depth[views] = pixelnerf.images(read, cameras[views].resized(drawn, drawn))
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False), depth


def encode(vae: VAE, images: Tensor) -> Tensor:
    """Latents [V, C, h, w] of images [V, 4, S, S], a few at a time to save memory."""
    return torch.cat([vae.encode(part) for part in images.split(6)])


def decode(vae: VAE, latents: Tensor) -> Tensor:
    """Images [V, 4, S, S] of latents, a few at a time to save memory."""
    return torch.cat([vae.decode(part) for part in latents.split(6)])


def to_image(rgba: Tensor, size: int) -> Tensor:
    """Straight-alpha RGBA [S, S, 4] in [0, 1] -> the VAE's input [4, size, size] in [-1, 1]."""
    alpha = rgba[..., 3:]
    image = torch.cat([rgba[..., :3] * alpha + 1 - alpha, alpha], -1).permute(2, 0, 1)[None]
    image = F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return image[0] * 2 - 1


def solid(images: Tensor) -> Tensor:
    """Images [V, 4, H, W] in [-1, 1] (colour on white, alpha) with firmer outlines, where alpha is `OUTLINE`.

    What a model is unsure of it draws half transparent, and on white that is washed out. The colour
    behind the transparency is sound: it is taken off the white and put on again with the firmer alpha.
    """
    rgb, alpha = ((images / 2 + 0.5).clamp(0, 1)).split([3, 1], 1)
    straight = (1 - (1 - rgb) / alpha.clamp_min(0.05)).clamp(0, 1)
    alpha = ((alpha - OUTLINE) * STEEPNESS + 0.5).clamp(0, 1)
    return torch.cat([straight * alpha + 1 - alpha, alpha], 1) * 2 - 1
