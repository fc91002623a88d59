"""Render the example photos from a packed corpus: python scripts/make_examples.py CORPUS.npz examples.

The objects are of the corpus's validation split, which no shipped weights were trained on; their credits
stand in examples/README.md. One photo has alpha, one stands on a plain grey ground, as product photos do.
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from PIL import Image

from v3d.data.corpus import corpus_ids, load_corpus
from v3d.data.variants import OrbitVariant, render_orbit
from v3d.framing import photo_of
from v3d.meshes.rendering import Light

LIGHT = Light(torch.tensor([1.0, -0.5, 1.0]), ambient=0.55)
EXAMPLES = {  # file name: (object, azimuth of the photo, ground: None is transparent)
    "bob.png": ("crane__bob_tri", 35.0, None),
    "chest.png": ("kay__dungeon_remastered_chest", 25.0, None),
    "strawberry.jpg": ("ycb__012_strawberry", 0.0, (0.86, 0.87, 0.9)),
}


def main(corpus: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], size: int = 768) -> None:
    out.mkdir(parents=True, exist_ok=True)
    ids = corpus_ids(corpus)
    for name, (object_id, azimuth, ground) in EXAMPLES.items():
        (item,) = load_corpus(corpus, [ids.index(object_id)])
        variant = OrbitVariant(front=azimuth, light=LIGHT)
        views = render_orbit(item.mesh, variant, size=size, views=18, palette=item.palette)
        rgba = photo_of(views)
        if ground is None:
            image = Image.fromarray((rgba * 255 + 0.5).to(torch.uint8).numpy(), "RGBA")
        else:
            alpha = rgba[..., 3:]
            rgb = rgba[..., :3] * alpha + torch.tensor(ground) * (1 - alpha)
            image = Image.fromarray((rgb * 255 + 0.5).to(torch.uint8).numpy(), "RGB")
        image.save(out / name, quality=92)


if __name__ == "__main__":
    tyro.cli(main)
