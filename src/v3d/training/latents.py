"""The latent cache: every orbit is encoded once by the frozen VAE, into a file beside its shard."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
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


def encode(shards: OrbitShards, vae: VAE) -> Latents:
    """Latents of every orbit, from the cache where it has them. The cache's names tell the VAE apart.

    Shards whose images cannot be decoded are logged and skipped.

    Raises:
        V3DError: the orbits are not 18 views at elevation 0, differ in size, or none can be read.
    """
    mark, parts = fingerprint(vae), []
    for path, shard in shards.shards():
        cache = path.with_name(f"latents-{mark}-{path.stem}.safetensors")
        latents = _read(cache)
        if latents is None:
            _check_cameras(path, shard)
            try:
                latents = _encode(shard, vae)
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
def _encode(shard: Shard, vae: VAE) -> Latents:
    device = next(vae.parameters()).device
    fast = device.type != "cpu" or has_fast_bfloat16()
    views, photos = [], []
    for row in range(len(shard.ids)):
        images = torch.cat([shard.photo(row)[None], shard.views(row)]).to(device)
        x = (images.permute(0, 3, 1, 2).float() / 127.5 - 1).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            z = vae.encode(x).half().cpu()
        photos.append(z[0])
        views.append(z[1:])
    return Latents(torch.stack(views).contiguous(), torch.stack(photos).contiguous())
