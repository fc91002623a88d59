"""`v3d train`: the recipes as subcommands, `resume` and `average`. (Imports nothing heavy until it runs.)"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from v3d.commands.shared import Out
from v3d.settings import Device
from v3d.training.recipe import PixelNeRFRecipe, SVDRecipe, VAERecipe, VideoRecipe

_VAE, _PIXELNERF, _VIDEO, _SVD = VAERecipe(), PixelNeRFRecipe(), VideoRecipe(), SVDRecipe()
_SMOKE = "So small that it takes seconds: shows that everything runs."


@dataclass(frozen=True)
class Session:
    """Where and how long a run computes.

    Attributes:
        out: folder of the run.
        minutes: stop cleanly after so much time; a recipe without steps ends its schedule then.
        init: "mini" or "mini-scene" (the weights that ship) or a folder of weights to start from.
        export: also copy the trained model into this folder.
        device: auto takes a CUDA device where there is one.
        threads: of the CPU.
        workers: processes that render the orbits of --meshes, by default one for each core but one. Their
            number changes no result.
    """

    out: Out = Path("runs/new")
    minutes: float | None = None
    init: str | None = None
    export: Path | None = None
    device: Device = "auto"
    threads: int | None = None
    workers: int | None = None


@dataclass(frozen=True)
class TrainVAE:
    """The small RGBA VAE.

    Attributes:
        recipe: see `v3d.training.recipe`.
        session: where and how long.
    """

    recipe: OmitArgPrefixes[VAERecipe] = _VAE
    session: OmitArgPrefixes[Session] = Session()


@dataclass(frozen=True)
class TrainPixelNeRF:
    """PixelNeRF, the guide of the orbit model.

    Attributes:
        recipe: see `v3d.training.recipe`.
        session: where and how long.
    """

    recipe: OmitArgPrefixes[PixelNeRFRecipe] = _PIXELNERF
    session: OmitArgPrefixes[Session] = Session()


@dataclass(frozen=True)
class TrainVideo:
    """OrbitDiT, the video model that generates orbits.

    Attributes:
        recipe: see `v3d.training.recipe`.
        session: where and how long.
    """

    recipe: OmitArgPrefixes[VideoRecipe] = _VIDEO
    session: OmitArgPrefixes[Session] = Session()


@dataclass(frozen=True)
class TrainSVD:
    """Stable Video Diffusion's UNet, tuned on orbits as the paper does (a large GPU, docs/training.md).

    Attributes:
        recipe: see `v3d.training.recipe`.
        session: where and how long.
    """

    recipe: OmitArgPrefixes[SVDRecipe] = _SVD
    session: OmitArgPrefixes[Session] = Session()


@dataclass(frozen=True)
class Resume:
    """A run that was stopped goes on, by the recipe in its checkpoint.

    Attributes:
        run: its folder.
        minutes: of this session.
        export: also copy the trained model into this folder.
        device: auto takes a CUDA device where there is one.
        threads: of the CPU.
        workers: processes that render the orbits of --meshes, by default one for each core but one. Their
            number changes no result.
    """

    run: Positional[Path]
    minutes: float | None = None
    export: Path | None = None
    device: Device = "auto"
    threads: int | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Average:
    """The weighted mean of trained models of one architecture, often better than each.

    Attributes:
        models: folders of weights.
        shares: of each, in their order.
        out: folder of the mean.
    """

    models: Positional[tuple[Path, ...]]
    shares: tuple[float, ...]
    out: Out = Path("average")


_VAESmoke = subcommand("vae-smoke", default=TrainVAE(VAERecipe.smoke()), description=_SMOKE)
_PixelNeRFSmoke = subcommand(
    "pixelnerf-smoke", default=TrainPixelNeRF(PixelNeRFRecipe.smoke()), description=_SMOKE
)
_PixelNeRFLarge = subcommand(
    "pixelnerf-large",
    default=TrainPixelNeRF(PixelNeRFRecipe.large()),
    description="The larger PixelNeRF, of one to four photos from any height; with --meshes, on a large GPU.",
)
_ScenePixelNeRF = subcommand(
    "scene-pixelnerf", default=TrainPixelNeRF(PixelNeRFRecipe.scenes()), description="PixelNeRF for scenes."
)
_OrbitSmoke = subcommand("orbit-smoke", default=TrainVideo(VideoRecipe.smoke()), description=_SMOKE)
_OrbitLarge = subcommand(
    "orbit-large",
    default=TrainVideo(VideoRecipe.large()),
    description="OrbitDiT at all noise levels, a sampler of many steps; with --meshes, on a large GPU.",
)
_Scene = subcommand(
    "scene",
    default=TrainVideo(VideoRecipe.scenes()),
    description="OrbitDiT for scenes: new views from a few posed photos.",
)
_SceneSmoke = subcommand("scene-smoke", default=TrainVideo(VideoRecipe.scenes_smoke()), description=_SMOKE)

What = (
    Annotated[TrainVAE, subcommand("vae")]
    | Annotated[TrainVAE, _VAESmoke]
    | Annotated[TrainPixelNeRF, subcommand("pixelnerf")]
    | Annotated[TrainPixelNeRF, _PixelNeRFSmoke]
    | Annotated[TrainPixelNeRF, _PixelNeRFLarge]
    | Annotated[TrainPixelNeRF, _ScenePixelNeRF]
    | Annotated[TrainVideo, subcommand("orbit")]
    | Annotated[TrainVideo, _OrbitSmoke]
    | Annotated[TrainVideo, _OrbitLarge]
    | Annotated[TrainVideo, _Scene]
    | Annotated[TrainVideo, _SceneSmoke]
    | Annotated[TrainSVD, subcommand("svd")]
    | Annotated[Resume, subcommand("resume")]
    | Annotated[Average, subcommand("average")]
)
"""What `v3d train` can be asked for."""


def train(what: OmitSubcommandPrefixes[OmitArgPrefixes[What]]) -> None:
    """Train a model, alone or under `accelerate launch`; stop with Ctrl-C, go on with `v3d train resume RUN`.

    Args:
        what: the recipe.
    """
    from v3d.training import session as training
    from v3d.training.export import average, copy_model

    if isinstance(what, Average):
        average(what.models, what.shares, what.out)
        print(f"Weights in {what.out}")
        return
    if isinstance(what, Resume):
        out, export = what.run, what.export
        progress = training.resume_training(
            out,
            minutes=what.minutes,
            device=what.device,
            threads=what.threads,
            workers=what.workers,
            on_line=_show,
        )
    else:
        session = what.session
        out, export = session.out, session.export
        progress = training.train(
            what.recipe,
            out,
            minutes=session.minutes,
            init=session.init,
            device=session.device,
            threads=session.threads,
            workers=session.workers,
            on_line=_show,
        )
    if export is not None:
        copy_model(out, export)
    print(f"{progress.step} steps; weights in {out / 'model'}; go on with: v3d train resume {out}")


def _show(line: dict[str, float]) -> None:
    print("  ".join(f"{name} {value:g}" for name, value in line.items()), file=sys.stderr, flush=True)
