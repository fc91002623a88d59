"""Pack trained networks as the weights that ship: python scripts/pack_weights.py VAE_FOLDER DIT_FOLDER OUT."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor

from v3d.diffusion.dit import OrbitDiTConfig
from v3d.diffusion.vae import VAEConfig


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.half().contiguous() for name, tensor in state.items()}


def main(
    vae: tyro.conf.Positional[Path],
    dit: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    steps: int = 16,
    guidance: float = 1.5,
    sigma_min: float = 0.02,
    sigma_max: float = 80.0,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = load_file(dit / "dit.safetensors")
    save_file(half(state), out / "dit.safetensors")
    save_file(half(load_file(vae / "vae.safetensors")), out / "vae.safetensors")
    config = {
        "vae": asdict(VAEConfig()),
        "dit": asdict(
            OrbitDiTConfig(
                width=state["position"].shape[1],
                depth=1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks.")),
            )
        ),
        "sampling": {"steps": steps, "guidance": guidance, "sigma_min": sigma_min, "sigma_max": sigma_max},
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
