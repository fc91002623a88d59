"""Memory that `v3d train svd` needs, estimated from parameter counts and tensor shapes alone.

    python benchmarks/svd_memory.py    # two minutes, any machine

Weights: per trained parameter 24 bytes (float32 weight, average, two moments and gradient; bfloat16 copy and
its gradient), per frozen one 2. Activations of one orbit in bfloat16: inputs of all blocks, and what the
largest block keeps while it is recomputed. Attention is torch's plain one here, which keeps the matrix of
weights; flash attention does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from v3d.cameras import ORBIT_VIEWS
from v3d.diffusion.official.networks import unet_network
from v3d.diffusion.svd import use_single_token_attention
from v3d.training.tasks.svd import is_temporal

BLOCKS = ("SpatioTemporalResBlock", "TransformerSpatioTemporalModel")
TRAINED, FROZEN = 24, 2


class Kept:
    """Bytes of distinct tensors that the backward pass needs, for each block and (None) outside of blocks."""

    def __init__(self, unet: nn.Module) -> None:
        self.parameters = {p.untyped_storage()._cdata for p in unet.parameters()}
        self.storages: dict[nn.Module | None, dict[int, Any]] = {None: {}}
        self.block: nn.Module | None = None
        for module in unet.modules():
            if type(module).__name__ in BLOCKS:
                module.register_forward_pre_hook(self._enter, with_kwargs=True)
                module.register_forward_hook(self._leave)

    def _enter(self, block: nn.Module, args: tuple, kwargs: dict) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                self.keep(value)
        self.block = block

    def _leave(self, block: nn.Module, args: tuple, output: Any) -> None:
        self.block = None

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage once, unless it is a parameter's; returns the tensor."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.parameters:
            self.storages.setdefault(self.block, {})[storage._cdata] = storage
        return tensor

    def gigabytes(self) -> dict[nn.Module | None, float]:
        """GB of each block, and (None) outside of blocks."""
        return {b: sum(s.nbytes() for s in kept.values()) / 1e9 for b, kept in self.storages.items()}


def activations(size: int) -> tuple[float, float]:
    """GB kept for one orbit: between blocks, and in the largest block."""
    unet = unet_network({}).to(torch.bfloat16).requires_grad_(True).to("meta")
    use_single_token_attention(unet)
    kept = Kept(unet)
    x = torch.empty(1, ORBIT_VIEWS, 8, size // 8, size // 8, dtype=torch.bfloat16, device="meta")
    context = torch.empty(1, 1, 1024, dtype=torch.bfloat16, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        unet(x, torch.empty(1, device="meta"), context, torch.empty(1, 3, device="meta"))
    found = kept.gigabytes()
    return found.pop(None), max(found.values())


def main() -> None:
    """Print a table of what trains and how much memory that takes."""
    counts = {name: p.numel() for name, p in unet_network({}).named_parameters()}
    total, temporal = sum(counts.values()), sum(n for name, n in counts.items() if is_temporal(name))
    print(f"{total / 1e6:.0f}M parameters, {temporal / 1e6:.0f}M of them temporal\n")
    weights = {
        "all": TRAINED * total / 1e9,
        "temporal": (TRAINED * temporal + FROZEN * (total - temporal)) / 1e9,
    }
    print("| --layers | --size | weights and optimiser | between blocks | largest block | sum, GB |")
    print("|---|---|---|---|---|---|")
    for size in (512, 256):
        between, largest = activations(size)
        for layers, state in weights.items():
            whole = state + between + largest
            print(f"| {layers} | {size} | {state:.1f} | {between:.1f} | {largest:.1f} | {whole:.0f} |")


if __name__ == "__main__":
    main()
