"""Recipes: everything that decides what a training run computes, saved in every checkpoint.

(Imports nothing heavy.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from v3d.checks import check_numbers
from v3d.data.settings import FreshOrbits
from v3d.diffusion.configs import OrbitDiTConfig
from v3d.errors import V3DError
from v3d.networks.configs import PixelNeRFConfig, VAEConfig
from v3d.training.ranges import RANGES

DataKind = Literal["orbits", "scenes"]
"""What the data are: orbits (`v3d render`) or scenes (`v3d render-scenes`); see `v3d.training.examples`."""


@dataclass(frozen=True)
class Recipe:
    """What the recipes of all models share.

    The learning rate rises over `warmup` steps, stands for the fraction `flat` of the run, then falls
    linearly to 2 %. The run's length is `steps`; where that is 0, it is the time given with `--minutes`.

    Attributes:
        data: folder of rendered orbits (`v3d render`) or scenes (`v3d render-scenes`).
        validation: folder of other orbits or scenes, to be measured and shown; None leaves that out.
        steps: length of the run in optimiser steps; 0 goes by the clock.
        batch: samples of a step, over all processes.
        accumulate: parts into which each process cuts its share of a step to fit in memory.
        optimizer: "adamw", or "muon" for matrices of transformer blocks and AdamW for the rest.
        learning_rate: largest.
        adamw_factor: of that rate, which the weights beside Muon's take.
        beta2: of AdamW.
        weight_decay: of the weights, per step and learning rate.
        clip: bound of the gradient's norm.
        warmup: steps over which the learning rate rises.
        flat: fraction of the run after which it falls.
        ema: largest decay of the averaged weights, which are the ones that are exported.
        precision: of the arithmetic; weights are float32. "auto" is bfloat16 where the machine is fast at it.
        compile: run the network through torch.compile.
        seed: of every random choice.
        save_minutes: between checkpoints, each with validation and samples.
        log_steps: steps to a line of the log.
    """

    data: Path = Path("data/train")
    validation: Path | None = None
    steps: int = 0
    batch: int = 32
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    adamw_factor: float = 1.0
    beta2: float = 0.95
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 200
    flat: float = 0.6
    ema: float = 0.999
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    seed: int = 0
    save_minutes: float = 3.0
    log_steps: int = 50

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(self, **{name: within for name, within in RANGES.items() if hasattr(self, name)})
        if getattr(self, "source_counts", (1,)) == ():
            raise V3DError("source_counts names no number of photos; give 1, or several numbers.")


@dataclass(frozen=True)
class VAERecipe(Recipe):
    """The small RGBA VAE, trained on crops of views.

    Attributes:
        crop: pixels of a crop's side.
        kl: weight of the divergence from N(0, 1), summed over a latent's channels, per pixel of the image.
        network: its sizes.
    """

    batch: int = 24
    beta2: float = 0.99
    warmup: int = 100
    flat: float = 0.5
    ema: float = 0.998
    crop: int = 64
    kl: float = 2e-6
    network: VAEConfig = VAEConfig()  # noqa: RUF009 (frozen)

    @staticmethod
    def smoke() -> VAERecipe:
        """Seconds on a CPU: shows that everything runs and the loss falls."""
        return VAERecipe(
            steps=260,
            flat=0.8,
            batch=8,
            crop=32,
            network=VAEConfig(widths=(16, 32, 32), blocks=1),
            learning_rate=5e-3,
            beta2=0.95,
            ema=0.95,
            warmup=5,
            log_steps=10,
        )


@dataclass(frozen=True)
class PixelNeRFRecipe(Recipe):
    """PixelNeRF: new views of objects from one photo or several, or of scenes from several.

    Attributes:
        examples: what the data are: "orbits" (`v3d render`) or "scenes" (`v3d render-scenes`).
        fresh: orbits that are rendered while the network trains; where it names meshes, `data` is not read.
        source_counts: numbers of photos, one chosen for each step; orbits of `data` have one. Steps with
            several photos of fresh orbits have so many times fewer samples.
        photos_only_after: fraction of the run until which half of the orbits begin at any of their views;
            after it the source is always the photo, framed by the law.
        views: of a clip that a step draws rays from.
        rays: random ones of each view.
        pixels: side to which views are reduced before rays are drawn.
        full_size_after: fraction of the run after which rays are drawn from whole views; of fresh orbits.
        network: its sizes. `imagenet` is better for scenes; of objects it makes the network overfit.
        depth_loss: weight of |ln(depth / true depth)|, where the data have depth (scenes, fresh orbits).
        lpips: weight of the perceptual distance of a square of neighbouring pixels; 0 leaves it out. Squared
            errors alone ask for the mean of what may be there, which is a blur.
        lpips_after: fraction of the run after which that counts.
        square: side of that square, in pixels of the whole view.
        square_share: share of the samples that have a square; each then counts as much more.
        square_error: weight of the squared error of the square's colours.
    """

    batch: int = 16
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = 2e-3
    warmup: int = 50
    ema: float = 0.997
    examples: DataKind = "orbits"
    fresh: FreshOrbits = FreshOrbits()  # noqa: RUF009 (frozen)
    source_counts: tuple[int, ...] = (1,)
    photos_only_after: float = 0.75
    views: int = 5
    rays: int = 128
    pixels: int = 64
    full_size_after: float = 1.0
    network: PixelNeRFConfig = PixelNeRFConfig(samples=24)  # noqa: RUF009 (frozen)
    depth_loss: float = 0.05
    lpips: float = 0.03
    lpips_after: float = 0.0
    square: int = 32
    square_share: float = 1.0
    square_error: float = 0.0

    @staticmethod
    def large() -> PixelNeRFRecipe:
        """One to four photos from any height: half a million samples, minutes on a large GPU.

        The recipe of the larger weights that ship; docs/training.md says how their run differed.
        """
        return PixelNeRFRecipe(
            fresh=FreshOrbits(first_orbits=600, orbits_per_step=7.2, orbit_gigabytes=45.0),
            steps=4423,
            batch=128,
            learning_rate=1.5e-3,
            adamw_factor=0.533,
            warmup=100,
            flat=0.55,
            ema=0.998,
            source_counts=(1,) * 12 + (2, 3, 4),
            views=4,
            rays=96,
            full_size_after=0.5,
            network=PixelNeRFConfig(
                width=512, depth=12, grid=64, planes=48, channels=12, hidden=64, samples=32, fine=32
            ),
            depth_loss=0.02,
            lpips=0.02,
            lpips_after=0.5,
            square_share=0.25,
            square_error=0.25,
        )

    @staticmethod
    def scenes() -> PixelNeRFRecipe:
        """One to four sources; depths from a camera's feet to the end of the ground."""
        return PixelNeRFRecipe(
            examples="scenes",
            source_counts=(1, 2, 3, 4),
            batch=8,
            network=PixelNeRFConfig(
                width=192, depth=5, planes=40, near=0.1, far=10.0, samples=40, texture=12, imagenet=True
            ),
        )

    @staticmethod
    def smoke() -> PixelNeRFRecipe:
        """Seconds on a CPU: shows that everything runs and the loss falls."""
        return PixelNeRFRecipe(
            steps=60,
            batch=4,
            optimizer="adamw",
            learning_rate=3e-3,
            ema=0.95,
            warmup=5,
            log_steps=10,
            fresh=FreshOrbits(first_orbits=6, orbits_per_step=0.1),
            views=3,
            rays=64,
            pixels=32,
            network=PixelNeRFConfig(size=64, width=64, depth=2, planes=8, samples=12, drawn=64),
        )


