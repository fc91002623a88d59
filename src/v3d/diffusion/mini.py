"""The model that ships in the package: PixelNeRF, and where there are its weights OrbitDiT, guided by it.

PixelNeRF renders what the photos alone say about every view: right in pose, blurred where there are several
answers. The video model, which reads that guide, the photos, and all its own views at once, generates what
the guide leaves open: it is an EDM model of the *residual*, the views less the guide (as in CorrDiff, arXiv
2309.15214), in pixels. Objects keep the guide's silhouettes.

Weights of objects that ship have no video model: what an hour on two cores could teach it was a texture over
blurred sides, not those sides (docs/history.md). Weights of scenes have one, and so have those that `v3d
train orbit` makes. One level photo is what PixelNeRF was trained on longest, in a network of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.cameras import ORBIT_VIEWS, Cameras, cat_cameras, orbit
from v3d.diffusion import edm
from v3d.diffusion.configs import Sampling
from v3d.diffusion.dit import Geometry, OrbitDiT, load_dit
from v3d.diffusion.guide import Guide, add_residual, render_guide
from v3d.diffusion.photos import OrbitPhotos, with_photos
from v3d.errors import V3DError
from v3d.networks.pixelnerf import PixelNeRF, load_pixelnerf
from v3d.networks.sources import camera_similarity
from v3d.runtime import fast_dtype
from v3d.text_files import read_json
from v3d.views import Views
from v3d.weights.storage import unusable_weights

MAX_PHOTOS = 8
"""The video model reads at most so many photos, those nearest to all views together."""
LEVEL = 5.0
"""Degrees of elevation up to which one photo counts as level."""


@dataclass(frozen=True)
class GeneratedViews:
    """V new views.

    Attributes:
        images: [V, 4, size, size], about [-1, 1], colour on white, then alpha.
        guide: [V, 4, size, size] in [-1, 1], the views as PixelNeRF alone renders them.
        depth: [V, h, w] PixelNeRF's camera depth, 0 where a view is empty.
    """

    images: Tensor
    guide: Tensor
    depth: Tensor


@dataclass
class MiniModel:
    """PixelNeRF, OrbitDiT, and how they are sampled.

    Attributes:
        pixelnerf: the network in evaluation mode.
        hash: fingerprint of the weight files and their configuration, for reports and stage keys.
        dit: the video model in evaluation mode; None leaves PixelNeRF's views as they are.
        one_photo: PixelNeRF of single photos within `LEVEL` of the horizon; None leaves these to `pixelnerf`.
        sampling: of the video model.
        sampler: a function of `v3d.diffusion.edm`.
    """

    pixelnerf: PixelNeRF
    hash: str
    dit: OrbitDiT | None = None
    one_photo: PixelNeRF | None = None
    sampling: Sampling = field(default_factory=Sampling)
    sampler: edm.Sampler = edm.dpm_solver_2m
    # The photos are sharp, the other views are not; see `v3d.diffusion.generator`.
    agrees_in_colour: ClassVar[bool] = False

    @staticmethod
    def load(folder: str | Path, device: torch.device | str = "cpu") -> MiniModel:
        """Read `config.json` and the weights of the networks that it names.

        Raises:
            V3DError: a file is missing, damaged or does not fit the configuration.
        """
        folder, device = Path(folder), torch.device(device)
        try:
            config = read_json(folder / "config.json")
            names = ["pixelnerf", *(name for name in ("one_photo", "dit") if name in config)]
            files = [folder / "config.json", *(folder / f"{name}.safetensors" for name in names)]
            digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
            sampling = Sampling(**config["sampling"]) if "dit" in names else Sampling()
        except (V3DError, OSError, KeyError, TypeError, ValueError) as error:
            raise V3DError(unusable_weights(folder, error)) from error
        dit = load_dit(folder).requires_grad_(False).eval() if "dit" in names else None
        return MiniModel(
            load_pixelnerf(folder, device),
            digest,
            dit if dit is None else dit.to(device, fast_dtype(device)),
            load_pixelnerf(folder, device, name="one_photo") if "one_photo" in names else None,
            sampling,
        )

    @property
    def size(self) -> int:
        """Pixels of a view's side."""
        return self.pixelnerf.config.drawn if self.dit is None else self.dit.config.size

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
        """Photos -> the 18 views of their orbit, at their height, and the photos themselves.

        Args:
            photos: one to eight.
            seed: of the initial noise; the same seed gives the same views on the same machine.
            steps: sampler steps; 0 leaves the guide as it is.
            guidance: of classifier-free guidance (1: none).
            on_step: called after every step.

        Returns:
            Views [18 and more, size, size] with the generated alpha, see `v3d.diffusion.photos.with_photos`.
        """
        given = photos.as_views(self.size)
        cameras = orbit(ORBIT_VIEWS, size=self.size, elevation=photos.elevation)
        model = self
        if self.one_photo is not None and len(photos) == 1 and abs(photos.elevation) < LEVEL:
            model = replace(self, pixelnerf=self.one_photo)
        generated = model.generate(
            as_images(given),
            given.cameras,
            cameras,
            seed=seed,
            steps=steps,
            guidance=guidance,
            on_step=on_step,
        )
        return with_photos(as_views(generated.images, cameras), photos)

    @torch.no_grad()
    def generate(
        self,
        photos: Tensor,
        photo_cameras: Cameras,
        cameras: Cameras,
        *,
        n_generated: int = 0,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
    ) -> GeneratedViews:
        """Posed photos -> new views, generated together.

        Args:
            photos: [N, 4, size, size] in [-1, 1], colour on white, then alpha. Their order does not matter.
            photo_cameras: N cameras, in one world with `cameras`.
            cameras: of the V new views, square.
            n_generated: so many of the photos, the last, are views generated before: the video model reads
                them, PixelNeRF does not.
            seed: of the initial noise; the same seed gives the same views on the same machine.
            steps: sampler steps; 0 leaves the guide as it is.
            guidance: of classifier-free guidance (1: none).
            on_step: called after every step.

        Raises:
            V3DError: there is no video model, and steps or guidance are asked for.
        """
        if self.dit is None and (steps or guidance is not None):
            raise V3DError(
                "These weights have no video model, so nothing is sampled; leave out --steps and --guidance."
            )
        device = self.pixelnerf.position.device
        photos = photos.to(device)
        steps = self.sampling.steps if steps is None else steps
        guidance = self.sampling.guidance if guidance is None else guidance
        given = len(photos) - n_generated
        warps = 1 if self.dit is None else self.dit.config.warps
        guide = render_guide(self.pixelnerf, photos[:given], photo_cameras[:given], cameras, warps)
        if self.dit is None or steps == 0:
            return GeneratedViews(guide.images.cpu(), guide.images.cpu(), guide.depth.cpu())

        read = camera_similarity(photo_cameras, cameras).sum(1).argsort(descending=True)[:MAX_PHOTOS]
        geometry = Geometry.of(
            cat_cameras([photo_cameras[read].resized(1, 1), cameras.resized(1, 1)]), self.dit.config.grid
        )
        noise = torch.randn(guide.images.shape, generator=torch.Generator().manual_seed(seed)).to(device)
        sigmas = edm.karras_sigmas(steps, self.sampling.sigma_min, self.sampling.sigma_max)
        denoise = partial(
            self._denoise,
            self.dit,
            photos=photos[read],
            guide=guide,
            geometry=geometry.to(device),
            guidance=guidance,
        )
        residual = self.sampler(denoise, noise[None], sigmas, on_step)[0]
        images = add_residual(guide.images, residual, opaque=self.pixelnerf.config.opaque)
        return GeneratedViews(images.cpu(), guide.images.cpu(), guide.depth.cpu())

    @staticmethod
    def _denoise(
        dit: OrbitDiT,
        x: Tensor,
        sigma: Tensor,
        *,
        photos: Tensor,
        guide: Guide,
        geometry: Geometry,
        guidance: float,
    ) -> Tensor:
        """Guided `D(x, sigma)` of the residual x [1, V, 4, S, S]; both halves of guidance are one batch."""
        keep = torch.tensor([True] if guidance == 1 else [True, False], device=x.device)

        def network(inputs: Tensor, c_noise: Tensor) -> Tensor:
            conditions = (photos, guide.images, guide.warped)
            of_photos, images, warped = (t.expand(len(keep), *t.shape) for t in conditions)
            output: Tensor = dit(inputs, c_noise, of_photos, keep, geometry, images, warped)
            return output

        batch = x.expand(len(keep), *x.shape[1:])
        preconditioning = edm.Preconditioning(dit.config.sigma_data)
        D_x = preconditioning.denoise(network, batch, sigma.expand(len(keep)))
        if guidance == 1:
            return D_x
        conditional, unconditional = D_x.chunk(2)
        return unconditional + guidance * (conditional - unconditional)


def as_views(images: Tensor, cameras: Cameras) -> Views:
    """Images [V, 4, S, S], about [-1, 1], colour on white, then alpha -> `Views` of V cameras, in [0, 1]."""
    x = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return Views(x[..., :3].contiguous(), x[..., 3].contiguous(), cameras)


def as_images(views: Views) -> Tensor:
    """`Views` -> images [V, 4, H, W] in [-1, 1], colour on white, then alpha; the inverse of `as_views`."""
    return torch.cat([views.rgb, views.alpha[..., None]], -1).permute(0, 3, 1, 2) * 2 - 1
