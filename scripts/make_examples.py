"""Render the examples from a packed corpus: python scripts/make_examples.py CORPUS.npz examples.

The objects are of the corpus's validation split, which no shipped weights were trained on; their credits
stand in examples/README.md. There are single photos (two with alpha, one on a plain grey ground, as product
photos have), four photos of one object, each at a scale and a place of its own, as a hand-held camera takes
them, and the views of an orbit with their cameras.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from PIL import Image
from torch import Tensor

from v3d.cameras import around, orbit
from v3d.compositing import off_white
from v3d.data.corpus import CorpusObject, corpus_ids, load_corpus
from v3d.data.variants import DEFAULT_LIGHT, OrbitVariant, placed_mesh, render_orbit
from v3d.framing import photo_of
from v3d.meshes.rendering import Light, render
from v3d.views import save_views

LIGHT = Light(torch.tensor([1.0, -0.5, 1.0]), ambient=0.55)
PHOTOS = {  # file name: (object, azimuth of the photo, ground: None is transparent)
    "bob.png": ("crane__bob_tri", 35.0, None),
    "chest.png": ("kay__dungeon_remastered_chest", 25.0, None),
    "strawberry.jpg": ("ycb__012_strawberry", 0.0, (0.86, 0.87, 0.9)),
}


@dataclass(frozen=True)
class Side:
    """How the photo of one side is taken: where from, how near, and how far off its middle."""

    name: str
    azimuth: float
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


SIDES_OF, SIDES_FRONT = "pm__pirate_captain", 180.0
SIDES = (
    Side("pirate", 0.0),
    Side("pirate_left", 90.0, 0.86, (0.05, 0.02)),
    Side("pirate_back", 180.0, 0.93, (-0.04, 0.03)),
    Side("pirate_right", 270.0, 0.8, (0.0, -0.05)),
)
VIEWS_OF, VIEWS_FRONT, VIEWS = "ycb__072_a_toy_airplane", 180.0, "plane"


def main(corpus: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path]) -> None:
    for name, (object_id, azimuth, ground) in PHOTOS.items():
        item = read(corpus, object_id)
        variant = OrbitVariant(front=azimuth, light=LIGHT)
        save(photo_of(render_orbit(item.mesh, variant, size=768, palette=item.palette)), ground, out / name)
    item = read(corpus, SIDES_OF)
    for side in SIDES:
        save(photo_of_side(item, side, SIDES_FRONT), None, out / f"{side.name}.png")
    item = read(corpus, VIEWS_OF)
    variant = OrbitVariant(front=VIEWS_FRONT, light=DEFAULT_LIGHT)
    save_views(render_orbit(item.mesh, variant, size=256, palette=item.palette), out / VIEWS)


def read(corpus: Path, object_id: str) -> CorpusObject:
    """One object of the corpus."""
    return next(load_corpus(corpus, [corpus_ids(corpus).index(object_id)]))


def photo_of_side(item: CorpusObject, side: Side, front: float, size: int = 512) -> Tensor:
    """A photo [size, size, 4], straight alpha, of one side of an object whose front is at azimuth `front`."""
    circle = orbit(size=size)
    mesh = placed_mesh(item.mesh, OrbitVariant(front=front), circle)
    camera = around([side.azimuth], size=size)
    K = camera.K.clone()
    K[:, :2, :2] *= side.zoom
    K[:, :2, 2] += size * torch.tensor(side.shift)
    image = render(mesh, replace(camera, K=K), light=DEFAULT_LIGHT, nearest=item.palette)
    alpha = image.alpha[0]
    return torch.cat([off_white(image.rgb[0], alpha, 1 / 255).clamp(0, 1), alpha[..., None]], -1)


def save(rgba: Tensor, ground: tuple[float, float, float] | None, path: Path) -> None:
    """Write a photo [H, W, 4], as it is or on a ground of one colour."""
    if ground is None:
        image = Image.fromarray((rgba * 255 + 0.5).to(torch.uint8).numpy(), "RGBA")
    else:
        alpha = rgba[..., 3:]
        rgb = rgba[..., :3] * alpha + torch.tensor(ground) * (1 - alpha)
        image = Image.fromarray((rgb * 255 + 0.5).to(torch.uint8).numpy(), "RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)


if __name__ == "__main__":
    tyro.cli(main)
