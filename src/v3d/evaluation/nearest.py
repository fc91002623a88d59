"""The baseline 'nearest training object': what memory alone could show.

An index holds a thumbnail of every training object from every side, framed as a photo. The photo of a test
object is looked up by pixel distance; the answer is the orbit of the object found, turned to that side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.compositing import over_white
from v3d.data.corpus import corpus_ids, load_corpus
from v3d.data.variants import OrbitVariant, render_orbit
from v3d.errors import V3DError
from v3d.evaluation.protocol import ObjectProtocol
from v3d.files import atomic
from v3d.framing import photo_of
from v3d.meshes.rendering import Light
from v3d.views import Views

THUMBNAIL = 32
FRONTS = 18


@dataclass(frozen=True)
class NearestObject:
    """The index of the training objects, and how it answers a photo.

    Attributes:
        corpus: packed corpus of the training objects.
        objects: [N] places of the indexed objects in the corpus.
        photos: [N, FRONTS, THUMBNAIL, THUMBNAIL, 4] uint8: colour on white, alpha; seen from azimuth
            k*360/FRONTS.
    """

    corpus: Path
    objects: list[int]
    photos: Tensor

    @staticmethod
    def open(
        corpus: Path,
        cache: Path,
        protocol: ObjectProtocol,
        *,
        exclude: Collection[str] = (),
        on_step: OnStep | None = None,
    ) -> NearestObject:
        """Read the index from `cache`, or render and write it (about 0.3 s an object).

        Args:
            corpus: packed corpus of the training objects.
            cache: file of the thumbnails; those of another corpus or protocol are replaced.
            protocol: how the thumbnails are lit.
            exclude: names that must not be found, i.e. the test objects.
            on_step: called with the objects rendered and the objects in all.

        Raises:
            V3DError: no training object is left.
        """
        names = corpus_ids(corpus)
        objects = [i for i, name in enumerate(names) if name not in exclude]
        if not objects:
            raise V3DError(f"{corpus} holds no object besides the test objects.")
        key = hashlib.sha256("\n".join([protocol.version, *names]).encode()).hexdigest()
        photos = _read(cache, key)
        if photos is None:
            rendered = []
            for i, item in enumerate(load_corpus(corpus)):
                variant = OrbitVariant(light=_light(protocol))
                orbit = render_orbit(
                    item.mesh, variant, size=2 * THUMBNAIL, views=FRONTS, palette=item.palette
                )
                rendered.append(torch.stack([_thumbnail(photo_of(orbit[k])) for k in range(FRONTS)]))
                if on_step:
                    on_step(i + 1, len(names))
            photos = (torch.stack(rendered) * 255 + 0.5).byte()
            with atomic(cache) as temporary:
                save_file({"photos": photos}, temporary, metadata={"key": key})
        return NearestObject(corpus, objects, photos[objects])

    def find(self, photo: Tensor) -> tuple[int, int]:
        """Place in the corpus and side (0..FRONTS-1) of the thumbnail nearest to a photo [H, W, 4]."""
        query = _thumbnail(photo).reshape(-1)
        best, where = float("inf"), 0
        flat = self.photos.flatten(0, 1).flatten(1)
        for start in range(0, len(flat), 2048):  # floats of all thumbnails at once would take gigabytes
            distance = (flat[start : start + 2048].float() / 255 - query).square().sum(1)
            value, index = distance.min(0)
            if float(value) < best:
                best, where = float(value), start + int(index)
        return self.objects[where // FRONTS], where % FRONTS

    def __call__(self, photo: Tensor, protocol: ObjectProtocol) -> Views:
        """The true orbit of the training object that looks most like the photo."""
        index, side = self.find(photo)
        item = next(iter(load_corpus(self.corpus, [index])))
        variant = OrbitVariant(front=side * 360.0 / FRONTS, light=_light(protocol))
        return render_orbit(
            item.mesh, variant, size=protocol.size, views=protocol.views, palette=item.palette
        )


def _read(cache: Path, key: str) -> Tensor | None:
    """The photos of an index made of the same objects, or None."""
    try:
        with safe_open(cache, "pt") as file:
            return file.get_tensor("photos") if file.metadata().get("key") == key else None
    except (OSError, SafetensorError):
        return None


def _light(protocol: ObjectProtocol) -> Light:
    return Light(torch.tensor(protocol.light), protocol.ambient)


def _thumbnail(rgba: Tensor) -> Tensor:
    """[H, W, 4] straight alpha -> [THUMBNAIL, THUMBNAIL, 4]: colour on white, alpha."""
    rgb = over_white(rgba[..., :3], rgba[..., 3])
    image = torch.cat([rgb, rgba[..., 3:]], -1).permute(2, 0, 1)[None]
    size = (THUMBNAIL, THUMBNAIL)
    return F.interpolate(image, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).clamp(0, 1)
