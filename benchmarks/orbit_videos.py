"""Shapes from videos of turns around objects, against the same frames with their true cameras.

    python benchmarks/orbit_videos.py CORPUS [--objects 10] [--kinds steady,clockwise,...]

Every object is filmed (960 x 540, 120 frames; `long`: 1080p, 20 s) in one of these ways, cut out, posed and
carved. "IoU" is the volume IoU with the true mesh, brought to its place and size; "true" is that of as many
frames with true cameras; "ratio" their quotient; "peak" the memory of the process in MB.
"""

from __future__ import annotations

import argparse
import math
import resource
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import torch
from scipy.spatial import cKDTree

from v3d.cameras import intrinsics, orbit
from v3d.compositing import over_white
from v3d.errors import V3DError
from v3d.evaluation.mesh_metrics import sample_surface, volume_iou
from v3d.evaluation.settings import ObjectSource
from v3d.evaluation.testset import load_objects, object_ids
from v3d.framing import frame_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.objects.orbit_video import views_of_video
from v3d.surface.carving import carve
from v3d.surface.extract import marching_cubes
from v3d.surface.orbit_poses import AZIMUTH, DISTANCE, ELEVATION, YAW, cameras_at
from v3d.views import Views


@dataclass(frozen=True)
class Kind:
    """How an object is filmed."""

    clockwise: bool = False
    rotated: bool = False
    pause: float = 0.0  # share of the frames at each end
    degrees: float = 360.0
    shake: float = 0.0  # degrees, standard deviation of yaw, pitch and roll
    long: bool = False


GROUND = torch.tensor([0.35, 0.45, 0.6])
KINDS = {
    "steady": Kind(),
    "clockwise": Kind(clockwise=True),
    "rotated": Kind(rotated=True),
    "pauses": Kind(pause=0.2, clockwise=True),
    "330": Kind(degrees=330),
    "720": Kind(degrees=720, clockwise=True),
    "shake": Kind(shake=3),
    "shake and pauses": Kind(shake=3, clockwise=True, pause=0.15),
    "long": Kind(long=True),
    "long and shake": Kind(long=True, shake=3, clockwise=True),
}


def poses_of(kind: Kind, frames: int, seed: int) -> torch.Tensor:
    """Poses [N, 6] of the camera; it shakes at about 2 Hz, and 2 % in distance, 1 degree in height."""
    still = round(kind.pause * frames)
    along = np.linspace(0, 1, frames - 2 * still, endpoint=kind.degrees != 360)
    along = np.r_[np.zeros(still), along, np.full(still, along[-1])]
    poses = torch.zeros(frames, 6, dtype=torch.float64)
    poses[:, AZIMUTH] = torch.from_numpy(np.radians(along * kind.degrees) * (-1 if kind.clockwise else 1))
    # White noise at ten samples a second, smooth between.
    noise = torch.randn(1, 6, 202, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shake = torch.nn.functional.interpolate(noise, frames, mode="linear")[0].T
    shake = shake / shake.std(0)
    poses[:, YAW:] += math.radians(kind.shake) * shake[:, 3:]
    if kind.shake:
        poses[:, DISTANCE] += 0.02 * shake[:, 0]
        poses[:, ELEVATION] += math.radians(1) * shake[:, 1]
    return poses


def film(mesh: Mesh, poses: torch.Tensor, kind: Kind, palette: bool, path: Path) -> None:
    """Render, and write an H.264 file; rotated ones are stored on their side, with a display matrix."""
    width, height = (1920, 1080) if kind.long else (960, 540)
    size = (height, width) if kind.rotated else (width, height)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30 if kind.long else 6)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"preset": "veryfast"}
        for i in range(len(poses)):
            cameras = replace(
                cameras_at(poses[i : i + 1], 90.0, width),
                K=intrinsics(90.0, width, height)[None],
                height=height,
            )
            view = render(mesh, cameras, supersample=1, nearest=palette)
            rgb = view.rgb[0] - (1 - view.alpha[0, ..., None]) * (1 - GROUND)
            image = (rgb.clamp(0, 1) * 255).byte().numpy()
            image = np.ascontiguousarray(np.rot90(image) if kind.rotated else image)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    if kind.rotated:
        data = bytearray(path.read_bytes())
        at = data.find(b"tkhd") + 4
        at += 4 + (32 if data[at] else 20) + 16
        data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
        path.write_bytes(data)


