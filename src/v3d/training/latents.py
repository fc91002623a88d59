"""The latent cache: every orbit is encoded once by the frozen VAE, into a file beside its shard."""

from __future__ import annotations

import hashlib
import logging
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.diffusion.vae import VAE
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.runtime import has_fast_bfloat16
from v3d.training.dataset import OrbitShards
from v3d.training.shards import UNREADABLE, Shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Latents:
    """All orbits of a folder.

    Attributes:
        views: [N, 18, C, h, w] float16, standardised.
        photo: [N, C, h, w].
    """

    views: Tensor
    photo: Tensor

    def __len__(self) -> int:
        return len(self.views)


def encode(shards: OrbitShards, vae: VAE, appearances: int = 1) -> Latents:
    """Latents of every orbit, from the cache where it has them. The cache's names tell the VAE apart.

    Beyond the first, `appearances` are recoloured and mirrored copies of the orbits.

    Shards whose images cannot be decoded are logged and skipped.

    Raises:
        V3DError: the orbits are not 18 views at elevation 0, differ in size, or none can be read.
    """
    mark, parts = fingerprint(vae), []
    for appearance, (path, shard) in product(range(appearances), shards.shards()):
        cache = path.with_name(f"latents-{mark}-{appearance}-{path.stem}.safetensors")
        latents = _read(cache)
        if latents is None:
            _check_cameras(path, shard)
            try:
                latents = _encode(shard, vae, f"{path.stem} {appearance}" if appearance else None)
            except UNREADABLE as error:
                log.warning("skipped %s: %s", path, error)
                continue
            with atomic(cache) as temporary:
                save_file({"views": latents.views, "photo": latents.photo}, temporary)
        parts.append(latents)
    if not parts:
        raise V3DError(f"None of the orbits in {shards.paths[0].parent} can be read.")
    if len({part.views.shape[1:] for part in parts}) > 1:
        raise V3DError(f"The orbits in {shards.paths[0].parent} differ in size; train on one size at a time.")
    return Latents(torch.cat([part.views for part in parts]), torch.cat([part.photo for part in parts]))


def fingerprint(vae: VAE) -> str:
    """A name for the VAE's weights."""
    digest = hashlib.sha256()
    for tensor in vae.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Another appearance of a photo and its orbit, uint8 [1 + V, H, W, 4]: exact in pixels, far cheaper than rendering.

    Mirrored with probability 1/2 (which plays the orbit backwards), colour channels permuted and tinted.
    """
    x = images.float() / 255
    if torch.rand((), generator=generator) < 0.5:
        x = x.flip(2)[[0, 1, *range(len(x) - 1, 1, -1)]]
    alpha = x[..., 3:]
    tint = 0.8 + 0.2 * torch.rand(3, generator=generator)
    colour = (x[..., :3] - (1 - alpha))[..., torch.randperm(3, generator=generator)] * tint + 1 - alpha
    return (torch.cat([colour, alpha], -1).clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def _read(cache: Path) -> Latents | None:
    try:
        tensors = load_file(cache)
        return Latents(tensors["views"], tensors["photo"])
    except (OSError, SafetensorError, KeyError):
        return None


def _check_cameras(path: Path, shard: Shard) -> None:
    cameras = shard.cameras(0)
    if len(cameras) != ORBIT_VIEWS or not torch.allclose(cameras.c2w, orbit(ORBIT_VIEWS).c2w, atol=1e-3):
        raise V3DError(
            f"{path} does not hold orbits of {ORBIT_VIEWS} views at elevation 0, which the model learns."
        )


@torch.no_grad()
def _encode(shard: Shard, vae: VAE, recolour: str | None) -> Latents:
    """Encode a shard; `recolour` seeds another appearance of each orbit."""
    generator = None if recolour is None else torch.Generator().manual_seed(zlib.crc32(recolour.encode()))
    device = next(vae.parameters()).device
    fast = device.type != "cpu" or has_fast_bfloat16()
    views, photos = [], []
    for row in range(len(shard.ids)):
        images = torch.cat([shard.photo(row)[None], shard.views(row)])
        images = images.to(device) if generator is None else recoloured(images, generator).to(device)
        x = (images.permute(0, 3, 1, 2).float() / 127.5 - 1).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            z = vae.encode(x).half().cpu()
        photos.append(z[0])
        views.append(z[1:])
    return Latents(torch.stack(views).contiguous(), torch.stack(photos).contiguous())
