"""Folders of posed photos in every format, written from the formats' own definitions.

A camera is its eye and three unit vectors (right, up, forward); each format's axes are built from these.
Photos show bright dots where known points are seen, so that what was read can be checked by projecting the
points.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from v3d.views import Views

Array = NDArray[np.float64]
W, H = 160, 120
POINTS: Array = np.stack(
    np.meshgrid(np.linspace(-0.6, 0.6, 4), np.linspace(-0.4, 0.4, 3), [0.0]), -1
).reshape(-1, 3) + np.random.default_rng(0).uniform(-0.08, 0.08, (12, 3))
EYES: Array = np.array([[0.3, -0.2, 2.0], [-0.5, 0.4, 1.9], [0.1, 0.5, 2.2]])


@dataclass(frozen=True)
class Pose:
    eye: Array
    right: Array
    up: Array
    forward: Array

    def plane(self, points: Array) -> Array:
        """Where points are seen in the plane one unit ahead, x to the right and y down [P, 2]."""
        rays = points - self.eye
        return np.stack([rays @ self.right, -rays @ self.up], -1) / (rays @ self.forward)[:, None]


def poses() -> list[Pose]:
    out = []
    for i, eye in enumerate(EYES):
        forward = -eye / np.linalg.norm(eye)
        right = np.cross(forward, [0.1 * i, 1.0, 0.05])  # not quite upright
        right /= np.linalg.norm(right)
        out.append(Pose(eye, right, np.cross(right, forward), forward))
    return out


def draw(file: Path, pixels: Array, width: int = W, height: int = H, **save: Any) -> None:
    """Dots of radius 3 on dark blue."""
    rows, columns = np.mgrid[:height, :width]
    light = np.zeros((height, width))
    for u, v in pixels:
        light = np.maximum(light, np.clip(3.5 - np.hypot(columns + 0.5 - u, rows + 0.5 - v), 0, 1))
    image = light[..., None] * np.array([235.0, 235, 215]) + 20 + 20 * np.array([0, 0, 1])
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.round().astype(np.uint8)).save(file, **save)


def offsets(views: Views) -> Array:
    """Distance [V, P] in pixels of each dot's centroid from where the view's camera sees its point."""
    pixels, depth = views.cameras.project(torch.tensor(POINTS, dtype=views.cameras.c2w.dtype))
    assert bool((depth > 0).all())
    rows, columns = np.mgrid[: views.rgb.shape[1], : views.rgb.shape[2]]
    out = np.full(pixels.shape[:2], np.inf)
    for i, view in enumerate(views.rgb.numpy()):
        light = np.clip(view[..., 0] - 0.15, 0, None)
        for j, (u, v) in enumerate(pixels[i].numpy()):
            weight = light * (np.hypot(columns + 0.5 - u, rows + 0.5 - v) < 6)
            if weight.sum() > 0:
                x, y = ((weight * (axis + 0.5)).sum() / weight.sum() for axis in (columns, rows))
                out[i, j] = np.hypot(x - u, y - v)
    return out


# transforms.json


def transforms_folder(folder: Path, focal: float = 180.0, **header: Any) -> Path:
    frames = []
    for i, pose in enumerate(poses()):
        draw(folder / f"images/{i}.png", pose.plane(POINTS) * focal + (W / 2, H / 2))
        matrix = np.eye(4)
        matrix[:3] = np.stack([pose.right, pose.up, -pose.forward, pose.eye], -1)
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": matrix.tolist()})
    meta = {"fl_x": focal, "w": W, "h": H, "frames": frames} | header
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


# COLMAP


def radial(*k: float) -> Callable[[Array], Array]:
    """COLMAP's radial polynomial."""

    def bend(x: Array) -> Array:
        r2 = (x**2).sum(-1, keepdims=True)
        return np.asarray(x * (1 + sum(c * r2 ** (i + 1) for i, c in enumerate(k))))

    return bend


def opencv(k1: float, k2: float, p1: float, p2: float) -> Callable[[Array], Array]:
    def bend(x: Array) -> Array:
        u, v = x.T
        r2 = u * u + v * v
        du = 2 * p1 * u * v + p2 * (r2 + 2 * u * u)
        dv = 2 * p2 * u * v + p1 * (r2 + 2 * v * v)
        return np.asarray(radial(k1, k2)(x) + np.stack([du, dv], -1))

    return bend


def fisheye(*k: float) -> Callable[[Array], Array]:
    """The angle, not its tangent, gives the distance from the centre."""

    def bend(x: Array) -> Array:
        r = np.linalg.norm(x, axis=-1, keepdims=True)
        angle = np.arctan(r)
        return np.asarray(x / r * angle * (1 + sum(c * angle ** (2 * i + 2) for i, c in enumerate(k))))

    return bend


FOCAL, CENTRE = (178.0, 185.0), (W / 2 + 3, H / 2 - 2)
# name -> id, numbers, focal lengths, bend
LENSES: dict[str, tuple[int, Sequence[float], tuple[float, float], Callable[[Array], Array]]] = {
    "SIMPLE_PINHOLE": (0, (178.0, *CENTRE), (178.0, 178.0), lambda x: x),
    "PINHOLE": (1, (*FOCAL, *CENTRE), FOCAL, lambda x: x),
    "SIMPLE_RADIAL": (2, (178.0, *CENTRE, -0.3), (178.0, 178.0), radial(-0.3)),
    "RADIAL": (3, (178.0, *CENTRE, -0.35, 0.1), (178.0, 178.0), radial(-0.35, 0.1)),
    "OPENCV": (4, (*FOCAL, *CENTRE, -0.2, 0.05, 0.01, -0.015), FOCAL, opencv(-0.2, 0.05, 0.01, -0.015)),
    "OPENCV_FISHEYE": (5, (*FOCAL, *CENTRE, 0.1, -0.1, 0.05, 0.0), FOCAL, fisheye(0.1, -0.1, 0.05, 0.0)),
    "SIMPLE_RADIAL_FISHEYE": (8, (178.0, *CENTRE, 0.1), (178.0, 178.0), fisheye(0.1)),
    "RADIAL_FISHEYE": (9, (178.0, *CENTRE, 0.1, -0.1), (178.0, 178.0), fisheye(0.1, -0.1)),
}


