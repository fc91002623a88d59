"""Reading what `v3d.data.records` writes, one orbit at a time, whichever of the three forms it has."""

from __future__ import annotations

import io
import json
import tarfile
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from v3d.cameras import Cameras, orbit
from v3d.capture.readers import load_views
from v3d.errors import V3DError

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    SyntaxError,
    tarfile.TarError,
    SafetensorError,
    V3DError,
)
"""What reading a damaged file raises (Pillow raises SyntaxError for broken PNG files)."""


class Shard(Protocol):
    """Some orbits of one file or folder; images are uint8, colour on white, then alpha."""

    ids: list[str]

    def views(self, row: int) -> Tensor:
        """All views [V, H, W, 4] of an orbit."""
        ...

    def view(self, row: int, k: int) -> Tensor:
        """View k [H, W, 4] of an orbit, read alone."""
        ...

    def photo(self, row: int) -> Tensor:
        """The photo [H, W, 4] of an orbit."""
        ...

    def cameras(self, row: int) -> Cameras:
        """The cameras of an orbit's views."""
        ...


def open_shard(path: Path) -> Shard:
    """Open a shard, or the folder of an orbit by its `transforms.json`.

    Raises:
        one of `UNREADABLE`: the file is damaged.
    """
    if path.name == "transforms.json":
        return FolderShard(path.parent)
    return TarShard(path) if path.suffix == ".tar" else TensorShard(path)


def _open_tensors(path: Path) -> Any:
    """A safetensors file; its class has no types."""
    return safe_open(path, "pt")


class TensorShard:
    """A safetensors shard, read lazily."""

    def __init__(self, path: Path) -> None:
        self._file = _open_tensors(path)
        self.ids: list[str] = json.loads(self._file.metadata()["ids"])
        self._shape = self._file.get_slice("views").get_shape()

    def views(self, row: int) -> Tensor:
        """All views [V, H, W, 4] of an orbit."""
        images: Tensor = self._file.get_slice("views")[row]
        return images

    def view(self, row: int, k: int) -> Tensor:
        """View k [H, W, 4] of an orbit, read alone."""
        images: Tensor = self._file.get_slice("views")[row, k]
        return images

    def photo(self, row: int) -> Tensor:
        """The photo [H, W, 4] of an orbit."""
        images: Tensor = self._file.get_slice("photo")[row]
        return images

    def cameras(self, row: int) -> Cameras:
        """The cameras of an orbit's views."""
        _, V, H, W, _ = self._shape
        if "c2w" not in self._file.keys():  # noqa: SIM118 (not a dict)
            return orbit(V, size=W)
        return Cameras(self._file.get_slice("c2w")[row], self._file.get_slice("K")[row], W, H)


class TarShard:
    """A WebDataset shard: members are found once, images decoded when asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        members: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                members[key][name] = (member.offset_data, member.size)
        if any(at + size > path.stat().st_size for files in members.values() for at, size in files.values()):
            raise tarfile.ReadError("it is cut short")
        self._members = list(members.values())
        self._about: list[dict[str, Any]] = [
            json.loads(self._read(row, "json")) for row in range(len(members))
        ]
        self.ids = [str(about["id"]) for about in self._about]

    def _read(self, row: int, name: str) -> bytes:
        offset, size = self._members[row][name]
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def views(self, row: int) -> Tensor:
        """All views [V, H, W, 4] of an orbit."""
        return torch.stack([self.view(row, k) for k in range(len(self._about[row]["c2w"]))])

    def view(self, row: int, k: int) -> Tensor:
        """View k [H, W, 4] of an orbit, read alone."""
        return decode(self._read(row, f"{k:03d}.png"))

    def photo(self, row: int) -> Tensor:
        """The photo [H, W, 4] of an orbit."""
        return decode(self._read(row, "photo.png"))

    def cameras(self, row: int) -> Cameras:
        """The cameras of an orbit's views."""
        H, W = self.photo(row).shape[:2]
        return Cameras(torch.tensor(self._about[row]["c2w"]), torch.tensor(self._about[row]["K"]), W, H)


class FolderShard:
    """One orbit as a folder of images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ids = [folder.name.rpartition("-")[0] or folder.name]
        if not (folder / "photo.png").is_file():
            raise V3DError(f"{folder} has no photo.png.")

    @cached_property
    def _frames(self) -> list[str]:
        frames = json.loads((self._folder / "transforms.json").read_text(encoding="utf-8"))["frames"]
        return [frame["file_path"] for frame in frames]

    def views(self, row: int) -> Tensor:
        """All views [V, H, W, 4] of an orbit."""
        return torch.stack([self.view(row, k) for k in range(len(self._frames))])

    def view(self, row: int, k: int) -> Tensor:
        """View k [H, W, 4] of an orbit, read alone."""
        return decode((self._folder / self._frames[k]).read_bytes())

    def photo(self, row: int) -> Tensor:
        """The photo [H, W, 4] of an orbit."""
        return decode((self._folder / "photo.png").read_bytes())

    @cached_property
    def _cameras(self) -> Cameras:
        return load_views(self._folder).cameras

    def cameras(self, row: int) -> Cameras:
        """The cameras of an orbit's views."""
        return self._cameras


def decode(data: bytes) -> Tensor:
    """An RGBA image file (straight alpha) -> uint8 [H, W, 4], colour on white, then alpha."""
    rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(np.uint16)
    alpha = rgba[..., 3:]
    colour = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return torch.from_numpy(np.concatenate([colour, alpha], -1).astype(np.uint8))
