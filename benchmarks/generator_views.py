"""Meshes of other generators' pictures: laws, jitter, files as those generators write them.

python benchmarks/generator_views.py CORPUS.npz --manifest index.json [--objects 10] [--laws sv3d ...]

Every object is rendered by each law, and jittered as generated pictures are: 2 pixels, 2 % of size, 3 % of
colour. The pictures are written to files, read back and posed by `v3d.objects.around`; the draft mesh is
compared with the one from the same pictures with their true cameras, jitter included (volume IoU with the
object).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from torch import Tensor

from v3d.cameras import Cameras
from v3d.capture.orbit_law import OrbitLaw, orbit_law
from v3d.evaluation.mesh_metrics import volume_iou
from v3d.evaluation.protocol import RECONSTRUCTION
from v3d.evaluation.settings import ObjectSource
from v3d.evaluation.testset import TestObject, load_objects, object_ids
from v3d.meshes.mesh import Mesh
from v3d.objects import build
from v3d.objects.around import views_around
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS
from v3d.settings import GeneratorName, OrbitSettings
from v3d.video import save_video
from v3d.views import Views

SIZES = {"v3d": 256, "sv3d": 576, "zero123++": 320, "zero123++-1.1": 320, "syncdreamer": 256, "wonder3d": 256}
GREY = 0.5  # Zero123++'s ground


def jittered(views: Views, seed: int) -> tuple[Views, Cameras]:
    """The views with their pictures shifted, scaled and coloured at random, and the cameras of these."""
    generator = torch.Generator().manual_seed(seed)

    def around_zero(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator) - 1

    V, H, W = views.alpha.shape
    scale, shift, gain = 1 + 0.02 * around_zero(V), 2 * around_zero(V, 2), 1 + 0.03 * around_zero(V, 1, 1, 3)
    K = views.cameras.K.clone()
    K[:, :2, :2] *= scale[:, None, None]
    K[:, :2, 2] += shift
    back = torch.zeros(V, 2, 3)
    back[:, 0, 0] = back[:, 1, 1] = 1 / scale
    back[:, :, 2] = -2 * shift / torch.tensor([W, H]) / scale[:, None]
    layers = torch.cat([views.rgb - 1, views.alpha[..., None]], -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.affine_grid(back, list(layers.shape), align_corners=False)
    layers = torch.nn.functional.grid_sample(layers, grid, align_corners=False).permute(0, 2, 3, 1)
    alpha = layers[..., 3].clamp(0, 1)
    premultiplied = (layers[..., :3] + alpha[..., None]) * gain
    rgb = (premultiplied + 1 - alpha[..., None]).clamp(0, 1)
    return Views(rgb, alpha, views.cameras), Cameras(views.cameras.c2w, K, W, H)


def write(views: Views, name: GeneratorName, law: OrbitLaw, folder: Path) -> Path:
    """The pictures as the generator writes them; the path to give."""
    if name in ("v3d", "sv3d"):
        save_video(views.rgb, folder / "orbit.mp4", fps=7)
        return folder / "orbit.mp4"
    ground = GREY if name.startswith("zero") else 1.0
    rgb = views.rgb + (ground - 1) * (1 - views.alpha[..., None])
    pictures = (rgb.clamp(0, 1) * 255).round().byte().numpy()
    if law.grid is not None:
        rows, columns = law.grid
        size = pictures.shape[1]
        sheet = pictures.reshape(rows, columns, size, size, 3).swapaxes(1, 2).reshape(rows * size, -1, 3)
        Image.fromarray(sheet).save(folder / "0.png")
        return folder / "0.png"
    for side, picture in zip(law.sides, pictures, strict=True):
        Image.fromarray(picture).save(folder / f"rgb_000_{side}.png")
        Image.fromarray(255 - picture).save(folder / f"normals_000_{side}.png")
    return folder


def shape_of(views: Views) -> Mesh:
    """The draft's mesh."""
    inputs, preset = BuildInputs(views), PRESETS["draft"]
    return build.shape(inputs, build.hull(inputs, preset), preset)


def measure(item: TestObject, name: GeneratorName, seed: int) -> tuple[float, float, float, tuple[str, ...]]:
    """IoU with true cameras, IoU as posed, seconds of reading and posing, notes."""
    law = orbit_law(OrbitSettings(law=name))
    truth = RECONSTRUCTION.place(item.mesh)
    views, cameras = jittered(RECONSTRUCTION.true_views(item, law.cameras(SIZES[name])), seed)
    best = volume_iou(shape_of(replace(views, cameras=cameras)), truth)
    with tempfile.TemporaryDirectory() as folder:
        path = write(views, name, law, Path(folder))
        start = time.perf_counter()
        posed = views_around(path, OrbitSettings(law=name))
        seconds = time.perf_counter() - start
    return best, volume_iou(shape_of(posed.views), truth), seconds, posed.notes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--laws", nargs="+", default=list(get_args(GeneratorName)))
    options = parser.parse_args()
    source = ObjectSource(corpus=options.corpus, manifest=options.manifest, limit=options.objects)
    items = list(load_objects(source, object_ids(source)))
    print(f"{'law':14} {'true cameras':>12} {'as posed':>8} {'of true':>8} {'worst':>6} {'seconds':>8}")
    for name in options.laws:
        rows = []
        for seed, item in enumerate(items):
            best, ours, seconds, notes = measure(item, name, seed)
            rows.append((best, ours, ours / best, seconds))
            print(f"  {item.id[:40]:40} {best:.3f} {ours:.3f} {' '.join(notes)}", flush=True)
        best, ours, share, seconds = torch.tensor(rows).mean(0).tolist()
        worst = min(row[2] for row in rows)
        print(f"{name:14} {best:12.3f} {ours:8.3f} {share:8.3f} {worst:6.3f} {seconds:8.1f}", flush=True)


if __name__ == "__main__":
    main()
