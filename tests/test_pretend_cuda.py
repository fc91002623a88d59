"""What runs on a CUDA device keeps its tensors together there, shown on a CPU (`pretend_cuda`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pretend_cuda import CUDA, OnCuda, PretendCuda, on_cuda
from v3d.cameras import orbit
from v3d.compositing import over_white
from v3d.diffusion.configs import OrbitDiTConfig, Sampling
from v3d.diffusion.dit import OrbitDiT
from v3d.diffusion.mini import MiniModel
from v3d.diffusion.photos import OrbitPhotos
from v3d.networks import imagenet, pixelnerf
from v3d.networks.configs import PixelNeRFConfig
from v3d.networks.pixelnerf import PixelNeRF
from v3d.objects import build
from v3d.objects.presets import PRESETS
from v3d.surface.carving import carve
from v3d.surface.extract import extract_mesh
from v3d.surface.fit import _Located
from v3d.surface.losses import targets_of
from v3d.surface.render import closest_pass, first_hit
from v3d.surface.silhouette import fill_silhouette
from v3d.texture.refine import RefineSettings
from v3d.views import Views

pytestmark = pytest.mark.filterwarnings("ignore:.*Disabling autocast")  # there is no device for it


def small_model(*, scene: bool) -> MiniModel:
    torch.manual_seed(0)
    sizes = PixelNeRFConfig(
        size=16,
        patch=4,
        width=64,
        depth=1,
        grid=8,
        planes=6,
        channels=4,
        hidden=8,
        samples=8,
        fine=8,
        drawn=16,
    )
    sizes = replace(sizes, texture=3 * scene, opaque=scene, imagenet=scene)
    dit = OrbitDiT(OrbitDiTConfig(size=32, channels=(8, 16), width=64, depth=1, warps=1 + scene))
    pixelnerf = PixelNeRF(sizes).requires_grad_(False).eval()
    return MiniModel(
        pixelnerf, "", dit.requires_grad_(False).eval(), sampling=Sampling(steps=2, guidance=2.0)
    )


def photo() -> Tensor:
    rgba = torch.zeros(40, 40, 4)
    rgba[6:34, 12:28] = torch.tensor([0.8, 0.3, 0.2, 1.0])
    return rgba


def ball() -> Views:
    """Six views of a ball of radius 0.6."""
    cameras = orbit(6, size=40)
    origins, directions = cameras.rays()
    along, length = (origins * directions).sum(-1), directions.square().sum(-1)
    alpha = (along**2 > length * (origins.square().sum(-1) - 0.36)).float()
    return Views(over_white(torch.tensor([0.8, 0.4, 0.2]).expand(6, 40, 40, 3), alpha), alpha, cameras)


def same(on_device: Any, expected: Any) -> None:
    for x, y in zip(vars(on_device).values(), vars(expected).values(), strict=True):
        if isinstance(y, Tensor):
            assert type(x) is Tensor, "a result stayed on the device"
            torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-5)


def test_mixed_devices_and_numpy_are_refused() -> None:
    x = OnCuda(torch.rand(3, 4))
    with PretendCuda():
        y = torch.arange(4, device=CUDA)
        assert (x + y).device == CUDA and float((x * 2).cpu()[0, 0]) == 2 * float(x[0, 0])
        assert isinstance(torch.rand(4).to("cuda") + x[0], OnCuda) and type(x.to("cpu")) is Tensor
        x[0] = 1.0
        assert bool((x.to("cpu")[0] == 1).all())
        for wrong in (
            lambda: x + torch.rand(4),
            lambda: torch.where(x > 0, x, torch.rand(4)),
            lambda: x.numpy(),
            lambda: torch.rand(3)[x[:, 0] > 0],
        ):
            with pytest.raises((AssertionError, TypeError)):
                wrong()


@pytest.mark.parametrize("scene", [False, True])
def test_the_mini_model_draws_there_what_it_draws_here(scene: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixelnerf, "fast_dtype", lambda device: torch.float32)
    model, around = small_model(scene=scene), orbit(6, size=32)
    photos = torch.rand(3, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def posed() -> Any:
        return model.generate(photos, around[[0, 2, 3]], around[[1, 4]], n_generated=1)

    def drawn() -> list[Any]:
        return [posed()] if scene else [posed(), model(OrbitPhotos((photo(),)))]

    expected = drawn()
    features = imagenet.semantic_features
    monkeypatch.setattr(imagenet, "semantic_features", lambda x, cells: OnCuda(features(x.to("cpu"), cells)))
    on_cuda(model.pixelnerf)
    assert model.dit is not None
    on_cuda(model.dit)
    with PretendCuda():
        result = drawn()
    for x, y in zip(result, expected, strict=True):
        same(x, y)


def test_the_texture_is_made_there() -> None:
    views = ball()
    shape = extract_mesh(carve(views, resolution=24), cameras=views.cameras, faces=200)
    inputs = build.BuildInputs(views, photos={0: torch.cat([views.rgb[0], views.alpha[0, ..., None]], -1)})
    preset = replace(PRESETS["draft"], texture_size=48, refine=RefineSettings(sweeps=1, batch=3))
    expected = build.textured(inputs, shape, preset)
    with PretendCuda():
        result = build.textured(inputs, shape, preset, device="cuda")
    same(result, expected)


def test_the_surface_is_found_and_filled_there() -> None:
    views = ball()
    hull = carve(views, resolution=24)

    def steps(hull: Any, views: Views) -> list[Callable[[], Any]]:
        targets = targets_of(views, None)
        generator = torch.Generator().manual_seed(0)
        return [
            lambda: first_hit(hull, targets.cameras, targets.rays),
            lambda: closest_pass(hull, targets.rays),
            lambda: fill_silhouette(hull, views[0], hull=hull).values,
            lambda: _Located.find(hull, targets, generator).band,
        ]

    expected = [step() for step in steps(hull, views)]
    with PretendCuda():
        result = [step() for step in steps(hull.to("cuda"), views.to("cuda"))]
        for x, y in zip(result, expected, strict=True):
            assert isinstance(x, OnCuda)
            torch.testing.assert_close(x.cpu(), y)
