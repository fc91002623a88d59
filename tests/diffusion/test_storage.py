"""Weights on disk: what 8 and 4 bits cost, that other makers' files load, that damage is one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from v3d.errors import V3DError
from v3d.networks.pixelnerf import PixelNeRF, load_pixelnerf
from v3d.weights import IMAGENET, MINI, MINI_SCENE
from v3d.weights.storage import load_network, load_weights, save_weights


def test_every_row_comes_back_to_half_a_step_of_its_own_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(96, 64), nn.Conv2d(64, 16, 3), nn.LayerNorm(8), nn.Linear(512, 256))
    with torch.no_grad():
        net[0].weight *= torch.logspace(-4, 2, 64)[:, None]
        net[0].weight[5] = 0
    save_weights(net, tmp_path / "w.safetensors")  # 8 bits unless more is asked, the largest matrix as well
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == net.state_dict().keys()
    for name in ("0.weight", "1.weight", "3.weight"):
        true, got = net.state_dict()[name].flatten(1), loaded[name].flatten(1)
        step = true.abs().amax(1, keepdim=True) / 127
        assert bool(((got - true).abs() <= 0.51 * step + 1e-3 * true.abs() + 1e-7).all())
    torch.testing.assert_close(loaded["0.bias"].float(), net[0].bias.data, atol=1e-3, rtol=1e-3)
    assert (tmp_path / "w.safetensors").stat().st_size < 0.6 * 2 * sum(p.numel() for p in net.parameters())
    net.load_state_dict(loaded)


@pytest.mark.parametrize("shape", [(256, 256), (257, 263), (70_001, 1), (96, 78, 3, 3)])
def test_4_bits_come_back_to_half_a_step_of_a_groups_scale(tmp_path: Path, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(shape, generator=generator)
    t *= torch.logspace(-4, 2, len(t)).view(-1, *[1] * (t.ndim - 1))
    t[3] = 0
    small = torch.randn(100, 100, generator=generator)
    save_weights({"w": t, "small": small, "bias": t.flatten()[:9]}, tmp_path / "w.safetensors", bits=4)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == {"w", "small", "bias"} and loaded["w"].shape == shape
    assert loaded["w"].dtype == torch.float32

    def groups(x: Tensor) -> Tensor:
        return nn.functional.pad(x.flatten(), (0, -x.numel() % 64)).view(-1, 64)

    error, true = groups(loaded["w"] - t), groups(t)
    largest = true.abs().amax(1, keepdim=True)
    # Half a step of the chosen scale; the scale of .78 cuts the largest values by as much as 22 %.
    assert bool((error.abs() <= 0.221 * largest + 1e-4).all())
    plain = (largest / 7).clamp_min(2**-24).half().float()
    rounded = ((true / plain).round().clamp(-8, 7) * plain - true).square().sum(1)
    squared = error.square().sum(1)
    assert bool((squared <= 1.001 * rounded).all())  # never worse than the plain scale, and mostly better
    assert float(squared.mean()) < 0.9 * float(rounded.mean())
    row = (small.abs().amax(1, keepdim=True)) / 127
    assert bool(((loaded["small"] - small).abs() <= 0.51 * row).all())  # smaller matrices: 8 bits
    size = (tmp_path / "w.safetensors").stat().st_size
    assert size < 0.54 * t.numel() + small.numel() + 2500


def test_networks_load_from_4_bits_and_from_8(tmp_path: Path) -> None:
    def make(config: dict[str, int]) -> nn.Module:
        return nn.Sequential(nn.Linear(config["width"], 256), nn.LayerNorm(256))

    torch.manual_seed(0)
    net = make({"width": 300})
    (tmp_path / "config.json").write_text(json.dumps({"net": {"width": 300}}))
    sizes = []
    for bits, bound in ((8, 0.005), (4, 0.1)):
        save_weights(net, tmp_path / "net.safetensors", bits=bits)
        sizes.append((tmp_path / "net.safetensors").stat().st_size)
        loaded = load_network(tmp_path, "net", make)
        for name, true in net.state_dict().items():
            got = loaded.state_dict()[name]
            assert got.dtype == torch.float32 and got.device.type == "cpu"
            assert float((got - true).norm()) <= bound * float(true.norm()), name
        assert all(p.requires_grad for p in loaded.parameters())
    assert sizes[1] < 0.56 * sizes[0]


def test_plain_files_load_as_they_are(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).half(), "b": torch.arange(3)}
    save_file(tensors, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


DAMAGES: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "a group is missing": lambda t: t.update({"weight": t["weight"][1:]}),
    "scales are missing": lambda t: t.update({"weight.scale": t["weight.scale"][1:]}),
    "a scale is no number": lambda t: t["weight.scale"][7:8].fill_(float("nan")),
    "the shape is another": lambda t: t["weight.shape"].copy_(torch.tensor([300, 100])),
    "the shape is negative": lambda t: t["weight.shape"].copy_(torch.tensor([-300, -256])),
    "the shape is huge": lambda t: t["weight.shape"].copy_(torch.tensor([1 << 40, 1 << 40])),
    "the values are missing": lambda t: t.pop("weight"),
    "the scales stand alone": lambda t: (t.pop("weight"), t.pop("weight.shape")),
    "the values are of another kind": lambda t: t.update({"weight": t["weight"].float()}),
    "the scales of rows are too few": lambda t: (t.pop("weight.shape"), t.pop("bias")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_one_sentence(tmp_path: Path, damage: str) -> None:
    def make(config: dict[str, int]) -> nn.Module:
        return nn.Linear(300, 256)

    (tmp_path / "config.json").write_text('{"net": {}}')
    file = tmp_path / "net.safetensors"
    save_weights(make({}), file, bits=4)
    tensors = load_file(file)
    DAMAGES[damage](tensors)
    save_file({k: t.contiguous() for k, t in tensors.items()}, file)
    with pytest.raises(V3DError, match=r"^[^\n]*holds no usable weights \([^\n]*\); [^\n]*\.$"):
        load_network(tmp_path, "net", make)


def test_a_file_that_was_cut_short_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"net": {}}')
    file = tmp_path / "net.safetensors"
    save_weights(nn.Linear(300, 256), file, bits=4)
    whole = file.read_bytes()
    for length in (0, 5, 100, 20_000):
        file.write_bytes(whole[:length])
        with pytest.raises(V3DError, match="holds no usable weights"):
            load_network(tmp_path, "net", lambda config: nn.Linear(300, 256))


def test_weights_of_the_package_are_small_and_load_fast() -> None:
    """Reading the largest network takes less time than to fill a new one with random numbers."""
    files = [path for folder in (MINI, MINI_SCENE, IMAGENET) for path in folder.glob("*.safetensors")]
    assert sum(path.stat().st_size for path in files) < 60e6
    network = load_pixelnerf()
    assert sum(p.numel() for p in network.parameters()) == 42_825_669
    new, loaded = [], []
    for _ in range(2):
        start = time.process_time()
        PixelNeRF(network.config)
        new.append(time.process_time() - start)
        start = time.process_time()
        load_pixelnerf()
        loaded.append(time.process_time() - start)
    assert min(loaded) < min(new)


def test_the_script_packs_a_network_and_its_sizes(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    target.mkdir()
    net = nn.Linear(300, 256)
    save_weights(net, source / "net.safetensors")
    (source / "config.json").write_text('{"net": {"width": 300}, "other": 1}')
    (target / "config.json").write_text('{"net": {"width": 1}, "kept": 2}')
    script = Path(__file__).parents[2] / "scripts/pack_weights.py"
    subprocess.run([sys.executable, script, source, "net", target], check=True)
    assert json.loads((target / "config.json").read_text()) == {"net": {"width": 300}, "kept": 2}
    got = load_weights(target / "net.safetensors")["weight"]
    assert float((got - net.weight.data).norm()) < 0.1 * float(net.weight.data.norm())
    assert (target / "net.safetensors").stat().st_size < 0.6 * (source / "net.safetensors").stat().st_size
