"""Reading what `v3d.data.records` writes, one orbit at a time, whichever of the three forms it has."""

from __future__ import annotations

import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
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
from v3d.errors import V3DError, in_words
from v3d.text_files import read_json

_MOST_PIXELS = 1 << 24
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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a damaged file is read becomes one sentence.

    Raises:
        V3DError: something went wrong.
    """
    try:
        yield
    except V3DError as error:
        if str(path) in str(error):
            raise
        raise V3DError(f"{path}: {error}") from error
    except Exception as error:  # decoders of broken files fail in every imaginable way
        raise V3DError(f"{path} is damaged ({in_words(error)}); render it again.") from error


def open_shard(path: Path) -> Shard:
    """Open a shard, or the folder of an orbit by its `transforms.json`.

    Raises:
        V3DError: the file is damaged; so do the methods of what is returned.
    """
    with reading(path):
        if path.name == "transforms.json":
            return _Guarded(path, FolderShard(path.parent))
        return _Guarded(path, TarShard(path) if path.suffix == ".tar" else TensorShard(path))


class _Guarded:
    """A shard whose damage is told in one sentence, wherever it shows."""

    def __init__(self, path: Path, shard: Shard) -> None:
        self._path, self._shard = path, shard
        self.ids = shard.ids

    def views(self, row: int) -> Tensor:
        """All views [V, H, W, 4] of an orbit."""
        with reading(self._path):
            return _images(self._shard.views(row), 4)

    def view(self, row: int, k: int) -> Tensor:
        """View k [H, W, 4] of an orbit, read alone."""
        with reading(self._path):
            return _images(self._shard.view(row, k), 3)

    def photo(self, row: int) -> Tensor:
        """The photo [H, W, 4] of an orbit."""
        with reading(self._path):
            return _images(self._shard.photo(row), 3)

    def cameras(self, row: int) -> Cameras:
        """The cameras of an orbit's views."""
        with reading(self._path):
            cameras = self._shard.cameras(row)
            count = len(cameras.c2w)
            if cameras.c2w.shape != (count, 4, 4) or cameras.K.shape != (count, 3, 3) or count == 0:
                raise V3DError(f"{self._path} is damaged: its cameras are no matrices; render it again.")
            if not bool(torch.isfinite(cameras.c2w).all() and torch.isfinite(cameras.K).all()):
                raise V3DError(f"{self._path} is damaged: its cameras are not finite; render it again.")
            return cameras


def _images(images: Tensor, dimensions: int) -> Tensor:
    if images.dtype != torch.uint8 or images.ndim != dimensions or images.shape[-1] != 4:
        raise ValueError("an image is not made of RGBA bytes")
    return images


def _open_tensors(path: Path) -> Any:
    """A safetensors file; its class has no types."""
    return safe_open(path, "pt")


class TensorShard:
    """A safetensors shard, read lazily."""

    def __init__(self, path: Path) -> None:
        self._file = _open_tensors(path)
        self.ids: list[str] = json.loads(self._file.metadata()["ids"])
        self._shape = self._file.get_slice("views").get_shape()
        if len(self._shape) != 5 or type(self.ids) is not list or len(self.ids) != self._shape[0]:
            raise ValueError(f"{len(self.ids)} names for views of shape {self._shape}")
        self.ids = [str(name) for name in self.ids]

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
        frames = read_json(self._folder / "transforms.json")["frames"]
        return [frame["file_path"] for frame in frames]

    def views(self, row: int) -> Tensor:
        """All views [V, H, W, 4] of an orbit."""
        return torch.stack([self.view(row, k) for k in range(len(self._frames))])

    def view(self, row: int, k: int) -> Tensor:
        """View k [H, W, 4] of an orbit, read alone."""
        return decode(_file_bytes(self._folder / self._frames[k]))

    def photo(self, row: int) -> Tensor:
        """The photo [H, W, 4] of an orbit."""
        return decode(_file_bytes(self._folder / "photo.png"))

    @cached_property
    def _cameras(self) -> Cameras:
        return load_views(self._folder).cameras

    def cameras(self, row: int) -> Cameras:
        """The cameras of an orbit's views."""
        return self._cameras


def _file_bytes(path: Path) -> bytes:
    if not path.is_file():  # a device has no end
        raise ValueError(f"there is no file {path.name}")
    return path.read_bytes()


def decode(data: bytes) -> Tensor:
    """An RGBA image file (straight alpha) -> uint8 [H, W, 4], colour on white, then alpha."""
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"an image of {image.width} x {image.height} pixels is no view of an object")
        rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
    alpha = rgba[..., 3:]
    colour = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return torch.from_numpy(np.concatenate([colour, alpha], -1).astype(np.uint8))
