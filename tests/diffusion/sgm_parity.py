"""Errors of our networks against the original's float64 outputs: `python sgm_parity.py FOLDER`, as JSON.

Run in a process of its own with MKL_CBWR=COMPATIBLE: the networks take their time embeddings in float32,
and MKL's float32 exp, cos and sin differ in the last bit between CPU makers (5.9e-9 of the output).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from v3d.diffusion.official import sgm
from v3d.diffusion.official.networks import unet_network, vae_network


def read(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights (float64, no prefix) and inputs and outputs."""
    tensors = {name: tensor.double() for name, tensor in load_file(path).items()}
    weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return weights, {name.removeprefix("io."): t for name, t in tensors.items() if name.startswith("io.")}


@torch.no_grad()
def errors(folder: Path) -> dict[str, float]:
    """Largest absolute difference of the UNet's output, and the VAE's moments and decoded frames."""
    weights, io = read(folder / "unet.safetensors", sgm.UNET_PREFIX)
    unet = unet_network(sgm.unet_config(weights, head_channels=16))
    unet.load_state_dict(sgm.unet_state_dict(weights), assign=True)
    output = unet(io["input"], io["c_noise"], io["context"], io["time_ids"]).sample
    found = {"unet": float((output - io["output"]).abs().max())}
    weights, io = read(folder / "vae.safetensors", sgm.VAE_PREFIX)
    vae = vae_network(sgm.vae_config(weights))
    vae.load_state_dict(sgm.vae_state_dict(weights), assign=True)
    moments = vae.encode(io["pixels"]).latent_dist.parameters
    found["encoder"] = float((moments - io["moments"]).abs().max())
    decoded = vae.decode(io["latents"], num_frames=len(io["latents"])).sample
    found["decoder"] = float((decoded - io["decoded"]).abs().max())
    return found


if __name__ == "__main__":
    print(json.dumps(errors(Path(sys.argv[1]))))
