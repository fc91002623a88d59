"""Trained networks -> the folder that `v3d generate --model` and `load_vae` read: safetensors and config.json."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from v3d.diffusion.dit import OrbitDiT
from v3d.diffusion.pixelnerf import PixelNeRF
from v3d.diffusion.vae import VAE
from v3d.files import atomic, write_json
from v3d.weights.storage import save_weights


@dataclass(frozen=True)
class Sampling:
    """Defaults of the sampler, see `v3d.diffusion.mini`."""

    steps: int = 1
    guidance: float = 1.0
    sigma_min: float = 0.003
    sigma_max: float = 20.0


def export_vae(vae: VAE, out: Path) -> None:
    """Write `vae.safetensors` and the VAE's part of `config.json`; other parts of the file stay."""
    save_weights(vae, out / "vae.safetensors")
    write_json(out / "config.json", {**_config(out), "vae": asdict(vae.config)})


def export_pixelnerf(pixelnerf: PixelNeRF, out: Path) -> None:
    """Write `pixelnerf.safetensors` and its part of `config.json`; other parts of the file stay."""
    save_weights(pixelnerf, out / "pixelnerf.safetensors")
    write_json(out / "config.json", {**_config(out), "pixelnerf": asdict(pixelnerf.config)})


def export_mini(pixelnerf: PixelNeRF, dit: OrbitDiT, out: Path, sampling: Sampling = Sampling()) -> None:
    """Write the networks and sampling defaults of a mini model; other parts of `config.json` stay.

    Raises:
        V3DError: the folder cannot be written.
    """
    for name, network in (("pixelnerf", pixelnerf), ("dit", dit)):
        save_weights(network, out / f"{name}.safetensors")
    parts = {"pixelnerf": asdict(pixelnerf.config), "dit": asdict(dit.config), "sampling": asdict(sampling)}
    write_json(out / "config.json", {**_config(out), **parts})


def copy_model(run: Path, out: Path) -> None:
    """Copy the model of a run's folder; the configuration comes last, so that a folder that has it is complete."""
    files = [path for path in (run / "model").rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda p: p.name == "config.json"):
        with atomic(out / path.relative_to(run / "model")) as temporary:
            shutil.copyfile(path, temporary)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}
