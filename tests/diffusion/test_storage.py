"""Weights on disk: what 8 bits cost, and that files of other makers load."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from v3d.weights.storage import load_weights, save_weights


def test_every_row_comes_back_to_half_a_step_of_its_own_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(96, 64), nn.Conv2d(64, 16, 3), nn.LayerNorm(8))
    with torch.no_grad():
        net[0].weight *= torch.logspace(-4, 2, 64)[:, None]
        net[0].weight[5] = 0
    save_weights(net, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == net.state_dict().keys()
    for name in ("0.weight", "1.weight"):
        true, got = net.state_dict()[name].flatten(1), loaded[name].flatten(1)
        step = true.abs().amax(1, keepdim=True) / 127
        assert bool(((got - true).abs() <= 0.51 * step + 1e-3 * true.abs() + 1e-7).all())
    torch.testing.assert_close(loaded["0.bias"].float(), net[0].bias.data, atol=1e-3, rtol=1e-3)
    assert (tmp_path / "w.safetensors").stat().st_size < 0.6 * 2 * sum(p.numel() for p in net.parameters())
    net.load_state_dict(loaded)


def test_plain_files_load_as_they_are(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).half(), "b": torch.arange(3)}
    save_file(tensors, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
