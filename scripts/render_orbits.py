"""Render training orbits from a packed corpus: python scripts/render_orbits.py CORPUS.npz OUT [options]."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
import tyro

from v3d.training.dataset import render_shards


def main(
    corpus: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    rounds: int = 3,
    size: int = 128,
    index: Path | None = None,
    split: str = "train",
    seed: int = 0,
    worker: int = 0,
    workers: int = 1,
) -> None:
    torch.set_num_threads(1)
    only = None
    if index is not None:
        only = {entry["id"] for entry in json.loads(index.read_text()) if entry["split"] == split}
    start = time.time()
    for path in render_shards(
        corpus, out, rounds=rounds, size=size, seed=seed, only=only, worker=worker, workers=workers
    ):
        print(f"{path.name} {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
