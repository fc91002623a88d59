"""Rendered orbits on disk: shards of a few dozen orbits, written atomically, resumable, read lazily.

A shard is a safetensors file: `views` uint8 [N, 18, H, W, 4] (colour on white, then alpha), `photo`
uint8 [N, H, W, 4] (the conditioning photo, same layout), and the object names in its metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from v3d.errors import V3DError
from v3d.training.corpus import corpus_ids, load_corpus
from v3d.training.orbits import photo_of, random_variant, render_orbit


def on_white(rgba: Tensor) -> Tensor:
    """Straight-alpha RGBA [..., 4] -> colour composited on white, with alpha [..., 4]."""
    alpha = rgba[..., 3:]
    return torch.cat([rgba[..., :3] * alpha + 1 - alpha, alpha], -1)


def render_shards(
    corpus: str | Path,
    out: str | Path,
    *,
    rounds: int,
    size: int = 128,
    seed: int = 0,
    per_shard: int = 64,
    only: Collection[str] | None = None,
    worker: int = 0,
    workers: int = 1,
) -> Iterator[Path]:
    """Render `rounds` random variants of every object of a packed corpus; yields each finished shard.

    `only` names the objects to take (a split).

    Shards that exist are left alone, so an interrupted job goes on where it stopped. Start several
    processes with different `worker` numbers to share the work.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    chosen = [i for i, name in enumerate(corpus_ids(corpus)) if only is None or name in only]
    order = [
        chosen[i]
        for r in range(rounds)
        for i in torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed + r)).tolist()
    ]
    chunks = [order[k : k + per_shard] for k in range(0, len(order), per_shard)]
    for number in range(worker, len(chunks), workers):
        path = out / f"orbits-{number:05d}.safetensors"
        if path.exists():
            continue
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        views, photos, names = [], [], []
        for item in load_corpus(corpus, chunks[number]):
            orbit_views = render_orbit(item.mesh, random_variant(generator), size=size, palette=item.palette)
            if orbit_views.alpha[0].max() < 0.5:
                continue  # thinner than a pixel from this front
            views.append(torch.cat([orbit_views.rgb, orbit_views.alpha[..., None]], -1))
            photos.append(on_white(photo_of(orbit_views)))
            names.append(item.id)
        tensors = {"views": _to_uint8(torch.stack(views)), "photo": _to_uint8(torch.stack(photos))}
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"ids": json.dumps(names)})
        os.replace(temporary, path)
        yield path


class OrbitShards:
    """All orbits of a folder of shards, by index. `self[i] -> (views [18,H,W,4], photo [H,W,4])` uint8."""

    def __init__(self, folder: str | Path) -> None:
        self.paths = sorted(Path(folder).glob("orbits-*.safetensors"))
        if not self.paths:
            raise V3DError(f"{folder} holds no rendered orbits (orbits-*.safetensors); render some first.")
        self._files = [safe_open(p, "pt") for p in self.paths]
        self.index = [
            (k, row) for k, f in enumerate(self._files) for row in range(f.get_slice("photo").get_shape()[0])
        ]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        k, row = self.index[i]
        file = self._files[k]
        return file.get_slice("views")[row], file.get_slice("photo")[row]

    def id(self, i: int) -> str:
        k, row = self.index[i]
        return str(json.loads(self._files[k].metadata()["ids"])[row])


def _to_uint8(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
