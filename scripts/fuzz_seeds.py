"""Small good inputs of every reader, and how each reader is called."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from v3d.cameras import orbit


@dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    Attributes:
        make: writes good inputs into an empty folder: each a file, or a folder of files.
        read: reads one of them.
        damaged: suffixes of the files that are damaged; empty: all.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    damaged: tuple[str, ...] = ()


def picture(size: int = 24, mode: str = "RGBA") -> Image.Image:
    """A red square with a green corner on nothing."""
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[size // 4 : -size // 4, size // 4 : -size // 4] = (200, 40, 40, 255)
    pixels[size // 4 : size // 2, size // 4 : size // 2] = (30, 180, 60, 255)
    return Image.fromarray(pixels).convert(mode)


def encoded(form: str, mode: str = "RGBA", size: int = 24, **more: Any) -> bytes:
    """An image file."""
    file = io.BytesIO()
    picture(size, mode).save(file, form, **more)
    return file.getvalue()


def _photos(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, data in {
        "rgba.png": encoded("PNG"),
        "palette.png": encoded("PNG", "P"),
        "interlaced.tif": encoded("TIFF", compression="tiff_lzw"),
        "plain.jpg": encoded("JPEG", "RGB", exif=exif),
        "cmyk.jpg": encoded("JPEG", "CMYK"),
        "lossy.webp": encoded("WEBP"),
        "two.gif": encoded("GIF", "P"),
    }.items():
        (folder / name).write_bytes(data)
    deep = np.full((24, 24), 60_000, np.uint16)
    deep[6:18, 6:18] = 9_000
    Image.fromarray(deep).save(folder / "deep.png")


def _read_photo(path: Path) -> object:
    from v3d.capture.images import read_image
    from v3d.capture.photo import load_photo

    cut_out = path.suffix in (".jpg", ".png") and path.stem != "rgba"  # by a network: too slow to do often
    return read_image(path) if cut_out else load_photo(path)


def _transforms(folder: Path) -> None:
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    poses = orbit(3, size=24).c2w @ flip
    frames = [
        {"file_path": f"images/{k}.png", "transform_matrix": pose.tolist()} for k, pose in enumerate(poses)
    ]
    frames[0]["mask_path"] = "images/mask.png"
    lens = {"w": 24, "h": 24, "fl_x": 30.0, "fl_y": 30.0, "cx": 12.0, "cy": 12.0, "k1": 0.01}
    _capture(folder / "nerf")
    (folder / "nerf/transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    _capture(folder / "blender")
    blender = {"camera_angle_x": 0.7, "frames": frames[1:]}
    (folder / "blender/transforms.json").write_text(json.dumps(blender))


def _capture(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for k in range(3):
        (folder / f"images/{k}.png").write_bytes(encoded("PNG"))
    picture(24).getchannel("A").save(folder / "images/mask.png")


def _colmap(folder: Path) -> None:
    text, binary = folder / "text", folder / "binary"
    for place in (text, binary):
        _capture(place)
        (place / "images/mask.png").unlink()
        (place / "sparse/0").mkdir(parents=True)
    (text / "sparse/0/cameras.txt").write_text("# made\n1 OPENCV 24 24 30 30 12 12 0.01 0 0 0\n")
    rows = [f"{k + 1} 1 0 0 0 {k} 0 3 1 {k}.png\n1 2 -1" for k in range(3)]
    (text / "sparse/0/images.txt").write_text("\n".join(rows) + "\n")
    camera = struct.pack("<QIiQQ4d", 1, 1, 1, 24, 24, 30, 30, 12, 12)
    (binary / "sparse/0/cameras.bin").write_bytes(camera)
    images = struct.pack("<Q", 3)
    for k in range(3):
        images += struct.pack("<I7dI", k + 1, 1, 0, 0, 0, k, 0, 3, 1) + f"{k}.png\0".encode()
        images += struct.pack("<Q2dq", 1, 1.0, 2.0, -1)
    (binary / "sparse/0/images.bin").write_bytes(images)


def _co3d(folder: Path) -> None:
    sequence = folder / "capture/duck/one"
    _capture(sequence)
    frames = [
        {
            "sequence_name": "one",
            "frame_number": k,
            "image": {"path": f"duck/one/images/{k}.png", "size": [24, 24]},
            "mask": {"path": "duck/one/images/mask.png", "mass": 100.0},
            "viewpoint": {
                "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
                "T": [0.1 * k, 0, 3],
                "focal_length": [2, 2],
                "principal_point": [0, 0],
                "intrinsics_format": "ndc_isotropic",
            },
        }
        for k in range(3)
    ]
    with gzip.open(sequence.parent / "frame_annotations.jgz", "wt", encoding="utf-8") as file:
        json.dump(frames, file)


def _read_capture(path: Path) -> object:
    from v3d.capture.readers import load_views

    return load_views(path, max_size=64)


def _read_scene_capture(path: Path) -> object:
    from v3d.capture.readers import load_scene_views

    inner = path / "duck/one"
    return load_scene_views(inner if inner.is_dir() else path, max_size=64)


def _paths(folder: Path) -> None:
    pose = torch.eye(4).flatten().tolist()
    viewer = {"camera_type": "perspective", "render_height": 24, "render_width": 32}
    viewer["camera_path"] = [{"camera_to_world": pose, "fov": 50, "aspect": 1.3}] * 2
    (folder / "viewer").mkdir()
    (folder / "viewer/camera_path.json").write_text(json.dumps(viewer))
    turned = {"transform": torch.eye(4)[:3].tolist(), "scale": 0.5}
    (folder / "viewer/dataparser_transforms.json").write_text(json.dumps(turned))


def _read_camera_path(path: Path) -> object:
    from v3d.scene.path_files import read_path

    return read_path(path / "camera_path.json")


def _videos(folder: Path) -> None:
    from v3d.video import save_video

    frames = orbit(4, size=32).c2w.new_zeros(4, 32, 32, 3)
    frames[:, 8:24, 8:24, 0] = 0.8
    save_video(frames, folder / "short.mp4")


def _read_video(path: Path) -> object:
    from v3d.capture.video import read_frames

    return read_frames(path, count=4, max_size=64)


def _weights(folder: Path) -> None:
    from v3d.weights.storage import save_weights

    for bits in (8, 4):
        place = folder / f"bits{bits}"
        place.mkdir()
        save_weights(torch.nn.Linear(300, 300), place / "net.safetensors", bits=bits)
        (place / "config.json").write_text(json.dumps({"net": {"width": 300}}))


def _read_weights(path: Path) -> object:
    from v3d.weights.storage import load_network

    def make(sizes: dict[str, Any]) -> torch.nn.Module:
        if not 0 < int(sizes["width"]) < 10_000:
            raise ValueError("no width")
        return torch.nn.Linear(int(sizes["width"]), int(sizes["width"]))

    return load_network(path, "net", make)


def readers() -> dict[str, Reader]:
    """Every reader by name; those of meshes and training data come from `fuzz_seeds_3d`, of lists and records
    from `fuzz_seeds_json`.
    """
    from fuzz_seeds_3d import readers_3d
    from fuzz_seeds_json import readers_json

    cameras = (".json", ".txt", ".bin", ".jgz")
    return {
        "photos": Reader(_photos, _read_photo),
        "transforms": Reader(_transforms, _read_capture, (".json",)),
        "colmap": Reader(_colmap, _read_scene_capture, cameras),
        "co3d": Reader(_co3d, _read_scene_capture, cameras),
        "paths": Reader(_paths, _read_camera_path),
        "videos": Reader(_videos, _read_video),
        "weights": Reader(_weights, _read_weights),
        **readers_3d(),
        **{name: Reader(*parts) for name, parts in readers_json().items()},
    }
