"""The command line. Every subcommand is a typed function; the work is done by the Python API of the same name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from v3d.commands.make_objects import make_objects
from v3d.commands.render import render
from v3d.commands.render_scenes import render_scenes
from v3d.commands.train import train
from v3d.doctor import doctor
from v3d.errors import V3DError
from v3d.evaluation.settings import (
    EvaluateAblation,
    EvaluateAsset,
    EvaluateGeneration,
    EvaluateReconstruction,
    EvaluateScenes,
    EvaluateViews,
)
from v3d.settings import GenerateSettings, ReconstructSettings, SceneSettings

Out = Annotated[Path, arg(aliases=["-o"])]


class SomeFailedError(Exception):
    """Some of several inputs failed; each was told on stderr."""


def generate(
    photos: Positional[tuple[Path, ...]],
    /,
    out: Out = Path("out"),
    settings: OmitArgPrefixes[GenerateSettings] = GenerateSettings(),  # noqa: B008 (frozen)
    force: bool = False,
) -> None:
    """Photos -> orbit views, 3D Gaussians and textured meshes.

    Args:
        photos: image files, each of one object.
        out: folder; every photo gets a folder of its own name in it.
        settings: see `v3d.settings`.
        force: compute finished stages anew.
    """
    if not photos:
        raise V3DError("Give at least one photo, for example: v3d generate photo.png -o out")
    names = [photo.stem for photo in photos]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise V3DError(f"Two photos are called {twice}, so their results would share a folder; rename one.")
    from v3d.objects import pipeline
    from v3d.progress import ProgressDisplay

    failed = 0
    with ProgressDisplay() as show:
        for photo in photos:
            show.title(f"{photo} -> {out / photo.stem}")
            try:
                asset = pipeline.generate(photo, out, settings, force=force, on_progress=show)
            except V3DError as error:
                if len(photos) == 1:
                    raise
                failed += 1
                show.close()
                _complain(error)
            else:
                show.close()
                _tell_warnings(asset.report["warnings"])
    if failed:
        raise SomeFailedError(f"{failed} of {len(photos)} photos failed.")


def reconstruct(
    views: Positional[Path],
    /,
    out: Out = Path("out"),
    settings: OmitArgPrefixes[ReconstructSettings] = ReconstructSettings(),  # noqa: B008 (frozen)
    orbit: bool = False,
    photo: Path | None = None,
    force: bool = False,
) -> None:
    """Posed views -> 3D Gaussians and a textured mesh.

    Args:
        views: folder with transforms.json (nerfstudio, instant-ngp, ours), or a video with --orbit.
        out: folder; the views get a folder of their own name in it.
        settings: see `v3d.settings`.
        orbit: VIEWS is a video that goes once around the object at its own height.
        photo: a sharper photo of the first view, for the texture.
        force: compute finished stages anew.
    """
    from v3d.objects import pipeline
    from v3d.progress import ProgressDisplay

    with ProgressDisplay() as show:
        show.title(f"{views} -> {out / pipeline.run_name(views)}")
        asset = pipeline.reconstruct(
            views, out, settings, orbit=orbit, photo=photo, force=force, on_progress=show
        )
    _tell_warnings(asset.report["warnings"])


def scene(
    photos: Positional[Path],
    /,
    out: Out = Path("out"),
    settings: OmitArgPrefixes[SceneSettings] = SceneSettings(),  # noqa: B008 (frozen)
    force: bool = False,
) -> None:
    """Posed photos of a scene -> new views along a camera path, a video, 3D Gaussians.

    Args:
        photos: folder of posed photos: transforms.json (nerfstudio, instant-ngp, ours), COLMAP, CO3D, MVImgNet.
        out: folder; the scene gets a folder of its own name in it.
        settings: see `v3d.settings`.
        force: compute finished stages anew.
    """
    from v3d.progress import ProgressDisplay
    from v3d.run import run_name
    from v3d.scene import pipeline

    with ProgressDisplay() as show:
        show.title(f"{photos} -> {out / run_name(photos)}")
        asset = pipeline.generate_scene(photos, out, settings, force=force, on_progress=show)
    _tell_warnings(asset.report["warnings"])


def evaluate(
    task: OmitArgPrefixes[
        Annotated[EvaluateReconstruction, subcommand("reconstruction", prefix_name=False)]
        | Annotated[EvaluateGeneration, subcommand("generation", prefix_name=False)]
        | Annotated[EvaluateAblation, subcommand("ablation", prefix_name=False)]
        | Annotated[EvaluateScenes, subcommand("scenes", prefix_name=False)]
        | Annotated[EvaluateViews, subcommand("views", prefix_name=False)]
        | Annotated[EvaluateAsset, subcommand("asset", prefix_name=False)]
    ],
) -> None:
    """Measure reconstruction, generation, ablations, scenes, a folder of views or a mesh against the truth; prints tables.

    Args:
        task: what to measure.
    """
    from v3d.evaluation.report import markdown

    def show(name: str, done: int, total: int) -> None:
        print(f"v3d: {done}/{total} {name}", file=sys.stderr, flush=True)

    print(markdown(task.run(on_object=show)))


def convert(v3d: Positional[Path], svd: Positional[Path], /, out: Out = Path("v3d-official")) -> None:
    """The released checkpoints -> a folder for --model.

    Args:
        v3d: V3D.ckpt.
        svd: svd_xt.safetensors.
        out: folder to write; must not exist, or be empty.
    """
    from v3d.diffusion.official import convert as checkpoints

    print(checkpoints.convert(v3d, svd, out))


COMMANDS: dict[str, Callable[..., None]] = {
    "generate": generate,
    "reconstruct": reconstruct,
    "scene": scene,
    "make-objects": make_objects,
    "render": render,
    "render-scenes": render_scenes,
    "train": train,
    "evaluate": evaluate,
    "convert": convert,
    "doctor": doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (some inputs failed), 2 (an error), 130 (interrupted),
    141 (nobody reads stdout any more).

    Users see one sentence and no traceback; V3D_DEBUG=1 lets faults of the program through.
    """
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="v3d", description="One photo becomes a 3D asset.", args=arguments
        )
        sys.stdout.flush()
    except BrokenPipeError:  # `v3d ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at exit
        return 141
    except SomeFailedError as error:
        print(f"v3d: {error}", file=sys.stderr)
        return 1
    except V3DError as error:
        _complain(error)
        return 2
    except KeyboardInterrupt:
        print("\nv3d: interrupted; run the same command to resume", file=sys.stderr)
        return 130
    except MemoryError:
        print("v3d: out of memory; try --quality draft", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("V3D_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        print(
            f"v3d: a fault in V3D itself ({what}); V3D_DEBUG=1 shows where, please report it", file=sys.stderr
        )
        return 70
    return 0


def _complain(error: V3DError) -> None:
    print(f"v3d: {error}", file=sys.stderr)


def _tell_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        print(f"v3d: note: {warning}", file=sys.stderr)
