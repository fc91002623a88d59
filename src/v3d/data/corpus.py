"""The packed corpus: many small textured meshes in one `.npz`, as one array per attribute.

Layout (see docs/data.md): `ids`, `n_vertices`, `n_faces`, `n_texture_bytes` (lengths that split the rest),
`vertices` uint16 (x/65535 - 0.5, glTF axes: y up, front towards +z), `uv` uint16 (v down), `faces` uint16,
`textures` (PNG where the texture is a palette, WebP otherwise).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from v3d.errors import V3DError
from v3d.meshes.mesh import Mesh

_PNG = b"\x89PNG"


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

    def part(name: str, kind: str, i: int) -> np.ndarray:
        return packed[name][offsets[kind][i] : offsets[kind][i + 1]]

    for i in range(len(packed["ids"])) if indices is None else indices:
        data = part("textures", "t", i).tobytes()
        texture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) / 255
        xyz = part("vertices", "v", i).astype(np.float32) / 65535 - 0.5
        yield CorpusObject(
            id=str(packed["ids"][i]),
            mesh=Mesh(
                vertices=torch.from_numpy(xyz[:, [2, 0, 1]].copy()),
                faces=torch.from_numpy(part("faces", "f", i).astype(np.int64)),
                uv=torch.from_numpy(part("uv", "v", i).astype(np.float32) / 65535),
                texture=torch.from_numpy(texture),
            ),
            palette=data.startswith(_PNG),
        )


@lru_cache(maxsize=1)
def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays, and where each object's part of them begins; kept, since objects are read one by one."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            packed = {name: archive[name] for name in archive.files}
        offsets = {
            part: np.concatenate([[0], np.cumsum(packed[counts])])
            for part, counts in (("v", "n_vertices"), ("f", "n_faces"), ("t", "n_texture_bytes"))
        }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise V3DError(
            f"{path} is not a packed corpus ({error}); see docs/data.md for how to make one."
        ) from None
    return packed, offsets


def corpus_ids(path: str | Path) -> list[str]:
    """Names of all objects, in the file's order."""
    return [str(i) for i in _read(Path(path))[0]["ids"]]
