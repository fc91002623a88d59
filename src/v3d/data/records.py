"""One rendered orbit, and the three ways it lies on disk.

- A safetensors shard, `orbits-00000.safetensors`, quickest to read: `views` uint8 [N, V, H, W, 4] (colour on
  white, then alpha), `photo` uint8 [N, H, W, 4] (alike), `c2w` [N, V, 4, 4], `K` [N, V, 3, 3], optionally
  `depth` float16 [N, V, H, W] and `normal` int8 [N, V, H, W, 3] (times 127); object names and licences in the
  metadata.
- A WebDataset tar, `orbits-00000.tar`: per orbit `KEY.photo.png`, `KEY.000.png`, ... (RGBA, straight alpha),
  `KEY.json` (id, licence, cameras), and `KEY.depth.npy`, `KEY.normal.npy`.
- Folders, `ID-0/`: `photo.png`, `views/000.png`, ..., `transforms.json` (as nerfstudio reads it),
  `depth/000.png` (16 bit, thousandths), `normal/000.png` (n/2 + 1/2).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from v3d.compositing import over_white
from v3d.files import atomic
from v3d.views import Views, save_views, straight_rgba


@dataclass(frozen=True)
class OrbitRecord:
    """One rendered orbit.

    Attributes:
        id, licence: of the object.
        views: V images with alpha and cameras.
        photo: [H, W, 4] straight-alpha photo in [0, 1] that conditions the generator.
        depth: [V, H, W] camera z, 0 outside, or None.
        normal: [V, H, W, 3] world normals, 0 outside, or None.
    """

    id: str
    licence: str
    views: Views
    photo: Tensor
    depth: Tensor | None = None
    normal: Tensor | None = None


def on_white(rgba: Tensor) -> Tensor:
    """Straight-alpha RGBA [..., 4] in [0, 1] -> colour composited on white, then alpha [..., 4]."""
    alpha = rgba[..., 3:]
    return torch.cat([over_white(rgba[..., :3], rgba[..., 3]), alpha], -1)


def save_shard(records: Sequence[OrbitRecord], path: Path) -> None:
    """Write a safetensors shard."""
    tensors = {
        "views": torch.stack(
            [_bytes(torch.cat([r.views.rgb, r.views.alpha[..., None]], -1)) for r in records]
        ),
        "photo": torch.stack([_bytes(on_white(r.photo)) for r in records]),
        "c2w": torch.stack([r.views.cameras.c2w for r in records]),
        "K": torch.stack([r.views.cameras.K for r in records]),
    }
    depths = [r.depth for r in records if r.depth is not None]
    normals = [r.normal for r in records if r.normal is not None]
    if depths:
        tensors["depth"] = torch.stack(depths).half()
    if normals:
        tensors["normal"] = (torch.stack(normals) * 127).round().to(torch.int8)
    names, licences = [r.id for r in records], [r.licence for r in records]
    save_tensors(tensors, path, {"ids": json.dumps(names), "licences": json.dumps(licences)})


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file, whose bytes depend on nothing else.

    The library writes metadata in an order of chance, so the header is sorted afterwards, in place.
    """
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata)
        with temporary.open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            assert len(text) <= length, "sorting made the header longer"
            file.seek(8)
            file.write(text.ljust(length))


def save_tar(records: Sequence[OrbitRecord], path: Path) -> None:
    """Write a WebDataset shard; keys are unique over the shards of a folder."""
    number = path.stem.split("-")[-1]
    with atomic(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row, record in enumerate(records):
            for name, data in _members(record).items():
                member = tarfile.TarInfo(f"{number}_{row:04d}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _members(record: OrbitRecord) -> dict[str, bytes]:
    """The files of one orbit in a tar, by what follows the key."""
    cameras = record.views.cameras
    about = {
        "id": record.id,
        "licence": record.licence,
        "c2w": cameras.c2w.tolist(),
        "K": cameras.K.tolist(),
        "axes": "OpenCV, world z up",
    }
    files = {"json": json.dumps(about).encode(), "photo.png": _png(_bytes(record.photo))}
    for k, image in enumerate(straight_rgba(record.views.rgb, record.views.alpha)):
        files[f"{k:03d}.png"] = _png(image)
    if record.depth is not None:
        files["depth.npy"] = _npy(record.depth.half())
    if record.normal is not None:
        files["normal.npy"] = _npy((record.normal * 127).round().to(torch.int8))
    return files


def save_folder(record: OrbitRecord, folder: Path) -> None:
    """Write a folder of images; `transforms.json` comes last, so a folder that has it is complete."""
    _write_image(_bytes(record.photo).numpy(), folder / "photo.png")
    if record.depth is not None:
        for k, depth in enumerate(record.depth):
            _write_image((depth * 1000).round().numpy().astype(np.uint16), folder / f"depth/{k:03d}.png")
    if record.normal is not None:
        for k, normal in enumerate(record.normal):
            _write_image(_bytes(normal * 0.5 + 0.5).numpy(), folder / f"normal/{k:03d}.png")
    save_views(record.views, folder)


def _bytes(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _npy(x: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, x.numpy(), allow_pickle=False)
    return buffer.getvalue()


def _write_image(pixels: Any, path: Path) -> None:
    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary)
