"""Peak memory of `v3d reconstruct` of many large views, stage by stage.

    python benchmarks/reconstruct_memory.py --views 200 --size 1024 --quality draft

Draws an ellipsoid with stripes from cameras on a spiral around it, reconstructs it in a process of its own
and prints the highest resident memory of the process and of every stage, and the estimate in report.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from v3d.cameras import OPENCV_OPENGL, around

RADII = np.array([0.7, 0.5, 0.6])  # of the ellipsoid


def draw(c2w: np.ndarray, K: np.ndarray, size: int) -> Image.Image:
    """The ellipsoid [size, size] RGBA as one camera sees it."""
    v, u = np.mgrid[0:size, 0:size].astype(np.float32) + np.float32(0.5)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    d, o = (rays @ c2w[:3, :3].T / RADII).astype(np.float32), (c2w[:3, 3] / RADII).astype(np.float32)
    a, b, c = (d * d).sum(-1), d @ o, float(o @ o) - 1
    disc = b * b - a * c
    t = (-b - np.sqrt(disc.clip(0))) / a
    x = o + t[..., None] * d  # on the unit sphere
    stripes = 0.5 + 0.5 * np.sign(np.sin(12 * x))
    rgba = np.concatenate([0.2 + 0.7 * stripes, (disc > 0)[..., None]], -1)
    return Image.fromarray((rgba * 255).astype(np.uint8))


def write_capture(folder: Path, count: int, size: int) -> None:
    """`count` views and their transforms.json."""
    azimuths = [360 * 3 * i / count for i in range(count)]
    elevations = [60 * i / count - 20 for i in range(count)]
    cameras = around(azimuths, size=size, elevation=elevations)
    frames = []
    folder.mkdir()
    for i in range(count):
        c2w, K = cameras.c2w[i].numpy().astype(np.float64), cameras.K[i].numpy()
        draw(c2w, K, size).save(folder / f"{i:03d}.png", compress_level=1)
        frames.append(
            {"file_path": f"{i:03d}.png", "transform_matrix": (c2w @ OPENCV_OPENGL.numpy()).tolist()}
        )
    K = cameras.K[0].numpy()
    lens = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    meta = {"w": size, "h": size} | {name: float(value) for name, value in lens.items()} | {"frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--quality", default="draft")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "capture"
        write_capture(folder, arguments.views, arguments.size)
        command = [sys.executable, "-m", "v3d", "reconstruct", str(folder), "-o", str(Path(scratch) / "out")]
        start = time.perf_counter()
        subprocess.run([*command, "--quality", arguments.quality], check=True)
        seconds = time.perf_counter() - start
        report = json.loads((Path(scratch) / "out/capture/report.json").read_text())
    # Stages begin their peaks anew, which resets the process's; reading comes before the first of them.
    stages = [stage["peak_memory_mb"] for stage in report["stages"].values()]
    peak = max(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, *stages)
    print(f"{arguments.views} views of {arguments.size}^2, {arguments.quality}: {seconds:.0f} s")
    print(f"  peak {peak:.0f} MB, estimated {report.get('memory_estimate_mb')} MB")
    for name, stage in report["stages"].items():
        print(f"  {name:8} {stage['peak_memory_mb']:.0f} MB, {stage['seconds']:.1f} s")


if __name__ == "__main__":
    main()
