"""The released network's sampling against diffusers' stock pipeline and a plain loop as the original's.

    python benchmarks/svd.py                    # full size, needs a GPU: 18 frames, 512 px, 25 steps
    python benchmarks/svd.py --tiny             # a rehearsal on any machine; its numbers mean nothing
    python benchmarks/svd.py --json svd.json    # also as a file

Weights are random (speed and memory do not depend on them). Every way gets its own fresh networks, one run to
warm up (compilation included) and then timed runs; peak memory is what PyTorch allocated, weights included.
Seconds are those of one whole orbit: conditions, sampling, decoding.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from v3d.diffusion.edm import karras_sigmas
from v3d.diffusion.official.networks import OfficialNetworks, clip_network, unet_network, vae_network
from v3d.diffusion.svd import GUIDANCE, SVDModel, clip_pixels, use_single_token_attention


@dataclass(frozen=True)
class Task:
    """What is generated. `unet`, `vae` and `clip` are configurations."""

    unet: dict
    vae: dict
    clip: dict
    views: int
    size: int
    steps: int


FULL = Task(
    unet={},  # the classes' defaults are the released sizes
    vae={
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
    },
    clip={
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
    views=18,
    size=512,
    steps=25,
)
TINY = Task(
    unet={
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "block_out_channels": (64, 64),
        "num_attention_heads": (1, 1),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
    },
    vae={"down_block_types": ("DownEncoderBlock2D",) * 4, "block_out_channels": (32, 32, 32, 32)},
    clip={
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 32,
        "hidden_act": "gelu",
    },
    views=3,
    size=64,
    steps=2,
)


@dataclass(frozen=True)
class Measured:
    """One way to generate, measured."""

    way: str
    seconds: float
    peak_gb: float | None


def main() -> None:
    """Measure the chosen ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small networks, on any machine")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        parser.error("the full-size networks need a GPU here; --tiny rehearses on the CPU")
    task = TINY if options.tiny else FULL
    results = [measure(way, task, device, options.repeats) for way in options.ways]
    print(table(task, results))
    if options.json:
        record = {**conditions(), "task": asdict(task), "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


def measure(way: str, task: Task, device: torch.device, repeats: int) -> Measured:
    """Median seconds and peak memory of one way."""
    generate = WAYS[way](task, device)
    generate()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        generate()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    del generate
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Measured(way, statistics.median(times), peak)


def random_networks(task: Task, device: torch.device, dtype: torch.dtype) -> OfficialNetworks:
    """UNet, VAE and CLIP image tower with small random weights."""

    def filled(network: nn.Module) -> nn.Module:
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                value = torch.empty(parameter.shape, device=device, dtype=dtype)
                value = (
                    nn.init.ones_(value)
                    if "Norm" in type(module).__name__
                    else nn.init.normal_(value, 0, 0.02)
                )
                setattr(module, name, nn.Parameter(value, requires_grad=False))
        return network.to(device)

    unet, vae, clip = unet_network(task.unet), vae_network(task.vae), clip_network(task.clip)
    return OfficialNetworks(filled(unet), filled(vae), filled(clip), hash="random")


def half(device: torch.device) -> torch.dtype:
    """float16 on a GPU; CPUs cannot run all of it, so float32 there."""
    return torch.float16 if device.type == "cuda" else torch.float32


def ours(
    task: Task,
    device: torch.device,
    memory: Literal["normal", "low"] = "normal",
    compiled: bool = False,
    channels_last: bool = False,
) -> Callable[[], object]:
    """V3D's own sampling, with its variations."""
    networks = random_networks(task, device, half(device))
    networks.vae.encoder.float()
    networks.vae.quant_conv.float()
    use_single_token_attention(networks.unet)
    if memory == "low":
        for network in (networks.unet, networks.vae, networks.image_encoder):
            network.to("cpu")
    if channels_last:
        for module in [*networks.unet.modules(), *networks.vae.modules()]:
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    if compiled:
        networks.unet.compile()
    model = SVDModel(networks, device, networks.hash, memory, task.views, task.size)

    @torch.no_grad()
    def generate() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        conditions = model.condition(torch.zeros(1, 3, task.size, task.size), generator)
        noise = torch.randn(1, task.views, *conditions.latent.shape[1:], generator=generator)
        return model.decode(model.sample(conditions, noise.to(device), task.steps, GUIDANCE)[0])

    return generate


def stock(task: Task, device: torch.device) -> Callable[[], object]:
    """diffusers' pipeline as its documentation runs it, in half precision."""
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    networks = random_networks(task, device, half(device))
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    pipeline = StableVideoDiffusionPipeline(
        networks.vae, networks.image_encoder, networks.unet, scheduler, CLIPImageProcessor()
    )
    pipeline.set_progress_bar_config(disable=True)
    photo = Image.new("RGB", (task.size, task.size), "white")
    return lambda: pipeline(
        photo,
        height=task.size,
        width=task.size,
        num_frames=task.views,
        num_inference_steps=task.steps,
        min_guidance_scale=GUIDANCE,
        max_guidance_scale=GUIDANCE,
        fps=2,
        motion_bucket_id=300,
        output_type="pt",
    )


def plain(task: Task, device: torch.device) -> Callable[[], object]:
    """The original's way: float32 weights, the UNet under float16 autocast, all frames decoded at once."""
    networks = random_networks(task, device, torch.float32)
    unet, vae = networks.unet, networks.vae

    @torch.no_grad()
    def generate() -> Tensor:
        image = torch.zeros(1, 3, task.size, task.size, device=device)
        embedding = networks.image_encoder(clip_pixels(image)).image_embeds[:, None]
        latent = vae.encode(image).latent_dist.sample()
        latent = (latent + 0.02 * torch.randn_like(latent))[:, None].expand(-1, task.views, -1, -1, -1)
        context = torch.cat([torch.zeros_like(embedding), embedding])
        concat = torch.cat([torch.zeros_like(latent), latent])
        ids = torch.tensor([[1.0, 300.0, 0.02]] * 2, device=device)
        sigmas = karras_sigmas(task.steps).float().to(device)
        x = torch.randn_like(latent) * sigmas[0]
        autocast = torch.autocast("cuda", torch.float16) if device.type == "cuda" else nullcontext()
        with autocast:
            for sigma, after in pairwise(sigmas):
                inputs = torch.cat([torch.cat([x, x]) / (sigma**2 + 1).sqrt(), concat], dim=2)
                v = unet(inputs, 0.25 * sigma.log(), context, ids).sample.float()
                denoised = torch.cat([x, x]) / (sigma**2 + 1) - v * sigma / (sigma**2 + 1).sqrt()
                unconditional, conditional = denoised.chunk(2)
                denoised = unconditional + GUIDANCE * (conditional - unconditional)
                x = x + (x - denoised) / sigma * (after - sigma)
        return vae.decode(x[0] / vae.config.scaling_factor, num_frames=task.views).sample

    return generate


WAYS: dict[str, Callable[[Task, torch.device], Callable[[], object]]] = {
    "ours": ours,
    "ours-compiled": lambda task, device: ours(task, device, compiled=True),
    "ours-channels-last": lambda task, device: ours(task, device, channels_last=True),
    "ours-low-memory": lambda task, device: ours(task, device, memory="low"),
    "diffusers": stock,
    "plain": plain,
}


def conditions() -> dict[str, str]:
    """Where and with what the numbers were made."""
    import diffusers

    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "machine": f"{gpu}, {platform.machine()}",
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"Python {platform.python_version()}",
        "commit": commit.stdout.strip() or "unknown",
    }


def table(task: Task, results: list[Measured]) -> str:
    """The results as Markdown."""
    where = conditions()
    lines = [
        f"{task.views} frames, {task.size} px, {task.steps} steps; {where['machine']}; {where['versions']};"
        f" commit {where['commit'][:12]}",
        "",
        "| way | seconds | of diffusers | peak GB |",
        "|---|---|---|---|",
    ]
    reference = next((result.seconds for result in results if result.way == "diffusers"), None)
    for result in results:
        ratio = f"{reference / result.seconds:.2f}x" if reference else "-"
        peak = "-" if result.peak_gb is None else f"{result.peak_gb:.1f}"
        lines.append(f"| {result.way} | {result.seconds:.2f} | {ratio} | {peak} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
