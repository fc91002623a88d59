"""Muon of matrices together is Muon of each alone, and what torch computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from v3d.training.learner import Learner
from v3d.training.muon import Muon, orthogonalised
from v3d.training.recipe import VideoRecipe

SHAPES = [(8, 24), (24, 8), (8, 24), (16, 16), (8, 24), (24, 8)]


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) * 10.0 ** (i - 3) for i, shape in enumerate(SHAPES)]


def trained(optimizers: list[torch.optim.Optimizer], matrices: list[nn.Parameter]) -> list[torch.Tensor]:
    for step in range(3):
        for p, gradient in zip(matrices, gradients(step), strict=True):
            p.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach() for p in matrices]


def begun() -> list[nn.Parameter]:
    return [nn.Parameter(x) for x in gradients(99)]


def test_matrices_together_move_as_each_alone() -> None:
    many, single = begun(), begun()
    together = trained([Muon(many, lr=0.02, weight_decay=0.1)], many)
    alone = trained([Muon([p], lr=0.02, weight_decay=0.1) for p in single], single)
    for a, b, start in zip(together, alone, gradients(99), strict=True):
        assert float((a - b).norm()) < 0.01 * float((b - start).norm())  # bfloat16: sums in another order


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_it_is_torch_s_muon_with_the_same_state() -> None:
    ours, theirs = begun(), begun()
    mine = Muon(ours, lr=0.02, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for a, b, start in zip(trained([mine], ours), trained([reference], theirs), gradients(99), strict=True):
        assert float((a - b).norm()) < 0.01 * float((b - start).norm())
    a, b = mine.state_dict()["state"], reference.state_dict()["state"]
    assert a.keys() == b.keys()
    for i in a:
        torch.testing.assert_close(a[i]["momentum_buffer"], b[i]["momentum_buffer"])


def test_directions_are_nearly_orthogonal_whatever_the_scale() -> None:
    x = (
        torch.randn(3, 12, 30, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-6, 1, 1e6])[:, None, None]
    )
    for y in (orthogonalised(x), orthogonalised(x.mT)):
        values = torch.linalg.svdvals(y.float())
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    assert bool((orthogonalised(torch.zeros(1, 4, 4)) == 0).all())


def test_matrices_without_a_gradient_stay() -> None:
    matrices = begun()
    optimizer = Muon(matrices, lr=0.02, weight_decay=0.1)
    matrices[0].grad = gradients(0)[0]
    optimizer.step()
    moved = [not torch.equal(p, q) for p, q in zip(matrices, begun(), strict=True)]
    assert moved == [True, False, False, False, False, False]


def test_adamw_s_rate_beside_muon_s_is_the_stated_part_of_it() -> None:
    network = nn.Module()
    network.blocks = nn.ModuleList([nn.Linear(8, 8)])
    for optimizer, wanted in (("muon", [0.05, 0.1]), ("adamw", [0.1])):
        recipe = VideoRecipe(optimizer=optimizer, learning_rate=0.1, adamw_factor=0.5, warmup=1)  # type: ignore[arg-type]
        learner = Learner(network, recipe, torch.float32)
        learner.step(learner.zero_gradients(), 0, 0.0)
        assert [o.param_groups[0]["lr"] for o in learner.optimizers] == pytest.approx(wanted)
        assert learner.rate == pytest.approx(0.1)