@dataclass(frozen=True)
class VideoRecipe(Recipe):
    """OrbitDiT: what PixelNeRF's guide leaves open, of orbits from one photo or of scenes from several.

    Attributes:
        examples: what the data are: "orbits" (`v3d render`) or "scenes" (`v3d render-scenes`).
        fresh: orbits that are rendered while the network trains, each with its guide; where it names meshes,
            `data` is not read.
        pixelnerf: folder of a trained PixelNeRF, whose views are the guide; None takes the one that ships.
        source_counts: numbers of photos, one chosen for each step.
        views: generated together in most steps: random ones of an orbit, the cheapest way to learn it.
        all_views: generated together in the last steps, in smaller batches.
        all_views_after: fraction of the run after which these begin.
        network: its sizes; the views' own replaces its `size`.
        drop: how often the photos are withheld (classifier-free guidance; the paper's 0.2).
        P_mean: of the noise distribution ln sigma ~ N(P_mean, P_std^2). The paper's is 1.5, for whole views;
            this is for what the guide leaves open.
        P_std: standard deviation in the noise distribution (the paper's is 2.0).
        first_steps: share of the samples that take the sampler's first step, from pure noise.
        lpips: weight of the perceptual distance of what that step generates; 0 leaves it the mean, a blur.
        guidance: default strength of the exported model's guidance.
        sampler_steps: default number of the exported model's steps.
    """

    batch: int = 8
    optimizer: Literal["adamw", "muon"] = "muon"
    warmup: int = 50
    ema: float = 0.998
    examples: DataKind = "orbits"
    fresh: FreshOrbits = FreshOrbits()  # noqa: RUF009 (frozen)
    pixelnerf: Path | None = None
    source_counts: tuple[int, ...] = (1,)
    views: int = 4
    all_views: int = 18
    all_views_after: float = 0.8
    network: OrbitDiTConfig = OrbitDiTConfig()  # noqa: RUF009 (frozen)
    drop: float = 0.1
    P_mean: float = -1.5
    P_std: float = 1.2
    first_steps: float = 0.75
    lpips: float = 8.0
    guidance: float = 1.0
    sampler_steps: int = 1

    @staticmethod
    def large() -> VideoRecipe:
        """A diffusion model of whole orbits, trained at all noise levels, for a sampler of many steps.

        Its guides are of one, two or four photos from any height. Minutes on a large GPU.
        """
        return VideoRecipe(
            fresh=FreshOrbits(
                procedural=0.25,
                combined=0.08,
                tilted=0.25,
                elevations=(-10.0, 35.0),
                first_orbits=400,
                orbits_per_step=2.0,
                orbit_gigabytes=24.0,
            ),
            steps=7500,
            batch=48,
            learning_rate=1.2e-3,
            adamw_factor=0.5,
            warmup=100,
            flat=0.5,
            ema=0.999,
            source_counts=(1, 1, 1, 1, 1, 2, 4),
            views=6,
            all_views_after=0.75,
            network=OrbitDiTConfig(channels=(64, 96, 192), width=384, depth=8, sigma_data=0.4),
            P_mean=-1.0,
            P_std=1.4,
            first_steps=0.1,
            lpips=0.0,
            sampler_steps=12,
        )

    @staticmethod
    def scenes() -> VideoRecipe:
        """One, three or six photos."""
        return VideoRecipe(
            data=Path("scenes/train"),
            examples="scenes",
            source_counts=(1, 3, 6),
            all_views=4,
            all_views_after=1.0,
            network=OrbitDiTConfig(warps=3, sigma_data=0.15),
            P_mean=-2.2,
            lpips=12.0,
        )

    @staticmethod
    def smoke() -> VideoRecipe:
        """Seconds on a CPU: shows that everything runs and the loss falls."""
        return VideoRecipe(
            steps=60,
            batch=4,
            optimizer="adamw",
            learning_rate=3e-3,
            ema=0.95,
            warmup=5,
            log_steps=10,
            fresh=FreshOrbits(first_orbits=6, orbits_per_step=0.1),
            network=OrbitDiTConfig(channels=(16, 16, 32), width=64, depth=1),
        )

    @staticmethod
    def scenes_smoke() -> VideoRecipe:
        """Seconds on a CPU, for scenes: shows that everything runs and the loss falls."""
        smoke = VideoRecipe.smoke()
        return replace(
            smoke,
            data=Path("scenes/train"),
            examples="scenes",
            source_counts=(1, 2),
            views=2,
            all_views=2,
            all_views_after=1.0,
            network=replace(smoke.network, warps=2, sigma_data=0.15),
            P_mean=-2.2,
        )


