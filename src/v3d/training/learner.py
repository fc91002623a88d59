"""A network in training: its weights, the copy that computes, their average, and the optimisers.

Weights are float32; the arithmetic runs on a copy of them, in bfloat16 where the machine is fast at it.
Frozen weights (`requires_grad` off) exist once, in the precision of the arithmetic.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from v3d.training.muon import Muon
from v3d.training.recipe import Recipe


class Learner:
    """Takes steps with gradients that were computed on a copy of the weights.

    Attributes:
        network: the weights, float32.
        compute: the copy that computes, to be given to the task; compiled where the recipe says so.
        average: moving average of the weights, which is validated and exported.
        optimizers: of the weights.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, precision: torch.dtype) -> None:
        """Copy the network.

        Args:
            network: float32; it is changed in place by every step.
            recipe: says how steps are made.
            precision: of the arithmetic.
        """
        frozen = {id(p): p for p in network.parameters() if not p.requires_grad}  # shared by the copies
        self.network = network
        self._recipe = recipe
        self._copy = copy.deepcopy(network, dict(frozen)).to(precision)
        self.compute: nn.Module = torch.compile(self._copy) if recipe.compile else self._copy  # type: ignore[assignment]
        self.average = copy.deepcopy(network, dict(frozen)).requires_grad_(False)
        self._trained = [p for p in network.parameters() if p.requires_grad]
        self.optimizers = make_optimizers(network, recipe)
        self.refresh_copy()

    @property
    def rate(self) -> float:
        """The recipe's learning rate as it was in the last step."""
        return float(self.optimizers[-1].param_groups[0]["lr"])

    @torch.no_grad()
    def refresh_copy(self) -> None:
        """Bring the copy that computes up to the weights."""
        torch._foreach_copy_(list(self._copy.parameters()), list(self.network.parameters()))

    def zero_gradients(self) -> list[Tensor]:
        """Float32 zeros, one for each trained tensor, to collect gradients in."""
        return [torch.zeros_like(p) for p in self._trained]

    def collect_gradients(self, gradients: list[Tensor]) -> None:
        """Add the copy's gradients to `gradients`, in float32, and clear them."""
        trained = (p for p in self._copy.parameters() if p.requires_grad)
        for p, total in zip(trained, gradients, strict=True):
            if p.grad is not None:
                total += p.grad
                p.grad = None

    def step(self, gradients: list[Tensor], number: int, done: float) -> bool:
        """Take step `number`, `done` in [0, 1] of the way; returns False where it was skipped.

        A step whose gradient is not finite is skipped: one bad batch must not spoil the weights for good.
        Weights, moments and average must then stay as they are to the last bit, which no masking on the
        device gives (Muon's momentum and weight decay move with a gradient of zero, too). So the host
        decides, which makes this the one place of a step where it waits for the device.
        """
        rate = self._recipe.learning_rate * schedule(self._recipe, number, done)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
        for p, gradient in zip(self._trained, gradients, strict=True):
            p.grad = gradient
        norm = nn.utils.clip_grad_norm_(self._trained, self._recipe.clip)
        if not norm.isfinite():
            return False
        for optimizer in self.optimizers:
            optimizer.step()
        self.refresh_copy()
        self._update_average(min(self._recipe.ema, (1 + number) / (10 + number)))
        return True

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        """average <- decay * average + (1 - decay) * weights."""
        average: list[Tensor] = list(self.average.parameters())
        weights: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(average, weights, 1 - decay)


def make_optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon (steps of orthogonal matrices) for the matrices of transformer blocks.

    AdamW's learning rate is `adamw_factor` of Muon's.
    """

    def is_hidden_matrix(name: str, p: Tensor) -> bool:
        return name.startswith("blocks.") and p.ndim == 2 and not name.endswith("modulation")

    muon = recipe.optimizer == "muon"
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if muon and is_hidden_matrix(name, p)]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in trained if id(p) not in chosen]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    groups = [{"params": rest, "factor": recipe.adamw_factor if matrices else 1.0}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, recipe.beta2), weight_decay=decay, fused=True)
    ]
    if matrices:
        optimizers.append(Muon([{"params": matrices, "factor": 1.0}], lr=rate, weight_decay=decay))
    return optimizers


def schedule(recipe: Recipe, step: int, done: float) -> float:
    """The learning rate as a fraction of its largest: it rises, stands, and falls linearly to 0.02.

    Args:
        recipe: its `warmup` and `flat` say when.
        step: number of the step, from 0.
        done: in [0, 1] of the way.
    """
    fall = 1.0 if done < recipe.flat else max(0.02, (1 - done) / (1 - recipe.flat))
    return min(1.0, (step + 1) / max(1, recipe.warmup)) * fall
