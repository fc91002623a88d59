"""The command line: puts the commands of `v3d.commands` together, and turns errors into exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence

import tyro

from v3d.commands.app import app
from v3d.commands.batch import batch
from v3d.commands.convert import convert
from v3d.commands.convert_splats import convert_splats
from v3d.commands.doctor import doctor
from v3d.commands.evaluate import evaluate
from v3d.commands.generate import generate
from v3d.commands.make_objects import make_objects
from v3d.commands.mesh import mesh
from v3d.commands.reconstruct import reconstruct
from v3d.commands.render import render
from v3d.commands.render_scenes import render_scenes
from v3d.commands.scene import scene
from v3d.commands.serve import serve
from v3d.commands.shared import SomeFailedError, print_error
from v3d.commands.texture import texture
from v3d.commands.train import train
from v3d.commands.view import view
from v3d.distribution import own_version
from v3d.errors import V3DError

COMMANDS: dict[str, Callable[..., None]] = {
    "generate": generate,
    "batch": batch,
    "app": app,
    "serve": serve,
    "reconstruct": reconstruct,
    "texture": texture,
    "mesh": mesh,
    "scene": scene,
    "make-objects": make_objects,
    "render": render,
    "render-scenes": render_scenes,
    "train": train,
    "evaluate": evaluate,
    "convert": convert,
    "convert-splats": convert_splats,
    "view": view,
    "doctor": doctor,
}

EXAMPLES = (
    "v3d generate photo.png -o out",
    "v3d generate front.png --left left.png --back back.png -o out",
    "v3d batch photos/ -o out",
    "v3d app",
    "v3d serve",
    "v3d reconstruct FOLDER -o out",
    "v3d texture chair.glb photo.png -o textured",
    "v3d mesh splats.ply -o meshes",
    "v3d scene FOLDER -o out --path orbit",
    "v3d make-objects 100 -o objects",
    "v3d render objects -o data/train",
    "v3d render-scenes objects -o data/scenes",
    "v3d train orbit-smoke --data data/train -o runs/first",
    "v3d evaluate views --views out/photo --truth FOLDER",
    "v3d convert V3D.ckpt svd_xt.safetensors -o official",
    "v3d convert-splats splats.ply splats.spz",
    "v3d view out/photo",
    "v3d doctor",
    "v3d --version",
)

DESCRIPTION = "Photos become a 3D asset. For example:\n" + "\n".join(f"  {line}" for line in EXAMPLES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Users see one sentence and no traceback; V3D_DEBUG=1 lets faults of the program through.

    Args:
        arguments: those after the program's name; by default this process's own.

    Returns:
        0, or 1 (some inputs failed), 2 (an error), 70 (a fault in V3D), 130 (interrupted), or 141 (nobody
        reads stdout any more).
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for closed in [name for name in ("stdout", "stderr") if getattr(sys, name) is None]:  # `v3d ... >&-`
        setattr(sys, closed, open(os.devnull, "w"))  # noqa: SIM115 (for as long as the process lives)
    if arguments == ["--version"]:
        print(f"v3d {own_version() or 'unknown: it runs from a folder that is not installed'}")
        return 0
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="v3d", description=DESCRIPTION, args=arguments)
        if sys.stdout is not None:  # it was closed
            sys.stdout.flush()
    except BrokenPipeError:  # `v3d ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at exit
        return 141
    except SomeFailedError as error:
        print_error(error)
        return 1
    except V3DError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print("\nv3d: interrupted; run the same command to resume", file=sys.stderr)
        return 130
    except MemoryError:
        print("v3d: out of memory; try --quality draft", file=sys.stderr)
        return 2
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(f"v3d: {str(error.filename)[:60]}... is longer than the name of any file", file=sys.stderr)
            return 2
        if os.environ.get("V3D_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        print(
            f"v3d: a fault in V3D itself ({what}); V3D_DEBUG=1 shows where, please report it", file=sys.stderr
        )
        return 70
    return 0
