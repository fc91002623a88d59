"""Trained networks -> the folders of weights that V3D loads: safetensors and config.json."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from v3d.diffusion.configs import Sampling
from v3d.diffusion.dit import OrbitDiT
from v3d.errors import V3DError
from v3d.files import atomic, write_json
from v3d.networks.pixelnerf import PixelNeRF
from v3d.networks.vae import VAE
from v3d.text_files import read_json
from v3d.weights.storage import load_weights, save_weights


def export_vae(vae: VAE, out: Path) -> None:
    """Write `vae.safetensors` and the VAE's part of `config.json`; other parts of the file stay."""
    save_weights(vae, out / "vae.safetensors")
    write_json(out / "config.json", {**_config(out), "vae": asdict(vae.config)})


def export_pixelnerf(pixelnerf: PixelNeRF, out: Path) -> None:
    """Write `pixelnerf.safetensors` and its part of `config.json`; other parts of the file stay."""
    save_weights(pixelnerf, out / "pixelnerf.safetensors")
    write_json(out / "config.json", {**_config(out), "pixelnerf": asdict(pixelnerf.config)})


def export_mini(pixelnerf: PixelNeRF, dit: OrbitDiT, out: Path, sampling: Sampling) -> None:
    """Write the networks and sampling defaults of a mini model; other parts of `config.json` stay.

    Raises:
        V3DError: the folder cannot be written.
    """
    for name, network in (("pixelnerf", pixelnerf), ("dit", dit)):
        save_weights(network, out / f"{name}.safetensors")
    parts = {"pixelnerf": asdict(pixelnerf.config), "dit": asdict(dit.config), "sampling": asdict(sampling)}
    write_json(out / "config.json", {**_config(out), **parts})


def copy_model(run: Path, out: Path) -> None:
    """Copy the model of a run's folder.

    The configuration comes last, so that a folder that has it is complete.
    """
    files = [path for path in (run / "model").rglob("*") if path.is_file() and path.name[0] != "."]
    for path in sorted(files, key=lambda p: p.name == "config.json"):
        with atomic(out / path.relative_to(run / "model")) as temporary:
            shutil.copyfile(path, temporary)


def average(models: Sequence[Path], shares: Sequence[float], out: Path) -> None:
    """Write the weighted mean of models of one architecture into `out` ("model soup", Wortsman et al. 2022).

    Where training from one point went several ways, the mean is often better than each.

    Args:
        models: folders of weights; the first says which networks are averaged, and the others have them in
            the same sizes.
        shares: of each; their sum is brought to 1.

    Raises:
        V3DError: there are fewer than two models or not one share for each, or the models cannot be read or
            do not fit together.
    """
    if len(models) < 2 or len(shares) != len(models) or not sum(shares) > 0:
        raise V3DError("Give two models or more and one share for each, for example --shares 1 1.")
    names = sorted(path.name for path in models[0].glob("[!.]*.safetensors"))
    if not names:
        raise V3DError(f"{models[0]} holds no networks; give folders of weights, such as a run's model.")
    try:
        config = _config(models[0])
        for model in models[1:]:
            other = _config(model)
            there = all((model / name).is_file() for name in names)
            if not there or any(other.get(part) != sizes for part, sizes in config.items()):
                raise V3DError(
                    f"{model} does not fit {models[0]}: it needs the same networks of the same sizes."
                )
        means = {name: _mean([load_weights(model / name) for model in models], shares) for name in names}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise V3DError(f"A model cannot be read ({error}); check its files.") from error
    for name, mean in means.items():
        save_weights(mean, out / name)
    write_json(out / "config.json", config)


def _mean(states: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    weights = [share / sum(shares) for share in shares]
    return {
        key: sum((w * state[key].float() for w, state in zip(weights, states, strict=True)), torch.zeros(()))
        for key in states[0]
    }


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_json(path) if path.exists() else {}
    if not isinstance(config, dict):
        raise V3DError(f"{path} is no configuration of a model.")
    return config
