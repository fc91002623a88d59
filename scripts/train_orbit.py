"""Train OrbitDiT on rendered orbits: python scripts/train_orbit.py SHARDS VAE_FOLDER OUT --minutes 60.

Latents are encoded once and kept beside the shards. Most of the time is spent on a few random views of
each orbit, which is where turning is learned at the least cost; the last part sees all 18 together.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from functools import partial
from pathlib import Path

import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.diffusion.dit import Geometry, OrbitDiT, OrbitDiTConfig
from v3d.diffusion.edm import NoiseLaw, Preconditioning, edm_loss
from v3d.diffusion.vae import VAE
from v3d.runtime import has_fast_bfloat16
from v3d.training.dataset import OrbitShards


def recoloured(orbits: Tensor, generator: torch.Generator) -> Tensor:
    """Another appearance of rendered orbits uint8 [N, 1 + 18, H, W, 4], exact in pixels and far cheaper than rendering.

    Each orbit is mirrored with probability 1/2 (which plays it backwards), its colour channels are permuted
    and tinted.
    """
    out = []
    for orbit_pixels in orbits:
        x = orbit_pixels.float() / 255
        if torch.rand((), generator=generator) < 0.5:
            x = x.flip(2)[[0, 1, *range(ORBIT_VIEWS, 1, -1)]]
        alpha = x[..., 3:]
        tint = 0.8 + 0.2 * torch.rand(3, generator=generator)
        colour = (x[..., :3] - (1 - alpha))[..., torch.randperm(3, generator=generator)] * tint + 1 - alpha
        out.append(torch.cat([colour, alpha], -1).clamp(0, 1))
    return (torch.stack(out) * 255 + 0.5).to(torch.uint8)


def encode_shards(folder: Path, vae: VAE, appearances: int = 1) -> tuple[Tensor, Tensor]:
    """Latents of every orbit [N, 18, C, h, w] and photo [N, C, h, w], float16; cached beside the shards.

    Beyond the first, `appearances` are recoloured and mirrored copies.
    """
    views, photos = [], []
    shards = OrbitShards(folder)
    vae = vae.to(memory_format=torch.channels_last)
    for appearance in range(appearances):
        for k, path in enumerate(shards.paths):
            name = path.name.replace("orbits-", f"latents{appearance or ''}-")
            cache = path.with_name(name)
            if not cache.exists():
                pixels = load_file(path)
                stacked = torch.cat([pixels["photo"][:, None], pixels["views"]], 1)
                if appearance:
                    stacked = recoloured(stacked, torch.Generator().manual_seed(1000 * appearance + k))
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                    z = torch.stack([vae.encode(_to_input(o)) for o in stacked])
                temporary = cache.with_suffix(f".{os.getpid()}.tmp")
                tensors = {"photo": z[:, 0].half().contiguous(), "views": z[:, 1:].half().contiguous()}
                save_file(tensors, temporary)
                os.replace(temporary, cache)
                print(f"encoded {name} of {len(shards.paths)}", flush=True)
            latents = load_file(cache)
            views.append(latents["views"])
            photos.append(latents["photo"])
    return torch.cat(views), torch.cat(photos)


def _to_input(images: Tensor) -> Tensor:
    """uint8 [V, H, W, 4] -> the VAE's input."""
    return (images.permute(0, 3, 1, 2).float() / 127.5 - 1).to(memory_format=torch.channels_last)


def run(
    net: OrbitDiT, x: Tensor, c_noise: Tensor, *, photo: Tensor, keep: Tensor, geometry: Geometry
) -> Tensor:
    """The raw network in the precision of its weights; inputs and output are float32."""
    dtype = net.position.dtype
    return net(x.to(dtype), c_noise, photo.to(dtype), keep, geometry).float()


@torch.no_grad()
def validate(net: OrbitDiT, views: Tensor, photos: Tensor, geometry: Geometry) -> dict[str, float]:
    """One-step controls from pure noise (latent RMSE of D(x, 80)), and the loss at four noise levels.

    'reversed' plays the truth backwards and 'wrong' takes another object's photo: a model that has learned
    to turn, and to look at the photo, is worse on both.
    """
    edm = Preconditioning()
    B = len(views)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(views.shape, generator=generator)
    keep = torch.ones(B, dtype=torch.bool)

    def denoise(x: Tensor, sigma: Tensor, photo: Tensor = photos) -> Tensor:
        return edm.denoise(partial(run, net, photo=photo, keep=keep, geometry=geometry), x, sigma)

    def rmse(a: Tensor, b: Tensor) -> float:
        return (a[:, 1:] - b[:, 1:]).square().mean().sqrt().item()

    sigma = torch.full((B,), 80.0)
    x = views + 80 * noise
    estimate = denoise(x, sigma)
    backwards = views[:, [0, *range(ORBIT_VIEWS - 1, 0, -1)]]
    out = {
        "D80": rmse(estimate, views),
        "reversed": rmse(estimate, backwards),
        "wrong": rmse(denoise(x, sigma, photos.roll(1, 0)), views),
        "repeat": rmse(views[:, :1].expand_as(views), views),
    }
    for level in (0.3, 1.0, 4.0, 20.0):
        s = torch.full((B,), level)
        out[f"loss{level:g}"] = edm_loss(denoise, views, s, noise, edm).mean().item()
    return {k: round(v, 4) for k, v in out.items()}


