"""LPIPS against torchmetrics' implementation of it, with the linear heads that were published and a VGG16 of
random weights in torchvision's layout (its trained weights are not at hand everywhere; the arithmetic is the same)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from v3d.cli import main
from v3d.evaluation.generate import orbit_scores
from v3d.evaluation.objects import TestObject
from v3d.evaluation.protocol import RECONSTRUCTION
from v3d.mesh import Mesh
from v3d.perceptual import Perceptual
from v3d.views import Views, save_views

lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
HEADS = Path(lpips.__file__).parent / "lpips_models/vgg.pth"


def torchvision_layout() -> nn.Sequential:
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
    state = {f"features.{k}": v for k, v in torchvision_layout().state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "vgg16-397923af.pth"
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """torchmetrics' LPIPS; only where it asks torchvision for a network, ours is handed over."""
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda name, pretrained: torchvision_layout())
    network: nn.Module = lpips._LPIPS(pretrained=True, net="vgg", pnet_rand=True)
    return network


def photos(seed: int) -> Tensor:
    x = torch.rand(2, 6, 8, 3, generator=torch.Generator().manual_seed(seed)).permute(0, 3, 1, 2)
    return nn.functional.interpolate(x, (48, 64), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)


def test_lpips_is_torchmetrics(reference: nn.Module, vgg16_file: Path):
    ours = Perceptual.load("lpips", vgg16=vgg16_file, heads=HEADS)
    assert ours.name == "lpips-vgg16"
    a, b = photos(0), photos(1)
    expected = reference(a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2), normalize=True).flatten()
    distances = ours.distances(a, ours.prepare(b))
    assert float(expected.min()) > 1e-3 and float(expected.diff()) != 0
    torch.testing.assert_close(distances, expected, atol=1e-5, rtol=1e-4)
    unit = Perceptual.load("lpips", vgg16=vgg16_file)  # without heads it is another distance, by another name
    assert unit.name != ours.name
    assert (unit.distances(a, unit.prepare(b)) - expected).abs().min() > 1e-3


def test_evaluation_reports_lpips_where_its_weights_are(
    meshes: dict[str, Mesh],
    vgg16_file: Path,
    reference: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("V3D_VGG16", str(vgg16_file))
    monkeypatch.setenv("V3D_LPIPS", str(HEADS))
    protocol = replace(RECONSTRUCTION, size=32, views=4, supersample=1)
    truth = protocol.true_orbit(TestObject("ball", meshes["ball"], False, False))
    wrong = Views(truth.rgb.flip(2), truth.alpha, truth.cameras)
    save_views(truth, tmp_path / "truth")
    save_views(wrong, tmp_path / "wrong")
    arguments = [str(tmp_path / name) for name in ("wrong", "truth", "out")]
    options = ["--views", arguments[0], "--truth", arguments[1], "--out", arguments[2]]
    assert main(["evaluate", "views", *options, "--perceptual", "lpips"]) == 0
    scores = json.loads((tmp_path / "out/report.json").read_text())["objects"][0]["scores"]
    for i in range(4):
        pair = (v.rgb[i : i + 1].permute(0, 3, 1, 2) for v in (wrong, truth))
        expected = float(reference(*pair, normalize=True))
        assert scores[f"view {i:03d}"]["lpips-vgg16"] == pytest.approx(expected, abs=2e-3)  # 8 bits on disk
    network = Perceptual.load("lpips")
    assert orbit_scores(wrong, truth, network)["lpips-vgg16"] > 0
    assert orbit_scores(truth, truth, network)["back.lpips-vgg16"] == pytest.approx(0, abs=1e-6)
