"""`v3d make-objects`, `v3d render`, `v3d render-scenes` and `v3d train` on the command line. (Imports nothing heavy until it runs.)"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from v3d.data.settings import RenderScenesSettings, RenderSettings
from v3d.settings import Device
from v3d.training.recipe import PixelNeRFRecipe, SVDRecipe, VAERecipe, VideoRecipe

Out = Annotated[Path, arg(aliases=["-o"])]
_VAE, _PIXELNERF, _VIDEO, _SVD = VAERecipe(), PixelNeRFRecipe(), VideoRecipe(), SVDRecipe()


def render(
    meshes: Positional[tuple[Path, ...]],
    /,
    out: Out = Path("data"),
    settings: OmitArgPrefixes[RenderSettings] = RenderSettings(),  # noqa: B008 (frozen)
    workers: int = 1,
) -> None:
    """Meshes -> orbit data for training.

    Args:
        meshes: GLB, OBJ, PLY files, folders of them, manifests (JSON list with `file`, `id`, `split`, `licence`), or
            packed corpora (.npz).
        out: folder of the data and of manifest.json; a job that was stopped goes on when it is started again.
        settings: see `v3d.data.settings`.
        workers: processes.
    """
    from v3d.data.render_orbits import render_meshes
    from v3d.progress import ProgressDisplay

    with ProgressDisplay() as show:
        show.title(f"{len(meshes)} inputs -> {out}")
        report = render_meshes(meshes, out, settings, workers=workers, on_progress=show)
    refused = sum(entry["refused"] is not None for entry in report["objects"])
    print(
        f"{report['orbits']} orbits of {len(report['objects']) - refused} objects; {refused} objects refused,"
        f" {len(report['failures'])} orbits failed: reasons in {out / 'manifest.json'}"
    )


def render_scenes(
    meshes: Positional[tuple[Path, ...]],
    /,
    out: Out = Path("scenes"),
    settings: OmitArgPrefixes[RenderScenesSettings] = RenderScenesSettings(),  # noqa: B008 (frozen)
    workers: int = 1,
) -> None:
    """Meshes -> synthetic scenes for training: objects on textured ground, among walls, seen by moving cameras.

    Args:
        meshes: as for `v3d render`.
        out: folder of the data and of manifest.json; a job that was stopped goes on when it is started again.
        settings: see `v3d.data.settings`.
        workers: processes.
    """
    from v3d.data.render_scenes import render_scenes as run
    from v3d.progress import ProgressDisplay

    with ProgressDisplay() as show:
        show.title(f"{len(meshes)} inputs -> {out}")
        report = run(meshes, out, settings, workers=workers, on_progress=show)
    print(f"{report['scenes']} scenes; {len(report['failures'])} failed: reasons in {out / 'manifest.json'}")


def make_objects(
    count: Positional[int], /, out: Out = Path("objects"), seed: int = 0, workers: int = 1
) -> None:
    """Procedural objects (GLB) to learn from beside your own, or without any.

    Args:
        count: how many.
        out: folder; objects that are there already stay.
        seed: every seed has objects of its own.
        workers: processes.
    """
    from v3d.data.procedural.make import make_objects as run
    from v3d.progress import ProgressDisplay

    with ProgressDisplay() as show:
        show.title(f"{count} objects -> {out}")
        run(count, out, seed=seed, workers=workers, on_progress=show)


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
    """

    out: Out = Path("runs/new")
    minutes: float | None = None
    init: str | None = None
    export: Path | None = None
    device: Device = "auto"
    threads: int | None = None


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
    """OrbitDiT, the video model that draws orbits.

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
    """

    run: Positional[Path]
    minutes: float | None = None
    export: Path | None = None
    device: Device = "auto"
    threads: int | None = None


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


SMOKE = "The same, so small that it takes seconds: shows that everything runs."


def train(
    what: OmitSubcommandPrefixes[
        OmitArgPrefixes[
            Annotated[TrainVAE, subcommand("vae")]
            | Annotated[
                TrainVAE, subcommand("vae-smoke", default=TrainVAE(VAERecipe.smoke()), description=SMOKE)
            ]
            | Annotated[TrainPixelNeRF, subcommand("pixelnerf")]
            | Annotated[
                TrainPixelNeRF,
                subcommand(
                    "pixelnerf-smoke", default=TrainPixelNeRF(PixelNeRFRecipe.smoke()), description=SMOKE
                ),
            ]
            | Annotated[
                TrainPixelNeRF,
                subcommand(
                    "scene-pixelnerf",
                    default=TrainPixelNeRF(PixelNeRFRecipe.scenes()),
                    description="PixelNeRF for scenes.",
                ),
            ]
            | Annotated[TrainVideo, subcommand("orbit")]
            | Annotated[
                TrainVideo,
                subcommand("orbit-smoke", default=TrainVideo(VideoRecipe.smoke()), description=SMOKE),
            ]
            | Annotated[
                TrainVideo,
                subcommand(
                    "scene",
                    default=TrainVideo(VideoRecipe.scenes()),
                    description="OrbitDiT for scenes: new views from a few posed photos.",
                ),
            ]
            | Annotated[
                TrainVideo,
                subcommand("scene-smoke", default=TrainVideo(VideoRecipe.scenes_smoke()), description=SMOKE),
            ]
            | Annotated[TrainSVD, subcommand("svd")]
            | Annotated[Resume, subcommand("resume")]
            | Annotated[Average, subcommand("average")]
        ]
    ],
) -> None:
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
            out, minutes=what.minutes, device=what.device, threads=what.threads, on_line=_tell
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
            on_line=_tell,
        )
    if export is not None:
        copy_model(out, export)
    print(f"{progress.step} steps; weights in {out / 'model'}; go on with: v3d train resume {out}")


def _tell(line: dict[str, float]) -> None:
    print("  ".join(f"{name} {value:g}" for name, value in line.items()), file=sys.stderr, flush=True)
