"""Muon (Jordan et al. 2024): steps of orthogonal matrices, those of one shape computed together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

_A, _B, _C = 3.4445, -4.7750, 2.0315  # of the quintic polynomial that drives singular values towards 1
_ITERATIONS = 5
_EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon for matrices, with Nesterov momentum, decoupled weight decay, and steps as large as AdamW's.

    What `torch.optim.Muon` computes with `adjust_lr_fn="match_rms_adamw"` (Liu et al. 2025, "Moonlight"), but
    the matrices of one shape are orthogonalised as one batch: a transformer's dozens of small products become
    a few large ones. Its state is that of `torch.optim.Muon`.
    """

    def __init__(self, params: ParamsT, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        """Train `params`, matrices all, or groups of them as every optimiser of torch takes them."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient; `closure` is not supported and must be None."""
        assert closure is None
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for matrices in shapes.values():
                self._move(matrices, group)

    def _move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """One step of matrices of one shape."""
        momentum, rate = group["momentum"], group["lr"]
        gradients = [p.grad for p in matrices if p.grad is not None]
        for p in matrices:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers: list[Tensor] = [self.state[p]["momentum_buffer"] for p in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        directions = orthogonalised(torch.stack(torch._foreach_lerp(gradients, buffers, momentum)))
        step = rate * 0.2 * math.sqrt(max(matrices[0].shape))
        torch._foreach_mul_(matrices, 1 - rate * group["weight_decay"])
        torch._foreach_add_(matrices, list(directions.to(matrices[0].dtype)), alpha=-step)


def orthogonalised(matrices: Tensor) -> Tensor:
    """[N, A, B] -> the nearest semi-orthogonal matrices, roughly: singular values become 0.7 to 1.2.

    Newton-Schulz iterations in bfloat16, each a few products of the whole batch.
    """
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(_EPSILON)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x
