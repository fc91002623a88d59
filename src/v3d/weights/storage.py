"""How weights lie on disk: safetensors, large matrices as integers of 8 or 4 bits with scales beside them.

- 8 bits: every matrix of 4,096 elements or more has one float32 scale a row, `NAME.scale`.
- 4 bits: every matrix of 65,536 elements or more is cut, row after row, into groups of 64 values with one
  float16 scale each. `NAME` has two values a byte, the earlier one in the low half; `NAME.scale` the scales;
  `NAME.shape` the matrix's shape. Smaller matrices are kept in 8 bits.
- All other tensors are float16.

`tests/diffusion/test_storage.py` bounds what rounding does to a matrix; the model cards say what it does to
the views.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.text_files import read_json

Network = TypeVar("Network", bound=nn.Module)
Bits = Literal[4, 8]
"""Bits of a large matrix's values."""

_SCALE, _SHAPE = ".scale", ".shape"
_LARGE = {8: 4096, 4: 65_536}  # elements from which a matrix is kept in so many bits
_GROUP = 64  # values of 4 bits that share a scale
_SCALES_OF_A_GROUP = (1.0, 0.92, 0.85, 0.78)  # times its largest value / 7


def save_weights(weights: nn.Module | Mapping[str, Tensor], path: Path, *, bits: Bits = 8) -> None:
    """Write a module's weights, or a state dict, in the form that this module's docstring describes.

    Args:
        weights: the module or state dict.
        path: of the file.
        bits: of the values of large matrices: 8 for results of training, 4 for a package that must be small.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        t = tensor.detach().cpu().float()
        if t.ndim < 2 or t.numel() < _LARGE[8]:
            tensors[name] = t.half().contiguous()
        elif bits == 4 and t.numel() >= _LARGE[4]:
            tensors[name], tensors[name + _SCALE] = _to_4_bits(t)
            tensors[name + _SHAPE] = torch.tensor(t.shape)
        else:
            tensors[name], tensors[name + _SCALE] = _to_8_bits(t)
    with atomic(path) as temporary:
        save_file(tensors, temporary)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The state dict that `save_weights` wrote (or any safetensors file), matrices of integers as float32.

    Raises:
        OSError, SafetensorError, ValueError: the file is missing or damaged.
    """
    tensors = load_file(path)
    names = [name.removesuffix(_SCALE) for name in tensors if name.endswith(_SCALE)]
    for name in names:
        values, scale = tensors.get(name), tensors.pop(name + _SCALE)
        shape = tensors.pop(name + _SHAPE, None)
        if values is None or not bool(scale.isfinite().all()):
            raise ValueError(f"{Path(path).name} is damaged at {name}")
        try:
            tensors[name] = (
                _from_8_bits(values, scale)
                if shape is None
                else _from_4_bits(values, scale, [int(side) for side in shape])
            )
        except RuntimeError as error:
            raise ValueError(f"{Path(path).name} is damaged at {name}") from error
    return tensors


def _to_8_bits(t: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, ...] -> int8 values of that shape, and scales [rows]."""
    scale = (t.flatten(1).abs().amax(1) / 127).clamp_min(1e-30)
    rows = t.flatten(1) / scale[:, None]
    return rows.round().clamp(-127, 127).to(torch.int8).view(t.shape).contiguous(), scale


def _from_8_bits(values: Tensor, scale: Tensor) -> Tensor:
    return (values.flatten(1).float() * scale[:, None]).view(values.shape)


def _to_4_bits(t: Tensor) -> tuple[Tensor, Tensor]:
    """Any tensor -> bytes [groups, 32] and float16 scales [groups] of least squared error; zeros fill up."""
    flat = t.flatten()
    groups = nn.functional.pad(flat, (0, -len(flat) % _GROUP)).view(-1, _GROUP)
    largest = groups.abs().amax(1, keepdim=True)
    scales = [(f * largest / 7).clamp(2**-24, 65504).half() for f in _SCALES_OF_A_GROUP]  # float16's ends
    values = [(groups / scale.float()).round().clamp(-8, 7) for scale in scales]
    errors = [(v * s - groups).square().sum(1) for v, s in zip(values, scales, strict=True)]
    best = torch.stack(errors).argmin(0)
    group = torch.arange(len(groups))
    nibbles = (torch.stack(values)[best, group] + 8).to(torch.uint8)
    return nibbles[:, 0::2] | nibbles[:, 1::2] << 4, torch.stack(scales)[best, group, 0]


def _from_4_bits(values: Tensor, scale: Tensor, shape: list[int]) -> Tensor:
    """What `_to_4_bits` made -> float32 of a shape.

    Raises:
        ValueError: the parts do not fit together.
    """
    count, groups = math.prod(shape), len(scale)
    if values.shape != (groups, _GROUP // 2) or values.dtype != torch.uint8 or -(-count // _GROUP) != groups:
        raise ValueError(f"{list(values.shape)} bytes and {groups} scales are no matrix {shape}")
    byte = torch.arange(256)
    pairs = torch.complex((byte & 15) - 8.0, (byte >> 4) - 8.0)  # of values: one look-up for both
    t = torch.view_as_real(pairs.index_select(0, values.flatten().int())).view(groups, _GROUP)
    return t.mul_(scale[:, None]).flatten()[:count].view(shape)


class _WithoutInitialValues(TorchFunctionMode):
    """`torch.nn.init` leaves the memory of modules made inside as it is: weights will replace it.

    Random numbers take several times as long as reading weights. (Modules on the device "meta" take none
    either, but the first of a process costs more than a second of imports.)
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def load_network(folder: Path, name: str, make: Callable[[dict[str, Any]], Network]) -> Network:
    """A network of a folder of weights, in float32.

    Args:
        folder: with `config.json` and `<name>.safetensors`.
        name: of the network.
        make: the network of its part of `config.json`; its state dict is all that it holds.

    Raises:
        V3DError: a file is missing, damaged or does not fit its configuration.
    """
    try:
        sizes = read_json(folder / "config.json")[name]
        with _WithoutInitialValues():
            network = make(sizes)
        state = load_weights(folder / f"{name}.safetensors")
        network.load_state_dict({k: t.float() for k, t in state.items()}, assign=True)
    except Exception as error:  # broken files and sizes that make no network fail in every imaginable way
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
