from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from v3d.errors import V3DError
from v3d.networks.perceptual import Perceptual, alexnet, find_vgg16, vgg16


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 16, 3, 2, 1)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        a = self.first(x).tanh()
        return [a, self.second(a)]


@pytest.fixture
def small() -> Perceptual:
    return Perceptual("small", SmallNet())


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under torchvision's names, with a classifier that must be ignored."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**vgg16().state_dict(), "classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


def photos(views: int = 3, size: tuple[int, int] = (32, 32), seed: int = 0) -> torch.Tensor:
    return torch.rand(views, *size, 3, generator=torch.Generator().manual_seed(seed))


def test_distance_to_itself_is_zero_and_grows_with_the_change(small: Perceptual):
    x = photos()
    targets = small.prepare(x)
    assert len(targets) == 3 and [t.shape for t in targets[0]] == [(8, 16, 16), (16, 8, 8)]
    assert float(small(x, targets)) == pytest.approx(0, abs=1e-6)
    noise = photos(seed=1) - 0.5
    steps = [float(small((x + s * noise).clamp(0, 1), targets)) for s in (0.05, 0.2, 0.8)]
    assert steps == sorted(steps) and steps[0] > 0


def test_distance_is_the_papers_formula(small: Perceptual):
    x, y = photos(1), photos(1, seed=1)
    expected = torch.zeros(())
    for f, g in zip(small.network(x.permute(0, 3, 1, 2)), small.network(y.permute(0, 3, 1, 2)), strict=True):
        expected = expected + (F.normalize(f, dim=1) - F.normalize(g, dim=1)).square().sum(1).mean()
    torch.testing.assert_close(small(x, small.prepare(y)), expected)


def test_views_are_independent_and_may_be_chosen_one_by_one(small: Perceptual):
    x, y = photos(), photos(seed=1)
    targets = small.prepare(y)
    each = small.distances(x, targets)
    torch.testing.assert_close(small(x, targets), each.mean())
    torch.testing.assert_close(small(x[[2, 0]], [targets[2], targets[0]]), each[[2, 0]].mean())


def test_gradient_agrees_with_finite_differences():
    perceptual = Perceptual("small", SmallNet().double())
    x, targets = (
        photos(1, (8, 8)).double().requires_grad_(),
        perceptual.prepare(photos(1, (8, 8), 1).double()),
    )
    assert torch.autograd.gradcheck(lambda a: perceptual(a, targets), x)


def test_sizes_that_are_no_multiple_of_the_stride_are_padded(small: Perceptual):
    x, y = photos(1, (27, 30)), photos(1, (27, 30), 1)
    targets = small.prepare(y)
    assert [t.shape for t in targets[0]] == [(8, 16, 16), (16, 8, 8)]
    pad = lambda a: F.pad(a, (0, 0, 0, 2, 0, 5), value=1.0)  # noqa: E731
    torch.testing.assert_close(small(x, targets), small(pad(x), small.prepare(pad(y))))


def test_vgg16_is_torchvisions_layer_by_layer():
    state = vgg16().features.state_dict()
    layers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert list(state) == [f"{l}.{p}" for l in layers for p in ("weight", "bias")]
    assert sum(p.numel() for p in state.values()) == 14_714_688  # torchvision's vgg16().features
    maps = vgg16()(torch.rand(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 2, 2),
    ]
    assert all((m >= 0).all() for m in maps)


def test_alexnet_is_torchvisions_layer_by_layer():
    state = alexnet().features.state_dict()
    assert list(state) == [f"{l}.{p}" for l in (0, 3, 6, 8, 10) for p in ("weight", "bias")]
    assert sum(p.numel() for p in state.values()) == 2_469_696  # torchvision's alexnet().features
    maps = alexnet()(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 15, 15),
        (192, 7, 7),
        (384, 3, 3),
        (256, 3, 3),
        (256, 3, 3),
    ]


def test_the_shipped_network_measures_the_published_distances():
    """The example of LPIPS's repository: 0.722 and 0.138 with AlexNet. A part of ours is stored in 8 bits."""
    folder = Path(__file__).parents[1] / "files/lpips"
    ref, p0, p1 = (
        torch.from_numpy(np.array(Image.open(folder / f"ex_{name}.png").convert("RGB")))[None] / 255
        for name in ("ref", "p0", "p1")
    )
    lpips = Perceptual.load("lpips")
    assert lpips.name == "lpips-alex"
    distances = lpips.distances(torch.cat([p0, p1]), lpips.prepare(torch.cat([ref, ref])))
    assert distances.tolist() == pytest.approx([0.722, 0.138], abs=1.5e-3)


def test_the_gradient_is_finite_where_every_feature_is_silent(vgg16_file: Path):
    perceptual = Perceptual.load("vgg", vgg16=vgg16_file)
    for parameter in perceptual.network.features.parameters():  # type: ignore[attr-defined]
        parameter.data.abs_().neg_()
    x = torch.ones(1, 16, 16, 3, requires_grad=True)
    perceptual(x, perceptual.prepare(photos(1, (16, 16)))).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_the_search_prefers_a_named_path_then_the_variable_then_the_cache(
    tmp_path: Path, vgg16_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("V3D_VGG16", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert find_vgg16() is None
    (tmp_path / "checkpoints").mkdir()
    cached = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    cached.write_bytes(b"x")
    assert find_vgg16() == cached
    monkeypatch.setenv("V3D_VGG16", str(vgg16_file))
    assert find_vgg16() == vgg16_file
    assert find_vgg16(cached) == cached


def test_missing_and_wrong_files_give_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg16_file: Path
):
    monkeypatch.delenv("V3D_VGG16", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(V3DError, match="V3D_VGG16"):
        Perceptual.load("vgg")
    with pytest.raises(V3DError, match="no VGG16 weight file"):
        Perceptual.load("vgg", vgg16=tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(V3DError, match="cannot be read"):
        Perceptual.load("vgg", vgg16=tmp_path / "text.pth")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(V3DError, match="does not hold"):
        Perceptual.load("vgg", vgg16=tmp_path / "other.pth")


def test_small_pictures_are_measured_on_a_white_margin():
    lpips, x, y = Perceptual.load("lpips"), photos(1, (9, 16)), photos(1, (9, 16), 1)
    margin = lambda a: F.pad(a, (0, 0, 0, 16, 0, 23), value=1.0)  # noqa: E731
    torch.testing.assert_close(lpips(x, lpips.prepare(y)), lpips(margin(x), lpips.prepare(margin(y))))
    assert float(lpips(x, lpips.prepare(y))) > 0


@pytest.mark.parametrize("kind", ["lpips", "vae"])
def test_the_networks_that_ship_have_gradients(kind: Literal["lpips", "vae"]):
    perceptual = Perceptual.load(kind)
    x = photos(2, (36, 42)).requires_grad_()
    targets = perceptual.prepare(photos(2, (36, 42), 1))
    perceptual(x, targets).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    assert float(perceptual(x.detach(), perceptual.prepare(x.detach()))) == pytest.approx(0, abs=1e-5)