def main(
    shards: tyro.conf.Positional[Path],
    vae: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    validation: Path,
    minutes: float = 60.0,
    batch: int = 32,
    views_per_orbit: int = 6,
    all_views_after: float = 0.7,
    learning_rate: float = 1e-3,
    width: int = 320,
    depth: int = 8,
    patch: int = 4,
    appearances: int = 4,
    drop: float = 0.1,
    P_mean: float = 1.0,
    P_std: float = 1.6,
    resume: bool = False,
    seed: int = 0,
    threads: int = 1,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # also steers the CPU's plain attention
    out.mkdir(parents=True, exist_ok=True)
    autoencoder = VAE()
    autoencoder.load_state_dict(load_file(vae / "vae.safetensors"))
    autoencoder.eval()
    views, photos = encode_shards(shards, autoencoder, appearances)
    val_views, val_photos = (t[:32].float() for t in encode_shards(validation, autoencoder))
    print("orbits", len(views), "latent std", views[:200].float().std().item(), flush=True)

    config = OrbitDiTConfig(
        latent_channels=views.shape[2], latent_size=views.shape[-1], patch=patch, width=width, depth=depth
    )
    net = OrbitDiT(config)
    if resume:
        net.load_state_dict(load_file(out / "dit.safetensors"))
    ema = copy.deepcopy(net)
    # Arithmetic in bfloat16 where the CPU has it, on a copy; the optimiser keeps float32 weights.
    dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32
    fast = copy.deepcopy(net).to(dtype)
    orbit_geometry = Geometry.of(orbit(ORBIT_VIEWS), net.grid)
    full = orbit_geometry[[0, *range(ORBIT_VIEWS)]]
    edm, law = Preconditioning(), NoiseLaw(P_mean, P_std)
    matrices = [p for block in net.blocks for p in block.parameters() if p.ndim == 2 and p.shape[0] > 6]
    chosen = {id(p) for p in matrices}
    rest = [p for p in net.parameters() if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]
    start, step, seen, smooth, saved, checked = time.time(), 0, 0, math.nan, time.time(), -1e9
    log = open(out / "log.jsonl", "a")  # noqa: SIM115
    while (elapsed := time.time() - start) < minutes * 60:
        if time.time() - saved > 180:
            save_file(ema.state_dict(), out / "dit.safetensors")
            saved = time.time()
        done = elapsed / (minutes * 60)
        rate = learning_rate * min(1, (step + 1) / 50) * (1 if done < 0.6 else max(0.02, (1 - done) / 0.4))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        everything = done > all_views_after
        B = max(1, batch * (views_per_orbit + 1) // (ORBIT_VIEWS + 1)) if everything else batch
        frames = (
            list(range(ORBIT_VIEWS)) if everything else torch.randperm(ORBIT_VIEWS)[:views_per_orbit].tolist()
        )
        index = torch.randint(len(views), (B,))
        x0, photo = views[index][:, frames].float(), photos[index].float()
        keep = torch.rand(B) >= drop
        geometry = orbit_geometry[[0, *frames]]
        sigma = law.sample(B)

        network = partial(run, fast, photo=photo, keep=keep, geometry=geometry)
        loss = edm_loss(partial(edm.denoise, network), x0, sigma, torch.randn_like(x0), edm).mean()
        fast.zero_grad(set_to_none=True)
        loss.backward()
        for p, q in zip(net.parameters(), fast.parameters(), strict=True):
            assert q.grad is not None
            p.grad = q.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        if bool(norm.isfinite()):  # a NaN step is skipped
            for optimizer in optimizers:
                optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(list(fast.parameters()), list(net.parameters()))
        step, seen = step + 1, seen + B
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        if elapsed - checked > 120:
            checked = elapsed
            line = {"step": step, "seconds": round(elapsed), "orbits": seen, "loss": round(smooth, 4)}
            line |= validate(copy.deepcopy(ema).to(dtype), val_views, val_photos, full)
            print(json.dumps(line), flush=True)
            log.write(json.dumps(line) + "\n")
            log.flush()
    save_file(ema.state_dict(), out / "dit.safetensors")
    print("steps", step, "orbits", seen, validate(ema, val_views, val_photos, full), flush=True)


if __name__ == "__main__":
    with sdpa_kernel(SDPBackend.MATH):  # the CPU's flash attention has a slow backward pass
        tyro.cli(main)
