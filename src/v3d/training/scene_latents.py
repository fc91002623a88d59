"""The latent cache of scenes: every view encoded once an appearance, and the guides of a few choices of source photos."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from v3d.cameras import Cameras
from v3d.diffusion.mini import draw_guide, encode
from v3d.diffusion.pixelnerf import PixelNeRF
from v3d.diffusion.vae import VAE
from v3d.files import atomic
from v3d.runtime import fast_dtype
from v3d.training.latents import fingerprint
from v3d.training.pixelnerf import opaque
from v3d.training.scene_data import SceneShards

_OF_A_CHOICE = ("chosen", "guides", "drawn", "true")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneLatents:
    """One scene.

    Attributes:
        views: [V, C, h, w] float16.
        cameras: of the V views.
        chosen: for every number of sources, [N + T] numbers of the source views, then of the target views.
        guides: for every number of sources, [T, C, h, w] of the targets.
        drawn: for every number of sources, uint8 [T, S, S, 3], the guides as pictures.
        true: for every number of sources, uint8 [T, S, S, 3], the targets.
    """

    views: Tensor
    cameras: Cameras
    chosen: list[Tensor]
    guides: list[Tensor]
    drawn: list[Tensor]
    true: list[Tensor]


def encode_scenes(
    shards: SceneShards,
    folder: Path,
    vae: VAE,
    pixelnerf: PixelNeRF,
    counts: Sequence[int],
    targets: int,
    appearances: int = 1,
) -> list[SceneLatents]:
    """Latents of every scene, from the cache in `folder` where it has them; its names tell networks and choices apart.

    Args:
        counts: numbers of source photos.
        targets: views to be drawn from each choice.
        appearances: of each scene; all but the first have their colour channels permuted and other choices of photos.
    """
    mark = fingerprint(nn.ModuleList([vae, pixelnerf])) + "-" + "-".join(map(str, (*counts, targets)))
    scenes = []
    for appearance, i in product(range(appearances), range(len(shards))):
        name = f"{i:06d}" if appearance == 0 else f"{i:06d}-{appearance}"
        cache = folder / f".latents-and-views-{mark}" / f"{name}.safetensors"
        rgb, cameras, _ = shards[i]
        try:
            tensors = load_file(cache)
        except (OSError, SafetensorError):
            generator = torch.Generator().manual_seed(zlib.crc32(f"{i} {len(rgb)} {appearance}".encode()))
            if appearance:
                rgb = rgb[..., torch.randperm(3, generator=generator)]
            tensors = _encode(rgb, cameras, vae, pixelnerf, counts, targets, generator)
            with atomic(cache) as temporary:
                save_file(tensors, temporary)
        parts = [[tensors[f"{name}{n}"] for n in counts] for name in _OF_A_CHOICE]
        scenes.append(SceneLatents(tensors["views"], cameras, *parts))
    return scenes


@torch.no_grad()
def _encode(
    rgb: Tensor,
    cameras: Cameras,
    vae: VAE,
    pixelnerf: PixelNeRF,
    counts: Sequence[int],
    targets: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    device = next(vae.parameters()).device
    x = (opaque(rgb) * 2 - 1).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16):
        tensors = {"views": vae.encode(x)}
        for n in counts:
            chosen = torch.randperm(len(rgb), generator=generator)[: n + targets]
            tensors[f"chosen{n}"] = chosen
            views, _ = draw_guide(pixelnerf, x[chosen[:n]], cameras[chosen[:n]], cameras[chosen[n:]])
            tensors[f"guides{n}"] = encode(vae, views)
            pictures = (views[:, :3] / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
            tensors[f"drawn{n}"] = (255 * pictures + 0.5).to(torch.uint8)
            tensors[f"true{n}"] = rgb[chosen[n:]]
    return {
        name: (t.half() if t.is_floating_point() else t).cpu().contiguous() for name, t in tensors.items()
    }
