"""The latent cache of SVD's tuning: every orbit as its frozen VAE and CLIP tower encode it, beside its shard.

Kept are the posteriors' means and deviations, not samples of them, because the original draws new samples
every step. An orbit may begin at any of its views (`OrbitLatents.from_front`), so each of them has its CLIP
embedding, too.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from v3d.cameras import ORBIT_VIEWS
from v3d.data.orbit_shards import OrbitShards, check_cameras
from v3d.data.shards import UNREADABLE, Shard
from v3d.diffusion.conditions import clip_pixels
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.weights.storage import weights_fingerprint

log = logging.getLogger(__name__)
_KEYS = ("mean", "std", "embedding")


@dataclass(frozen=True)
class OrbitLatents:
    """One orbit of V views, encoded; the photo comes first. Latents are not scaled.

    Attributes:
        mean: [1 + V, 4, h, w] of the VAE's posteriors.
        std: [1 + V, 4, h, w] of the VAE's posteriors.
        embedding: [1 + V, C] CLIP image embeddings.
    """

    mean: Tensor
    std: Tensor
    embedding: Tensor

    def from_front(self, front: int) -> OrbitLatents:
        """The orbit that begins at view `front`.

        Its photo is that view as it stands, so the photo's framing is the orbit's, whatever it is. Orbit 0
        keeps its own photo, which obeys the framing law (`v3d.data.variants`) even where the views could not.
        """
        if front == 0:
            return self
        order = [1 + front, *range(1 + front, len(self.mean)), *range(1, 1 + front)]
        return OrbitLatents(self.mean[order], self.std[order], self.embedding[order])


class LatentCache:
    """The orbits of a folder, encoded: `self[i]` in float32, read from disk when asked for."""

    def __init__(
        self, shards: OrbitShards, vae: Any, image_encoder: Any, size: int, device: torch.device
    ) -> None:
        """Encode what is not there yet; the names of the cache's files tell networks and sizes apart.

        Shards whose images cannot be decoded are logged and skipped.

        Args:
            shards: the orbits.
            vae: diffusers' VAE.
            image_encoder: transformers' CLIP tower.
            size: pixels of a side to which views are resized.
            device: where they are encoded.

        Raises:
            V3DError: the orbits are not 18 views at elevation 0, or none can be read.
        """
        version = weights_fingerprint(nn.ModuleList([vae, image_encoder]))
        self._rows: list[tuple[Any, int]] = []
        for path, shard in shards.shards():
            cache = path.with_name(f"svd-{version}-{size}-{path.stem}.safetensors")
            file: Any = _open(cache)
            if file is None:
                check_cameras(path, shard)
                try:
                    tensors = _encode(shard, vae, image_encoder, size, device)
                except UNREADABLE as error:
                    log.warning("skipped %s: %s", path, error)
                    continue
                with atomic(cache) as temporary:
                    save_file(tensors, temporary)
                file = safe_open(cache, "pt")
            self._rows += [(file, row) for row in range(len(shard.ids))]
        if not self._rows:
            raise V3DError(f"None of the orbits in {shards.folder} can be read.")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> OrbitLatents:
        file, row = self._rows[i]
        return OrbitLatents(*(file.get_slice(key)[row].float() for key in _KEYS))


def _open(cache: Path) -> Any:
    """The open cache, or None where there is none that is whole."""
    try:
        file: Any = safe_open(cache, "pt")
        return file if set(_KEYS) <= set(file.keys()) else None
    except (OSError, SafetensorError):
        return None


@torch.no_grad()
def _encode(shard: Shard, vae: Any, image_encoder: Any, size: int, device: torch.device) -> dict[str, Tensor]:
    vae.to(device)
    image_encoder.to(device)
    parts: dict[str, list[Tensor]] = {key: [] for key in _KEYS}
    for row in range(len(shard.ids)):
        images = torch.cat([shard.photo(row)[None], shard.views(row)[:ORBIT_VIEWS]])
        encoded: dict[str, list[Tensor]] = {key: [] for key in _KEYS}
        for image in torch.split(images, 4):
            x = pixels(image, size).to(device) * 2 - 1
            posterior = vae.encode(x).latent_dist
            embedding = image_encoder(clip_pixels(x)).image_embeds
            for key, value in zip(_KEYS, (posterior.mean, posterior.std, embedding), strict=True):
                encoded[key].append(value.half().cpu())
        for key in _KEYS:
            parts[key].append(torch.cat(encoded[key]))
    return {key: torch.stack(rows).contiguous() for key, rows in parts.items()}


def pixels(images: Tensor, size: int) -> Tensor:
    """uint8 views [V, H, W, 4] on white -> colours [V, 3, size, size] in [0, 1], antialiased."""
    x = images[..., :3].permute(0, 3, 1, 2).float() / 255
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