def placed(mesh: Mesh, truth: Mesh) -> Mesh:
    """A mesh brought to the place, size and attitude of the truth by its surface (ICP)."""
    target = torch.from_numpy(sample_surface(truth, 8000)[0].numpy()).double()
    tree = cKDTree(target.numpy())
    size = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm()
    v = mesh.vertices.double() * float((truth.vertices.amax(0) - truth.vertices.amin(0)).norm() / size)
    v = v + ((truth.vertices.amax(0) + truth.vertices.amin(0)) / 2 - (v.amax(0) + v.amin(0)) / 2)
    for _ in range(30):
        p = sample_surface(Mesh(v.float(), mesh.faces), 5000)[0].double()
        distance, nearest = tree.query(p.numpy())
        near = torch.from_numpy(distance <= np.quantile(distance, 0.9))
        p, q = p[near], target[torch.from_numpy(nearest)[near]]
        U, S, Vh = torch.linalg.svd((q - q.mean(0)).T @ (p - p.mean(0)))
        D = torch.diag(torch.tensor([1.0, 1.0, float(torch.det(U @ Vh).sign())], dtype=torch.float64))
        R, scale = U @ D @ Vh, (S * D.diagonal()).sum() / (p - p.mean(0)).square().sum()
        v = scale * (v - p.mean(0)) @ R.T + q.mean(0)
    return Mesh(v.float(), mesh.faces)


def hull_iou(views: Views, truth: Mesh) -> float:
    """Volume IoU of the views' hull with the truth, after it is placed; 0 where there is no hull."""
    try:
        return volume_iou(placed(marching_cubes(carve(views.reduced(512), resolution=96)), truth), truth)
    except V3DError:
        return 0.0


def true_views(mesh: Mesh, poses: torch.Tensor, count: int, palette: bool) -> Views:
    """As many frames with true cameras, spread over the circle."""
    azimuths = torch.rad2deg(poses[:, AZIMUTH])
    wanted = torch.arange(count) * 360 / count
    apart = ((azimuths[None] - wanted[:, None] + 180) % 360 - 180).abs()
    cameras = cameras_at(poses[apart.argmin(1).unique()], 90.0, 512)
    views = [render(mesh, cameras[i], nearest=palette) for i in range(len(cameras))]
    rgb, alpha = torch.cat([v.rgb for v in views]), torch.cat([v.alpha for v in views])
    return Views(over_white(rgb, alpha), alpha, cameras)


def measure(corpus: Path, name: str, kind_name: str, seed: int) -> str:
    """One row of the table."""
    source, kind = ObjectSource(corpus=corpus), KINDS[kind_name]
    item = next(load_objects(source, [name]))
    mesh = Mesh(frame_mesh(item.mesh.vertices, orbit(18)), item.mesh.faces, item.mesh.uv, item.mesh.texture)
    poses = poses_of(kind, 600 if kind.long else 120, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        film(mesh, poses, kind, item.palette, path)
        start = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = views_of_video(path, fov=90.0)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    way = "right" if found.clockwise == kind.clockwise else "wrong"
    truth = hull_iou(true_views(mesh, poses, len(found.views), item.palette), mesh)
    iou = hull_iou(found.views, mesh)
    return (
        f"| {name[:28]} | {kind_name} | {way} | {len(found.views)} | {iou:.3f} | {truth:.3f} | "
        f"{iou / max(truth, 1e-9):.2f} | {seconds:.0f} | {peak:.0f} ({before:.0f} before) |"
    )


def main() -> None:
    """Print a table; every row is measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        name, kind, seed = arguments.row
        print(measure(arguments.corpus, name, kind, int(seed)), flush=True)
        return
    names = object_ids(ObjectSource(corpus=arguments.corpus, limit=arguments.objects))
    kinds = arguments.kinds.split(",") if arguments.kinds else list(KINDS)
    print("| object | filmed | way | views | IoU | true | ratio | s | peak MB |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for i, name in enumerate(names):
        row = ["--row", name, kinds[i % len(kinds)], str(i)]
        subprocess.run([sys.executable, __file__, str(arguments.corpus), *row], check=False)


if __name__ == "__main__":
    main()
