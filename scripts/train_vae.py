"""Train the mini VAE on rendered orbits: python scripts/train_vae.py SHARDS OUT --minutes 20."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor

from v3d.diffusion.vae import VAE
from v3d.training.dataset import OrbitShards


def crop_batch(shards: OrbitShards, batch: int, size: int, generator: torch.Generator) -> Tensor:
    """[batch, 4, size, size] in [-1, 1]: crops that touch the object, at random positions and flips."""
    out = []
    while len(out) < batch:
        views, _ = shards[int(torch.randint(len(shards), (), generator=generator))]
        for k in torch.randperm(len(views), generator=generator)[:4].tolist():
            image = views[k]
            inside = image[..., 3].nonzero()
            if len(inside) == 0:
                continue
            y, x = inside[int(torch.randint(len(inside), (), generator=generator))].tolist()
            jitter = torch.randint(-size // 2, size // 2, (2,), generator=generator).tolist()
            top = min(max(y - size // 2 + jitter[0], 0), image.shape[0] - size)
            left = min(max(x - size // 2 + jitter[1], 0), image.shape[1] - size)
            out.append(image[top : top + size, left : left + size])
    x_ = torch.stack(out[:batch]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x_.flip(-1) if torch.rand((), generator=generator) < 0.5 else x_


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """L1 on colours, hues and gradients over three scales: keeps edges without a perceptual network.

    The hue term (opponent colours) matters: without it a small network spends its latents on brightness
    and learns one hue axis only, so that yellow comes back orange and green comes back blue.
    """
    loss = (x - y).abs().mean()
    for _ in range(3):
        d = x - y
        loss = loss + (d[:, 0] - d[:, 1]).abs().mean() + (d[:, 2] - d[:, :2].mean(1)).abs().mean()
        loss = loss + (x.diff(dim=-1) - y.diff(dim=-1)).abs().mean()
        loss = loss + (x.diff(dim=-2) - y.diff(dim=-2)).abs().mean()
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return loss


def contiguous(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


def main(
    shards: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    minutes: float = 20.0,
    batch: int = 24,
    crop: int = 64,
    learning_rate: float = 1e-3,
    kl: float = 2e-6,
    seed: int = 0,
    threads: int = 2,
    resume: bool = False,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    vae = VAE()
    if resume:
        vae.load_state_dict(load_file(out / "vae.safetensors"))
    vae = vae.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    start, step, smooth, saved = time.time(), 0, 0.0, time.time()
    while (elapsed := time.time() - start) < minutes * 60:
        if step % 200 == 0:
            data = OrbitShards(shards)  # shards may still be arriving
        done = elapsed / (minutes * 60)
        rate = learning_rate * min(1, (step + 1) / 100) * (1 if done < 0.5 else max(0.02, 2 * (1 - done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = crop_batch(data, batch, crop, generator).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            mean, logvar = vae.moments(x)
            mean, logvar = mean.float(), logvar.float()
            z = mean + (logvar / 2).exp() * torch.randn_like(mean)
            y = vae.decoder(z).float()
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        loss = reconstruction_loss(y, x) + kl * divergence * z.shape[1] * 16
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, b in zip(ema.parameters(), vae.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        smooth = loss.item() if step == 1 else 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 0:
            mse = float((y.detach() - x).square().mean()) / 4
            psnr = -10 * torch.tensor(mse).log10().item()
            line = {"step": step, "seconds": round(time.time() - start), "loss": round(smooth, 4)}
            line |= {"psnr": round(psnr, 2), "kl": round(float(divergence), 3), "orbits": len(data)}
            print(json.dumps(line), flush=True)
        if time.time() - saved > 120:
            save_file(contiguous(ema), out / "vae.safetensors")
            saved = time.time()
    with torch.no_grad():  # standardise the latents over whole images
        z = []
        for i in torch.randperm(len(data), generator=generator)[:100].tolist():
            x = data[i][0][::6].permute(0, 3, 1, 2).float() / 127.5 - 1
            z.append(ema.moments(x)[0])
        latents = torch.cat(z)
        ema.mean.copy_(latents.mean((0, 2, 3)))
        ema.std.copy_(latents.std((0, 2, 3)))
    save_file(contiguous(ema), out / "vae.safetensors")
    print("latent std", [round(float(s), 3) for s in ema.std], "steps", step)


if __name__ == "__main__":
    tyro.cli(main)
