"""The mesh stage, part by part: CPU seconds, and how the result looks. Several versions of V3D side by side.

    python benchmarks/mesh_stage.py --corpus test.npz --manifest index.json --limit 4
    python benchmarks/mesh_stage.py OTHER_CHECKOUT/src src --corpus test.npz --manifest index.json --limit 4
    python benchmarks/mesh_stage.py --capture examples/plane

Every object's surface is made once, by the V3D that is installed; each version then makes the mesh of it, in
turn and in a process of its own, after a small one that compiles its kernels. Seconds are user and system
time of all threads. PSNR is of unlit renders against true views halfway between those given and 20 degrees
above, or, of a capture, against its own views.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import tyro
from safetensors.torch import load_file, save_file

from v3d.cameras import Cameras
from v3d.evaluation.protocol import RECONSTRUCTION
from v3d.evaluation.settings import ObjectSource
from v3d.evaluation.testset import TestObject, load_objects, object_ids
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.metrics import psnr
from v3d.objects import build
from v3d.objects.build import BuildInputs
from v3d.objects.pipeline import reconstruct
from v3d.objects.presets import PRESETS, Preset
from v3d.preview import contact_sheet, textured, turntable
from v3d.settings import Quality, ReconstructSettings
from v3d.surface.grid import Grid
from v3d.surface.silhouette import silhouette_iou
from v3d.views import Views

T = TypeVar("T")
PARTS = ("extract", "unwrap", "project", "refine", "glb", "preview")


def main(
    sources: Annotated[list[Path], tyro.conf.Positional] = [],  # noqa: B006
    corpus: Path | None = None,
    manifest: Path | None = None,
    limit: int = 4,
    capture: Path | None = None,
    quality: Quality = "standard",
    keep: Path | None = None,
    one: Path | None = None,
) -> None:
    """Print a row an object and version, then means.

    Args:
        sources: folders `src` of checkouts to compare; by default the V3D that is installed.
        corpus: packed test objects.
        manifest: which of them there are.
        limit: so many objects.
        capture: measure on this capture instead.
        quality: preset.
        keep: folder for the surfaces and meshes; a surface that is there is not made again.
        one: measure one prepared object (what this script calls itself with).
    """
    if one is not None:
        print(json.dumps(measure(one, PRESETS[quality])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)) / quality
        folder.mkdir(parents=True, exist_ok=True)
        if capture is not None:
            prepared = [_prepare(capture.name, folder, quality, lambda: (_captured(capture), None))]
        else:
            objects = ObjectSource(corpus=corpus, manifest=manifest, real_scans=True, limit=limit)
            prepared = [
                _prepare(item.id, folder, quality, lambda item=item: _true_views(item))
                for item in load_objects(objects, object_ids(objects))
            ]
        places = sources or [Path(sys.modules["v3d"].__path__[0]).parent]
        rows: dict[Path, list[dict[str, float]]] = {place: [] for place in places}
        for path in prepared:
            for number, place in enumerate(places, 1):
                rows[place].append(_in_process(path, place, quality))
                if number == len(rows[place]) == 1 and path == prepared[0]:
                    _print_header(rows[place][0])
                _print_row(path.stem, str(number), rows[place][-1])
        for number, place in enumerate(places, 1):
            means = {c: sum(r[c] for r in rows[place]) / len(prepared) for c in rows[place][0]}
            _print_row("mean", str(number), means)


def measure(path: Path, preset: Preset) -> dict[str, float]:
    """CPU seconds of every part and the scores of the mesh, which is written beside the prepared object."""
    views, held_out, sdf = _load(path)
    small = Preset(**{**vars(preset), "faces": 500, "texture_size": 64, "turntable": 32})
    _make(BuildInputs(views), sdf, small, path.with_suffix(".small.glb"), {})
    seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    version = Path(build.__file__).parents[3].name  # of the checkout
    mesh = _make(BuildInputs(views), sdf, preset, path.with_suffix(f".{version}.glb"), seconds)
    scores = {f"psnr.{name}": _psnr(mesh, of) for name, of in held_out.items()}
    stage = sum(seconds[part] for part in PARTS[:-1])
    return {**seconds, "stage": stage, "vertices": len(mesh.vertices), **scores} | {
        "iou": silhouette_iou(mesh, views)
    }


def _make(inputs: BuildInputs, sdf: Grid, preset: Preset, path: Path, seconds: dict[str, float]) -> Mesh:
    """What the stages `mesh` and `preview` do, with a clock."""

    def timed(part: str, compute: Callable[..., T]) -> Callable[..., T]:
        def run(*args: object, **kwargs: object) -> T:
            start = time.process_time()
            result = compute(*args, **kwargs)
            seconds[part] = seconds.get(part, 0.0) + time.process_time() - start
            return result

        return run

    originals = (build.unwrap, build.project_views, build.refine_texture)
    build.unwrap, build.project_views, build.refine_texture = (
        timed(part, function) for part, function in zip(PARTS[1:4], originals, strict=True)
    )
    try:
        shape = timed("extract", build.shape)(inputs, sdf, preset)
        mesh = build.textured(inputs, shape, preset)
    finally:
        build.unwrap, build.project_views, build.refine_texture = originals
    timed("glb", save_glb)(mesh, path)
    loaded = load_mesh(path)

    def preview() -> None:
        contact_sheet(inputs.views, mesh=loaded)
        turntable(textured(loaded), size=preset.turntable)

    timed("preview", preview)()
    return loaded


def _in_process(path: Path, source: Path, quality: Quality) -> dict[str, float]:
    """`measure` by the V3D of a folder `src`."""
    command = [sys.executable, __file__, "--one", str(path), "--quality", quality]
    env = os.environ | {"PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _captured(capture: Path) -> Views:
    with tempfile.TemporaryDirectory() as folder:
        return reconstruct(capture, folder, ReconstructSettings(until="views")).views


def _true_views(item: TestObject) -> tuple[Views, dict[str, Views]]:
    return RECONSTRUCTION.true_orbit(item), RECONSTRUCTION.held_out(item)


def _prepare(
    name: str, folder: Path, quality: Quality, make: Callable[[], tuple[Views, dict[str, Views] | None]]
) -> Path:
    """Views, held-out views and surface in a file."""
    path = folder / f"{name}.safetensors"
    if path.exists():
        return path
    views, held_out = make()
    inputs, preset = BuildInputs(views), PRESETS[quality]
    hull = build.hull(inputs, preset)
    sdf = build.surface(inputs, hull, None, preset)
    tensors = {"values": sdf.values, "origin": sdf.origin, "voxel": torch.tensor(sdf.voxel)}
    for group, of in {"views": views, **(held_out or {"views given": views})}.items():
        size = torch.tensor([of.cameras.width, of.cameras.height])
        parts = {"rgb": of.rgb, "alpha": of.alpha, "c2w": of.cameras.c2w, "K": of.cameras.K, "size": size}
        tensors |= {f"{group}/{part}": tensor.clone().contiguous() for part, tensor in parts.items()}
    save_file(tensors, path)
    return path


def _load(path: Path) -> tuple[Views, dict[str, Views], Grid]:
    tensors = load_file(path)
    groups: dict[str, Views] = {}
    for group in sorted({key.split("/")[0] for key in tensors if "/" in key}):
        rgb, alpha, c2w, K, size = (tensors[f"{group}/{p}"] for p in ("rgb", "alpha", "c2w", "K", "size"))
        groups[group] = Views(rgb, alpha, Cameras(c2w, K, int(size[0]), int(size[1])))
    sdf = Grid(tensors["values"], tensors["origin"], float(tensors["voxel"]))
    return groups.pop("views"), groups, sdf


def _psnr(mesh: Mesh, views: Views) -> float:
    """Of unlit renders."""
    images = torch.cat([render(mesh, views.cameras[i]).rgb for i in range(len(views))])
    return float(psnr(images, views.rgb).mean())


def _print_header(values: dict[str, float]) -> None:
    print("| object | version | " + " | ".join(values) + " |")
    print("|---|---|" + "---:|" * len(values), flush=True)


def _print_row(name: str, version: str, values: dict[str, float]) -> None:
    cells = [_number(key, value) for key, value in values.items()]
    print(f"| {name} | {version} | " + " | ".join(cells) + " |", flush=True)


def _number(key: str, value: float) -> str:
    return f"{value:.3f}" if key == "iou" else f"{value:.0f}" if key == "vertices" else f"{value:.2f}"


if __name__ == "__main__":
    tyro.cli(main)
