"""The released networks: SVD's UNet as V3D tuned it, its VAE with a temporal decoder, the CLIP image tower.

Their classes come from diffusers and transformers (the extra `official`), which are imported only
here and only when asked for. Weights come from a folder in diffusers' layout: what `v3d convert` writes,
what `StableVideoDiffusionPipeline.save_pretrained` writes, or such a repository on the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from v3d.diffusion.official.sgm import use_original_norms
from v3d.diffusion.official.tensor_files import check_keys, open_checkpoint
from v3d.distribution import install_hint
from v3d.errors import V3DError, in_words
from v3d.files import atomic
from v3d.text_files import read_json

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_EXTRAS = ("scheduler", "feature_extractor")  # for diffusers' own pipeline
_NEEDS_EXTRA = f"The official weights need two more packages; run: {install_hint('official')}"


@dataclass
class OfficialNetworks:
    """The three networks of SVD and V3D, in evaluation mode, and a fingerprint of their files.

    The VAE's encoder stays in float32, in which the original runs it: it overflows float16.
    """

    unet: Any  # UNetSpatioTemporalConditionModel
    vae: Any  # AutoencoderKLTemporalDecoder
    image_encoder: Any  # CLIPVisionModelWithProjection
    hash: str


def unet_network(config: dict[str, Any]) -> nn.Module:
    """`UNetSpatioTemporalConditionModel` on the meta device, with the original's norms."""
    try:
        from diffusers import UNetSpatioTemporalConditionModel
    except ImportError as error:
        raise V3DError(_NEEDS_EXTRA) from error
    unet = _empty(lambda: UNetSpatioTemporalConditionModel.from_config(config))
    use_original_norms(unet)
    return unet


def vae_network(config: dict[str, Any]) -> nn.Module:
    """`AutoencoderKLTemporalDecoder` on the meta device."""
    try:
        from diffusers import AutoencoderKLTemporalDecoder
    except ImportError as error:
        raise V3DError(_NEEDS_EXTRA) from error
    return _empty(lambda: AutoencoderKLTemporalDecoder.from_config(config))


def clip_network(config: dict[str, Any]) -> nn.Module:
    """`CLIPVisionModelWithProjection` on the meta device."""
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError as error:
        raise V3DError(_NEEDS_EXTRA) from error
    return _empty(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config)))


def load_networks(source: str | Path, dtype: torch.dtype) -> OfficialNetworks:
    """The networks of a folder, or of a repository on the hub (downloaded once, then used from its cache).

    Args:
        source: folder in diffusers' layout, or a hub id `owner/name`.
        dtype: of the weights.

    Raises:
        V3DError: nothing usable there, a file is damaged or does not fit its config, no connection, or the
            packages are missing.
    """
    folder = official_folder(source)
    unet = _load(folder / "unet", unet_network, dtype)
    vae = _load(folder / "vae", vae_network, dtype)
    vae.encoder.float()
    vae.quant_conv.float()
    image_encoder = _load(folder / "image_encoder", clip_network, dtype)
    return OfficialNetworks(unet, vae, image_encoder, _fingerprint(folder))


def official_folder(source: str | Path) -> Path:
    """A folder as it is; a hub repository is downloaded once, then found in its cache.

    Raises:
        V3DError: there is neither.
    """
    folder = Path(source)
    if folder.is_file():
        raise V3DError(
            f"{folder} is a file, not a folder of weights; `v3d convert` makes one from the released files."
        )
    return folder if folder.is_dir() else _download(str(source))


def save_networks(unet: dict[str, Tensor], base: Path, out: Path) -> None:
    """Write a folder that `load_networks` reads: `unet` over the networks of the folder `base`.

    Args:
        unet: tensors by name, which replace those of the UNet in `base`; the UNet is written in float16.
        base: folder that everything else is copied from.
        out: folder to write.

    Raises:
        V3DError: the folder cannot be written.
    """
    described = [base, *(base / part for part in ("unet", "vae", "image_encoder", *_EXTRAS))]
    kept = [path for folder in described for path in folder.glob("*.json")]
    kept += [path for part in ("vae", "image_encoder") for path in weight_files(base / part)]
    for path in kept:
        target = out / path.relative_to(base)
        if not target.exists():
            with atomic(target) as temporary:
                shutil.copyfile(path, temporary)
    tensors: dict[str, Tensor] = {}
    for path in weight_files(base / "unet"):
        with open_checkpoint(path) as weights:
            tensors |= {name: weights[name] for name in weights if name not in unet}
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in (tensors | unet).items()}
    with atomic(out / "unet/diffusion_pytorch_model.safetensors") as temporary:
        save_file(tensors, temporary, {"format": "pt"})


def _fingerprint(folder: Path) -> str:
    """Hash of 64 blocks of every weight file: it tells releases apart without reading gigabytes twice."""
    digest = hashlib.sha256()
    for component in ("unet", "vae", "image_encoder"):
        for path in weight_files(folder / component):
            size = path.stat().st_size
            digest.update(str(size).encode())
            with path.open("rb") as file:
                for block in range(64):
                    file.seek(size * block // 64)
                    digest.update(file.read(4096))
    return digest.hexdigest()[:16]


def _empty(build: Callable[[], nn.Module]) -> nn.Module:
    """A network whose parameters take no memory; its buffers are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return build().eval().requires_grad_(False)


def _load(folder: Path, build: Callable[[dict[str, Any]], nn.Module], dtype: torch.dtype) -> Any:
    try:
        config = read_json(folder / "config.json")
    except V3DError as error:
        raise V3DError(
            f"{folder.parent} holds no official weights: {folder.name}/config.json is missing or damaged;"
            " make the folder with `v3d convert` or give a Stable Video Diffusion folder."
        ) from error
    try:
        network = build(config)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise V3DError(
            f"{folder / 'config.json'} describes no network that can be built ({in_words(error)})."
        ) from error
    files = weight_files(folder)
    state: dict[str, Tensor] = {}
    for path in files:
        with open_checkpoint(path) as weights:
            state |= {name: weights[name].to(dtype) for name in weights}
    check_keys(files[0], f"{folder.name} of its config.json", state, network.state_dict())
    network.load_state_dict(state, assign=True)
    return network


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a component: the float16 variant where there is one; several when sharded."""
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    if not files:
        raise V3DError(f"{folder} holds no .safetensors file; V3D loads no other weights from a folder.")
    return [path for path in files if ".fp16." in path.name] or [
        path for path in files if ".fp16" not in path.name and ".non_ema" not in path.name
    ]


def _download(repository: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise V3DError(_NEEDS_EXTRA) from error
    configs = ["unet/config.json", "vae/config.json", "image_encoder/config.json"]
    half = ["unet/*.fp16.safetensors", "vae/*.fp16.safetensors", "image_encoder/*.fp16.safetensors"]
    whole = ["unet/*.safetensors", "vae/*.safetensors", "image_encoder/*.safetensors"]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=configs + half))
        if not list(folder.glob("unet/*.safetensors")):
            folder = Path(snapshot_download(repository, allow_patterns=configs + whole))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise V3DError(
            f"{repository!r} is neither a folder here nor a hub repository that can be reached ({reason});"
            " check the name, your connection and, for gated weights, `hf auth login`."
        ) from error
    return folder
