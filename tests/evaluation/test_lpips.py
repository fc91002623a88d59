"""LPIPS against torchmetrics' implementation of it: AlexNet with the weights that ship, VGG16 with random
ones in torchvision's layout (its trained weights are not at hand everywhere; the arithmetic is the same)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from v3d.cli import main
from v3d.evaluation.generation import orbit_scores
from v3d.evaluation.protocol import RECONSTRUCTION
from v3d.evaluation.testset import TestObject
from v3d.meshes.mesh import Mesh
from v3d.networks.perceptual import Perceptual
from v3d.settings import PerceptualNetwork
from v3d.views import Views, save_views
from v3d.weights import IMAGENET
from v3d.weights.storage import load_weights

lpips = pytest.importorskip("torchmetrics.functional.image.lpips")


def torchvision_alexnet() -> nn.Sequential:
    """`torchvision.models.alexnet().features`, as its documentation lays it out, with the weights that
    ship.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
    ]
    features = nn.Sequential(*layers)
    state = load_weights(IMAGENET / "lpips_alexnet.safetensors")
    features.load_state_dict(
        {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    )
    return features


def torchvision_vgg16() -> nn.Sequential:
    """`torchvision.models.vgg16().features`, as its documentation lays it out."""
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    channels = 3
    for widths in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for width in widths:
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = {f"features.{k}": v for k, v in torchvision_vgg16().state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "vgg16-397923af.pth"
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


def reference(kind: PerceptualNetwork, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """torchmetrics' LPIPS; only where it asks torchvision for a network, ours is handed over."""
    layout = torchvision_vgg16 if kind == "vgg" else torchvision_alexnet
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda name, pretrained: layout())
    network: nn.Module = lpips._LPIPS(pretrained=True, net="vgg" if kind == "vgg" else "alex", pnet_rand=True)
    return network


def photos(seed: int) -> Tensor:
    x = torch.rand(2, 6, 8, 3, generator=torch.Generator().manual_seed(seed)).permute(0, 3, 1, 2)
    return nn.functional.interpolate(x, (48, 64), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)


@pytest.mark.parametrize("kind", ["lpips", "vgg"])
def test_lpips_is_torchmetrics(
    kind: PerceptualNetwork, vgg16_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = Perceptual.load(kind, vgg16=vgg16_file), reference(kind, monkeypatch)
    a, b = photos(0), photos(1)
    expected = theirs(a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2), normalize=True).flatten()
    distances = ours.distances(a, ours.prepare(b))
    assert float(expected.min()) > 1e-3 and float(expected.diff()) != 0
    torch.testing.assert_close(distances, expected, atol=1e-5, rtol=1e-4)


def test_evaluation_reports_lpips(
    meshes: dict[str, Mesh], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = reference("lpips", monkeypatch)
    protocol = replace(RECONSTRUCTION, size=32, views=4, supersample=1)
    truth = protocol.true_orbit(TestObject("ball", meshes["ball"], False, False))
    wrong = Views(truth.rgb.flip(2), truth.alpha, truth.cameras)
    save_views(truth, tmp_path / "truth")
    save_views(wrong, tmp_path / "wrong")
    arguments = [str(tmp_path / name) for name in ("wrong", "truth", "out")]
    options = ["--views", arguments[0], "--truth", arguments[1], "--out", arguments[2]]
    assert main(["evaluate", "views", *options]) == 0
    scores = json.loads((tmp_path / "out/report.json").read_text())["objects"][0]["scores"]
    for i in range(4):
        pair = (v.rgb[i : i + 1].permute(0, 3, 1, 2) for v in (wrong, truth))
        expected = float(theirs(*pair, normalize=True))
        assert scores[f"view {i:03d}"]["lpips-alex"] == pytest.approx(expected, abs=2e-3)  # 8 bits on disk
    network = Perceptual.load("lpips")
    assert orbit_scores(wrong, truth, network)["lpips-alex"] > 0
    assert orbit_scores(truth, truth, network)["back.lpips-alex"] == pytest.approx(0, abs=1e-6)
