"""A CUDA device that is not there: tensors that say they are on "cuda", and are computed on the CPU.

What would stop a program on a real device stops it here: tensors of two devices in one operation, and NumPy's
view of a tensor on the device. (Memory, speed and the device's own kernels cannot be tested so.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")
# Indices may be on the CPU, as may numbers (tensors without axes) and what is copied.
MIXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::copy_")
NUMPY = (Tensor.numpy, Tensor.__array__)
NUMBERS = (Tensor.tolist, Tensor.item, Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.__index__)
# Torch's bindings of these look for the device itself before they dispatch.
GUARDED = (
    Tensor.__getitem__, Tensor.__setitem__, Tensor.contiguous, Tensor.float, Tensor.double, Tensor.half,
    Tensor.bfloat16, Tensor.int, Tensor.long, Tensor.bool, Tensor.new_tensor,
    Tensor.nonzero, Tensor.__invert__, torch.where,
)  # fmt: skip
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


class OnCuda(Tensor):
    """A tensor "on" the device.

    Attributes:
        inner: its values, on the CPU.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnCuda:
        tensor: OnCuda = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=CUDA, requires_grad=inner.requires_grad,
        )  # fmt: skip
        tensor.inner = inner
        return tensor

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnCuda({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {}, func._schema.name in MIXING)


def computed(func: Any, args: Any, kwargs: dict[str, Any], mixing: bool = False) -> Any:
    """What a function makes of the values, "on" the device; one given tensor stays itself."""
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    strangers = [t for t in leaves if not isinstance(t, OnCuda) and t.ndim > 0]
    assert mixing or not strangers, f"{func}: tensors on cuda and on the CPU"
    out = func(*tree_map(inner_of, args), **tree_map(inner_of, kwargs))
    given = {id(t.inner): t for t in leaves if isinstance(t, OnCuda)}

    def wrap(x: Any) -> Any:
        return given.get(id(x), OnCuda(x)) if isinstance(x, Tensor) else x

    return tree_map(wrap, out)


def inner_of(x: Any) -> Any:
    """The CPU's tensor of one on the device; anything else as it is."""
    if isinstance(x, OnCuda):
        return x.inner
    return torch.device("cpu") if isinstance(x, torch.device) else x


class PretendCuda(TorchFunctionMode):
    """Makes and moves tensors "on" the device where a program asks for "cuda"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if isinstance(first, OnCuda):
            if func in NUMPY:
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            if func in NUMBERS:
                return func(first.inner)
            if func is Tensor.cpu:
                return first.inner
        elif func is Tensor.__getitem__ and any(isinstance(t, OnCuda) for t in tree_leaves(args[1:])):
            raise TypeError("indices should be on the CPU, as the indexed tensor is")
        if func in GUARDED and any(isinstance(t, OnCuda) for t in tree_leaves((args, kwargs))):
            return computed(func, args, kwargs, mixing=func in INDEXING)
        if func is Tensor.to:
            target, rest = device_of(args[1:], kwargs)
            cuda = isinstance(first, OnCuda) if target is None else target.type == "cuda"
            moved = func(inner_of(first), *rest, **kwargs) if rest or kwargs else inner_of(first)
            if cuda and isinstance(first, OnCuda) and moved is first.inner:
                return first
            return OnCuda(moved) if cuda else moved
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            return OnCuda(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def device_of(args: Any, kwargs: dict[str, Any]) -> tuple[torch.device | None, list[Any]]:
    """The device that arguments of `Tensor.to` name, and those that name none (a type, a layout)."""
    named = [*args, kwargs.pop("device", None)]
    target, rest = None, []
    for x in named:
        if isinstance(x, Tensor):
            target, rest = x.device, [*rest, x.dtype]
        elif isinstance(x, str | torch.device):
            target = torch.device(x)
        elif isinstance(x, torch.dtype | torch.memory_format):
            rest.append(x)
    return target, rest


def on_cuda(network: nn.Module) -> nn.Module:
    """Move a frozen network "to" the device, in place."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnCuda(parameter.data), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnCuda(buffer)
    return network
