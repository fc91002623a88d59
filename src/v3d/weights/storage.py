"""How weights lie on disk: safetensors, large matrices as 8-bit integers with one scale a row.

That halves what the package carries; rounding moves the networks' outputs by less than they move from one
noise seed to the next (see `tests/diffusion/test_storage.py` for the bound on the matrices themselves).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from v3d.errors import V3DError
from v3d.files import atomic

Network = TypeVar("Network", bound=nn.Module)

_SCALE = ".scale"
_LARGE = 4096  # elements; smaller tensors stay float16


def save_weights(weights: nn.Module | Mapping[str, Tensor], path: Path) -> None:
    """Write a module's weights, or a state dict.

    Matrices and kernels of 4096 elements or more become 8-bit integers with one scale a row, others float16.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        t = tensor.detach().cpu().float()
        if t.ndim < 2 or t.numel() < _LARGE:
            tensors[name] = t.half().contiguous()
            continue
        scale = (t.flatten(1).abs().amax(1) / 127).clamp_min(1e-30)
        rows = t.flatten(1) / scale[:, None]
        tensors[name] = rows.round().clamp(-127, 127).to(torch.int8).view(t.shape).contiguous()
        tensors[name + _SCALE] = scale
    with atomic(path) as temporary:
        save_file(tensors, temporary)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The state dict that `save_weights` wrote (or any safetensors file), 8-bit matrices as float32.

    Raises:
        OSError, SafetensorError: the file is missing or damaged.
    """
    tensors = load_file(path)
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith(_SCALE)}
    for name, scale in scales.items():
        rows = tensors[name.removesuffix(_SCALE)]
        tensors[name.removesuffix(_SCALE)] = (rows.flatten(1).float() * scale[:, None]).view(rows.shape)
    return tensors


def load_network(folder: Path, name: str, make: Callable[[dict[str, Any]], Network]) -> Network:
    """A network of a folder of weights.

    Args:
        folder: with `config.json` and `<name>.safetensors`.
        name: of the network.
        make: the network of its part of `config.json`.

    Raises:
        V3DError: a file is missing, damaged or does not fit its configuration.
    """
    try:
        network = make(json.loads((folder / "config.json").read_text())[name])
        network.load_state_dict(load_weights(folder / f"{name}.safetensors"))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise V3DError(unusable_weights(folder, error)) from error
    return network


def weights_fingerprint(network: nn.Module) -> str:
    """A name for a network's weights: 8 hexadecimal digits of the hash of all its tensors."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def unusable_weights(folder: Path, error: Exception) -> str:
    """One sentence for weights that cannot be read."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{folder} holds no usable weights ({reason}); reinstall the package or check the folder."