def colmap_rows(model: str) -> list[tuple[int, Array, Array, str, Array]]:
    """Image id, quaternion (w x y z), translation, name, dots. The ids run against the names."""
    _, _, focal, bend = LENSES[model]
    rows = []
    for i, pose in enumerate(poses()):
        R = np.stack([pose.right, -pose.up, pose.forward])
        q = Rotation.from_matrix(R).as_quat()[[3, 0, 1, 2]]
        rows.append((9 - i, q, -R @ pose.eye, f"{i}.png", bend(pose.plane(POINTS)) * focal + CENTRE))
    return rows


def colmap_folder(
    folder: Path, model: str = "PINHOLE", *, binary: bool = True, at: str = "sparse/0", images: str = "images"
) -> Path:
    number, numbers, _, _ = LENSES[model]
    rows = colmap_rows(model)[::-1]
    place = folder / at
    place.mkdir(parents=True, exist_ok=True)
    for _, _, _, name, dots in rows:
        draw(folder / images / name, dots)
    if binary:
        camera = struct.pack("<QIiQQ", 1, 7, number, W, H) + struct.pack(f"<{len(numbers)}d", *numbers)
        (place / "cameras.bin").write_bytes(camera)
        data = struct.pack("<Q", len(rows))
        for key, q, t, name, dots in rows:
            data += (
                struct.pack("<I7dI", key, *q, *t, 7) + name.encode() + b"\0" + struct.pack("<Q", len(dots))
            )
            data += b"".join(struct.pack("<ddq", u, v, -1) for u, v in dots)
        (place / "images.bin").write_bytes(data)
    else:
        text = " ".join(map(repr, numbers))
        (place / "cameras.txt").write_text(f"# Camera list\n7 {model} {W} {H} {text}\n")
        lines = ["# Image list", "# two lines an image"]
        for i, (key, q, t, name, dots) in enumerate(rows):
            lines.append(" ".join(map(str, (key, *q.tolist(), *t.tolist(), 7, name))))
            lines.append("" if i == 0 else " ".join(f"{u} {v} -1" for u, v in dots))
        (place / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


# CO3D


def pytorch3d_pixels(pose: Pose, focal: Array, principal: Array, scale: Array) -> Array:
    """PyTorch3D's projection: row vectors, x left and y up in camera and NDC, pixels from the top left."""
    R, T = pytorch3d_pose(pose)
    camera = POINTS @ R + T
    ndc = focal * camera[:, :2] / camera[:, 2:] + principal
    return np.array([W, H]) / 2 - ndc * scale


def pytorch3d_pose(pose: Pose) -> tuple[Array, Array]:
    R = np.stack([-pose.right, pose.up, pose.forward], -1)
    return R, -pose.eye @ R


def co3d_folder(
    root: Path, *, kind: str = "ndc_isotropic", others: int = 1, masks: Array | None = None
) -> Path:
    """hydrant/SEQUENCE with frames in disorder, among those of `others` sequences.

    Args:
        kind: of the intrinsics.
        masks: [H, W] in [0, 1], of every photo; none by default.

    Returns:
        The folder of the first sequence.
    """
    scale = np.array([min(W, H)] * 2 if kind == "ndc_isotropic" else [W, H]) / 2
    focal, principal = np.array([180.0, 187.0]) / scale, np.array([0.05, -0.03])
    entries: list[dict[str, Any]] = []
    for s in range(others + 1):
        for i, pose in enumerate(poses()):
            name = f"hydrant/seq{s}/images/frame{i:06d}.jpg"
            R, T = pytorch3d_pose(pose)
            viewpoint = {
                "R": R.tolist(),
                "T": T.tolist(),
                "focal_length": focal.tolist(),
                "principal_point": principal.tolist(),
                "intrinsics_format": kind,
            }
            image = {"path": name, "size": [H, W]}
            mask = None
            if masks is not None:
                mask = {"path": name.replace("images", "masks").replace("jpg", "png")}
                (root / mask["path"]).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((masks * 255).round().astype(np.uint8)).save(root / mask["path"])
            entries.append(
                {
                    "sequence_name": f"seq{s}",
                    "frame_number": i,
                    "image": image,
                    "viewpoint": viewpoint,
                    "mask": mask,
                }
            )
            draw(root / name, pytorch3d_pixels(pose, focal, principal, scale), quality=97)
    with gzip.open(root / "hydrant/frame_annotations.jgz", "wt") as stream:
        json.dump(entries[::-1], stream)
    return root / "hydrant/seq0"


EXACT = 0.12  # pixels: what the dots' drawing and resampling leave


def shown(views: Views) -> Views:
    """Views whose dots are bright on dark also where they were cut out of the plain background."""
    cut = bool((views.alpha == 0).any())
    return replace(views, rgb=views.alpha[..., None].expand_as(views.rgb)) if cut else views