@dataclass(frozen=True)
class SVDRecipe(Recipe):
    """The UNet of Stable Video Diffusion (or V3D's) on 18-view orbits, as the paper tunes it.

    Attributes:
        batch: orbits of a step, over all processes.
        accumulate: parts of each process's share; batch divided by the number of processes leaves one orbit
            at a time.
        model: where tuning starts: a folder that `v3d convert` wrote, a diffusers folder of SVD, or a hub id.
        size: pixels of a view's side; orbits of another size are resized.
        layers: that train: all as in the paper, or the temporal ones alone (43 % of the weights), which needs
            half the memory.
        checkpointing: compute activations again in the backward pass instead of keeping them.
        random_front: begin each orbit at a random one of its views.
        drop: how often the photo's latent is withheld, and, drawn separately, its CLIP embedding.
        P_mean: of the noise distribution ln sigma ~ N(P_mean, P_std^2).
        P_std: standard deviation in the noise distribution.
        augmentation_mean: of the noise s on the photo's latent, ln s ~ N(augmentation_mean,
            augmentation_std^2).
        augmentation_std: standard deviation in that law.
        guidance: strength of guidance in the samples shown.
        sampler_steps: steps of the samples shown.
    """

    batch: int = 8
    accumulate: int = 8
    learning_rate: float = 1e-5
    beta2: float = 0.999
    warmup: int = 100
    flat: float = 1.0
    ema: float = 0.9999
    save_minutes: float = 60.0
    log_steps: int = 10
    model: str = "official"
    size: int = 512
    layers: Literal["all", "temporal"] = "all"
    checkpointing: bool = True
    random_front: bool = True
    drop: float = 0.2
    P_mean: float = 1.5
    P_std: float = 2.0
    augmentation_mean: float = -3.0
    augmentation_std: float = 0.5
    guidance: float = 3.5
    sampler_steps: int = 25
