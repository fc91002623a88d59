"""The packed corpus: many small textured meshes in one `.npz`, as one array per attribute.

Layout (see docs/data.md): `ids`, `n_vertices`, `n_faces`, `n_texture_bytes` (lengths that split the rest),
`vertices` uint16 (x/65535 - 0.5, glTF axes: y up, front towards +z), `uv` uint16 (v down), `faces` uint16,
`textures` (PNG where the texture is a palette, WebP otherwise).
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from v3d.errors import V3DError, in_words
from v3d.meshes.mesh import Mesh

_PNG = b"\x89PNG"
_COUNTED = {"vertices": "n_vertices", "uv": "n_vertices", "faces": "n_faces", "textures": "n_texture_bytes"}
_DTYPES = {"vertices": np.uint16, "uv": np.uint16, "faces": np.uint16, "textures": np.uint8}
_COLUMNS: dict[str, tuple[int, ...]] = {"vertices": (3,), "uv": (2,), "faces": (3,), "textures": ()}
_MOST_PIXELS = 1 << 24  # of a texture
_MOST_EXPANSION = 50  # times the size of the file


@dataclass(frozen=True)
class CorpusObject:
    """One object.

    Attributes:
        id: unique name.
        mesh: textured, V3D's world axes (z up, front towards +x), in a ball of radius 0.5.
        palette: the texture is a colour table, to be read without interpolation.
    """

    id: str
    mesh: Mesh
    palette: bool


def load_corpus(path: str | Path, indices: range | list[int] | None = None) -> Iterator[CorpusObject]:
    """Objects of a packed corpus, one at a time, in the file's order or in the order of `indices`.

    Raises:
        V3DError: the file is missing or is not a packed corpus.
    """
    packed, offsets = _read(Path(path))
    for i in range(len(packed["ids"])) if indices is None else indices:
        parts = {
            name: packed[name][offsets[count][i] : offsets[count][i + 1]] for name, count in _COUNTED.items()
        }
        try:
            yield _unpacked(str(packed["ids"][i]), parts)
        except Exception as error:  # decoders of broken images fail in every imaginable way
            raise V3DError(f"{path} is damaged at object {i} ({in_words(error)}).") from error


def _unpacked(name: str, parts: dict[str, np.ndarray]) -> CorpusObject:
    """One object of its parts of the arrays."""
    data = parts["textures"].tobytes()
    with Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"its texture has {image.width} x {image.height} pixels")
        texture = np.asarray(image.convert("RGB"), np.float32) / 255
    xyz = parts["vertices"].astype(np.float32) / 65535 - 0.5
    faces = parts["faces"].astype(np.int64)
    if len(faces) == 0 or faces.max() >= len(xyz):
        raise ValueError("it has no faces, or a face names a vertex that is not there")
    mesh = Mesh(
        vertices=torch.from_numpy(xyz[:, [2, 0, 1]].copy()),
        faces=torch.from_numpy(faces),
        uv=torch.from_numpy(parts["uv"].astype(np.float32) / 65535),
        texture=torch.from_numpy(texture),
    )
    return CorpusObject(name, mesh, palette=data.startswith(_PNG))


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays, and where each object's part of them begins; kept, since objects are read one by one."""
    state = path.stat() if path.is_file() else None
    return _read_anew(path, None if state is None else (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=1)
def _read_anew(path: Path, state: object) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays of a file in this state; another state of it is read again."""
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as archive:
            packed = {name: archive[name] for name in ("ids", *_COUNTED, *set(_COUNTED.values()))}
        if packed["ids"].dtype.kind not in "US":
            raise ValueError("ids are no names")
        packed["ids"] = np.array([str(name) for name in packed["ids"]])
        offsets = {}
        for name, count in _COUNTED.items():
            counts, array = packed[count], packed[name]
            if counts.dtype.kind not in "iu" or counts.shape != packed["ids"].shape or counts.ndim != 1:
                raise ValueError(f"{count} is no list of whole numbers, one an object")
            if array.dtype != _DTYPES[name] or array.shape[1:] != _COLUMNS[name]:
                raise ValueError(f"{name} has shape {array.shape} of {array.dtype}")
            offsets[count] = np.concatenate([[0], np.cumsum(counts.astype(np.int64))])
            if (counts < 0).any() or offsets[count][-1] != len(array):
                raise ValueError(f"{count} does not add up to the {len(array)} rows of {name}")
    except Exception as error:  # broken archives fail in every imaginable way
        raise V3DError(
            f"{path} is not a packed corpus ({in_words(error)}); see docs/data.md for how to make one."
        ) from None
    return packed, offsets


def _check_sizes(path: Path) -> None:
    """Refuse archives that unpack to far more than they are, before memory is asked for."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                read = read or np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                if math.prod(shape) * dtype.itemsize > entry.file_size:
                    raise ValueError(f"{entry.filename} claims shape {shape}, for which it is too short")
        total = sum(entry.file_size for entry in archive.infolist())
        if total > _MOST_EXPANSION * path.stat().st_size + (64 << 20):
            raise ValueError(f"it unpacks to {total >> 20} MB")


def corpus_ids(path: str | Path) -> list[str]:
    """Names of all objects, in the file's order."""
    return [str(i) for i in _read(Path(path))[0]["ids"]]
