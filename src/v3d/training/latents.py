"""The latent cache: every orbit is encoded once by the frozen networks, into a file beside its shard."""

from __future__ import annotations

import hashlib
import logging
import zlib
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.diffusion.mini import draw_guide
from v3d.diffusion.mini import encode as encode_images
from v3d.diffusion.pixelnerf import PixelNeRF
from v3d.diffusion.vae import VAE
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.runtime import fast_dtype
from v3d.training.dataset import OrbitShards
from v3d.training.shards import UNREADABLE, Shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Latents:
    """All orbits of a folder.

    Attributes:
        views: [N, 18, C, h, w] float16, standardised.
        photo: [N, C, h, w].
        guides: [N, 18, C, h, w] of the orbits that PixelNeRF draws of the photos.
    """

    views: Tensor
    photo: Tensor
    guides: Tensor

    def __len__(self) -> int:
        return len(self.views)


def encode(shards: OrbitShards, vae: VAE, pixelnerf: PixelNeRF, appearances: int = 1) -> Latents:
    """Latents of every orbit, from the cache where it has them. The cache's names tell the networks apart.

    Beyond the first, `appearances` are recoloured and mirrored copies of the orbits.

    Shards whose images cannot be decoded are logged and skipped.

    Raises:
        V3DError: the orbits are not 18 views at elevation 0, differ in size, or none can be read.
    """
    mark, parts = fingerprint(nn.ModuleList([vae, pixelnerf])), []
    for appearance, (path, shard) in product(range(appearances), shards.shards()):
        cache = path.with_name(f"latents-{mark}-{appearance}-{path.stem}.safetensors")
        latents = _read(cache)
        if latents is None:
            check_cameras(path, shard)
            try:
                seed = f"{path.stem} {appearance}" if appearance else None
                latents = _encode(shard, vae, pixelnerf, seed)
            except UNREADABLE as error:
                log.warning("skipped %s: %s", path, error)
                continue
            with atomic(cache) as temporary:
                save_file(vars(latents), temporary)
        parts.append(latents)
    if not parts:
        raise V3DError(f"None of the orbits in {shards.paths[0].parent} can be read.")
    if len({part.views.shape[1:] for part in parts}) > 1:
        raise V3DError(f"The orbits in {shards.paths[0].parent} differ in size; train on one size at a time.")
    return Latents(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Latents)))


def fingerprint(network: nn.Module) -> str:
    """A name for a network's weights."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def recoloured(images: Tensor, generator: torch.Generator) -> tuple[Tensor, bool]:
    """Views [V, H, W, 4] uint8 with colour channels permuted and tinted, mirrored with probability 1/2.

    Exact in pixels, and far cheaper than rendering.

    Returns:
        the images, and whether they are mirrored: then they are of the views at the opposite azimuths.
    """
    x = images.float() / 255
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    if mirrored:
        x = x.flip(2)
    alpha = x[..., 3:]
    tint = 0.8 + 0.2 * torch.rand(3, generator=generator)
    colour = (x[..., :3] - (1 - alpha))[..., torch.randperm(3, generator=generator)] * tint + 1 - alpha
    return (torch.cat([colour, alpha], -1).clamp(0, 1) * 255 + 0.5).to(torch.uint8), mirrored


def _read(cache: Path) -> Latents | None:
    try:
        return Latents(**load_file(cache))
    except (OSError, SafetensorError, TypeError):
        return None


def check_cameras(path: Path, shard: Shard) -> None:
    """Refuse, with a V3DError, other orbits than the models learn."""
    cameras = shard.cameras(0)
    if len(cameras) != ORBIT_VIEWS or not torch.allclose(cameras.c2w, orbit(ORBIT_VIEWS).c2w, atol=1e-3):
        raise V3DError(
            f"{path} does not hold orbits of {ORBIT_VIEWS} views at elevation 0, which the model learns."
        )


@torch.no_grad()
def _encode(shard: Shard, vae: VAE, pixelnerf: PixelNeRF, recolour: str | None) -> Latents:
    """Encode a shard; `recolour` seeds another appearance of each orbit."""
    generator = None if recolour is None else torch.Generator().manual_seed(zlib.crc32(recolour.encode()))
    device = next(vae.parameters()).device
    rows, cameras = [], orbit(ORBIT_VIEWS)
    for row in range(len(shard.ids)):
        images = torch.cat([shard.photo(row)[None], shard.views(row)])
        if generator is not None:
            images, mirrored = recoloured(images, generator)
            if mirrored:
                images = images[[0, 1, *range(len(images) - 1, 1, -1)]]
        x = (images.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16):
            z = vae.encode(x)
            guide = encode_images(vae, draw_guide(pixelnerf, x[:1], cameras[0], cameras)[0])
        rows.append(Latents(*(t.half().cpu().contiguous() for t in (z[1:], z[0], guide))))
    return Latents(*(torch.stack([getattr(row, f.name) for row in rows]) for f in fields(Latents)))
