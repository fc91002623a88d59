"""The released checkpoints -> one folder that V3D and diffusers both open.

`V3D.ckpt` holds V3D's UNet, `svd_xt.safetensors` the VAE and the CLIP image tower it was trained with, both
in the key layout of the original code (`v3d.diffusion.official.sgm`). `convert` reads them without running
anything they contain, checks every key and shape against the networks, and writes float16 safetensors.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from v3d.diffusion.official import sgm
from v3d.diffusion.official.networks import (
    CLIP_MEAN,
    CLIP_STD,
    clip_network,
    unet_network,
    vae_network,
)
from v3d.diffusion.official.tensor_files import check_keys, open_checkpoint, shortened
from v3d.errors import V3DError
from v3d.files import clear_errors

# Parts of the released files that sampling has no use for: SVD's own UNet, the text side of CLIP, a second
# copy of the VAE's encoder, and what a training run leaves behind.
UNUSED = (
    "conditioner.",
    "denoiser.",
    "first_stage_model.",
    "loss_fn.",
    "model.diffusion_model.",
    "model_ema.",
)


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote: parameters per component, and how many tensors of each file it had no use for."""

    folder: Path
    parameters: dict[str, int]
    left_out: dict[str, int]

    def __str__(self) -> str:
        written = ", ".join(f"{name} {count / 1e6:.0f}M" for name, count in self.parameters.items())
        unused = ", ".join(f"{count} of {name}" for name, count in self.left_out.items())
        return f"{self.folder}: {written} parameters; tensors not needed: {unused}."


@dataclass(frozen=True)
class _Component:
    """One network: where its tensors are, how they map, and where they go."""

    folder: str
    file: str
    prefix: str
    config: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    state_dict: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    network: Callable[[dict[str, Any]], nn.Module]
    header: dict[str, Any]


_UNET = _Component(
    "unet",
    "diffusion_pytorch_model.safetensors",
    sgm.UNET_PREFIX,
    sgm.unet_config,
    sgm.unet_state_dict,
    unet_network,
    {"_class_name": "UNetSpatioTemporalConditionModel"},
)
_VAE = _Component(
    "vae",
    "diffusion_pytorch_model.safetensors",
    sgm.VAE_PREFIX,
    sgm.vae_config,
    sgm.vae_state_dict,
    vae_network,
    {"_class_name": "AutoencoderKLTemporalDecoder"},
)
_CLIP = _Component(
    "image_encoder",
    "model.safetensors",
    sgm.CLIP_PREFIX,
    sgm.clip_config,
    sgm.clip_state_dict,
    clip_network,
    {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"},
)


def convert(v3d: Path, svd: Path, out: Path) -> Conversion:
    """Convert the released checkpoints to a diffusers-format folder of float16 safetensors.

    Holds one component in memory at a time (3 GB for the UNet).

    Args:
        v3d: `V3D.ckpt`, or any checkpoint in its layout, for the UNet.
        svd: `svd_xt.safetensors`, for the VAE and the CLIP image tower.
        out: folder to write; must not exist, or be empty. It appears whole or not at all.

    Raises:
        V3DError: a file is missing, cut short, of another kind, or holds more than tensors; keys are
            missing, unexpected or of other shapes; `out` cannot be written.
    """
    v3d, svd, out = Path(v3d), Path(svd), Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise V3DError(f"{out} already exists; choose another output folder or delete it first.")
    parameters: dict[str, int] = {}
    left_out: dict[str, int] = {}
    with _appearing(out) as folder:
        for path, components in ((v3d, (_UNET,)), (svd, (_VAE, _CLIP))):
            with open_checkpoint(path) as weights:
                left_out[path.name] = _count_unused(path, weights, components)
                for component in components:
                    parameters[component.folder] = _convert_component(path, weights, component, folder)
        _write_descriptions(folder, v3d, svd)
    return Conversion(out, parameters, left_out)


def _count_unused(path: Path, weights: Mapping[str, Tensor], components: Sequence[_Component]) -> int:
    """Number of tensors outside `components`.

    Raises:
        V3DError: a name belongs neither to them nor to any known part of a release.
    """
    prefixes = tuple(component.prefix for component in components)
    others = [name for name in weights if not name.startswith(prefixes)]
    unknown = [name for name in others if not name.startswith(UNUSED)]
    if unknown:
        raise V3DError(f"{path} is not a checkpoint of V3D or SVD: unexpected {shortened(unknown)}.")
    return len(others)


def _convert_component(path: Path, weights: Mapping[str, Tensor], component: _Component, folder: Path) -> int:
    """Write one component below `folder`; number of its parameters."""
    source = _Half(weights, component.prefix)
    if not len(source):
        raise V3DError(f"{path} holds no {component.folder}: no key starts with {component.prefix!r}.")
    try:
        config = component.config(source)
        state = component.state_dict(source)
    except KeyError as error:
        raise V3DError(f"{path} does not fit the {component.folder}: missing {error.args[0]}.") from error
    check_keys(path, component.folder, state, component.network(config).state_dict())
    target = folder / component.folder
    target.mkdir()
    (target / "config.json").write_text(
        json.dumps(component.header | config, indent=2) + "\n", encoding="utf-8"
    )
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    try:
        save_file(tensors, target / component.file, {"format": "pt"})
    except SafetensorError as error:  # how safetensors reports a full disk
        raise V3DError(f"Cannot write {folder.parent}: {error}; about 5 GB are needed there.") from error
    return sum(tensor.numel() for tensor in state.values())


class _Half(Mapping[str, Tensor]):
    """The tensors under a prefix, named without it, each turned to float16 when it is read."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        self._weights = weights
        self._names = {name.removeprefix(prefix): name for name in weights if name.startswith(prefix)}

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[self._names[name]].to(torch.float16)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends without an error."""
    with clear_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            temporary.chmod(0o755)
            yield temporary
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_descriptions(folder: Path, v3d: Path, svd: Path) -> None:
    """What makes the folder a diffusers pipeline, and a model card."""
    from diffusers import __version__

    index = {
        "_class_name": "StableVideoDiffusionPipeline",
        "_diffusers_version": __version__,
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
        "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
    }
    scheduler = {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "v_prediction",
        "sigma_min": 0.002,
        "sigma_max": 700.0,
        "timestep_spacing": "leading",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
    }
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
    }
    for name, content in (
        ("model_index.json", index),
        ("scheduler/scheduler_config.json", scheduler),
        ("feature_extractor/preprocessor_config.json", processor),
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_CARD.format(v3d=v3d.name, svd=svd.name), encoding="utf-8")


_CARD = """\
# V3D, official weights, converted

Made by `v3d convert {v3d} {svd}`: the UNet comes from `{v3d}`, the VAE and the CLIP image tower from
`{svd}`; float16, names and layout of diffusers, values otherwise as released.

- Does: one photo of an object on white -> 18 views of 512 x 512 pixels on a full horizontal orbit.
- Conditions: fps 1, motion bucket 300, noise augmentation 0.02; guidance 3.5 to 4.5; 25 to 30 Euler steps.
- Licence: the weights carry the licences of their releases (Stable Video Diffusion's own licence among
  them), not V3D's. Read them before you use or pass on this folder.
"""
