"""The rasterizers against mathematics, against each other, and on degenerate input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from splat_scenes import cloud, odd_camera, raw

from v3d.cameras import Cameras, orbit
from v3d.splats.cpu import rasterize_cpu
from v3d.splats.gaussians import Splats, rotations
from v3d.splats.rasterize import rasterize, splat_normals
from v3d.splats.reference import rasterize_reference

FIELDS = ("means", "quats", "log_scales", "logit_opacity", "rgb")


def leaves(tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    return [t.detach().to(dtype).clone().requires_grad_() for t in tensors]


def test_reference_gradients_are_finite_differences() -> None:
    camera = odd_camera(5, 4)
    w2c, K = camera.w2c[0].double(), camera.K[0].double()
    arguments = leaves(raw(cloud(3, radius=0.2, scale=0.3)), torch.float64)
    assert torch.autograd.gradcheck(
        lambda *a: rasterize_reference(*a, w2c, K, 5, 4), arguments, eps=1e-7, atol=1e-5
    )


@pytest.mark.parametrize(
    ("count", "width", "height", "radius"),
    [(150, 40, 32, 0.7), (200, 27, 35, 0.7), (200, 33, 9, 1.6), (3, 1, 1, 0.1)],
)
def test_kernels_agree_with_the_reference(count: int, width: int, height: int, radius: float) -> None:
    """Values, and gradients by all inputs, in float32 against float64."""
    camera = odd_camera(width, height)
    arguments = raw(cloud(count, radius=radius))
    fast, slow = leaves(arguments, torch.float32), leaves(arguments, torch.float64)
    a = rasterize_cpu(*fast, camera.w2c[0], camera.K[0], width, height)
    b = rasterize_reference(*slow, camera.w2c[0].double(), camera.K[0].double(), width, height)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=g, dtype=torch.float64) for x in b]
    for x, y in zip(a, b, strict=True):
        # A Gaussian at the 1/255 cut may fall the other way in float32: a pixel in a thousand may.
        error = (x - y).abs()
        assert error.median() < 1e-5 and error.max() < 0.02
        assert (error > 1e-4).float().mean() < 2e-3
    sum((x * w.float()).sum() for x, w in zip(a, weights, strict=True)).backward()
    sum((x * w).sum() for x, w in zip(b, weights, strict=True)).backward()
    for x, y in zip(fast, slow, strict=True):
        assert (x.grad - y.grad).norm() <= 2e-3 * y.grad.norm() + 1e-7


def test_opaque_wall_hides_what_lies_behind() -> None:
    wall = Splats(
        means=torch.tensor([[0.5, 0.0, 0.0]] * 3 + [[-0.5, 0.0, 0.0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1),
        log_scales=torch.full((4, 3), 1.0),
        logit_opacity=torch.full((4,), 20.0),
        rgb=torch.tensor([[1.0, 0, 0]] * 3 + [[0, 1.0, 0]]),
    )
    images = rasterize(wall, orbit(1, size=16))
    assert torch.allclose(images.rgb[0, 8, 8], torch.tensor([1.0, 0, 0]), atol=1e-3)
    assert torch.allclose(images.expected_depth[0, 8, 8], torch.tensor(1.5), atol=1e-3)


def test_cameras_and_gaussians_may_be_permuted() -> None:
    splats, cameras = cloud(200), orbit(5, size=40)
    images = rasterize(splats, cameras, normals=True)
    shuffled = rasterize(splats[torch.randperm(200)], cameras[[3, 0, 4, 1, 2]], normals=True)
    for name in ("rgb", "alpha", "depth", "normal"):
        assert torch.allclose(getattr(images, name)[[3, 0, 4, 1, 2]], getattr(shuffled, name), atol=1e-5)


def test_turning_world_and_camera_together_changes_nothing() -> None:
    splats, camera = cloud(100), orbit(1, size=32)
    q = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.7, 0.2]), dim=0)
    R = rotations(q)
    w, v = q[0], q[1:]
    other_w, other_v = splats.quats[:, :1], splats.quats[:, 1:]
    turned = replace(
        splats,
        means=splats.means @ R.T,
        quats=torch.cat(
            [
                w * other_w - (other_v @ v)[:, None],
                w * other_v + other_w * v + torch.linalg.cross(v.expand_as(other_v), other_v),
            ],
            -1,
        ),
    )
    c2w = camera.c2w.clone()
    c2w[:, :3] = R @ c2w[:, :3]
    a = rasterize(splats, camera)
    b = rasterize(turned, Cameras(c2w, camera.K, 32, 32))
    assert torch.allclose(a.rgb, b.rgb, atol=1e-4) and torch.allclose(a.depth, b.depth, atol=1e-4)


def test_normals_are_the_shortest_axes_towards_the_camera() -> None:
    splats, eyes = cloud(50), orbit(3).centers
    normals = splat_normals(splats, eyes)
    axes = torch.take_along_dim(rotations(splats.quats), splats.log_scales.argmin(-1)[:, None, None], 2)[
        ..., 0
    ]
    assert torch.allclose((normals * axes).sum(-1).abs(), torch.ones(3, 50), atol=1e-5)
    assert (((eyes[:, None] - splats.means) * normals).sum(-1) >= 0).all()


def test_a_disc_shows_its_normal() -> None:
    disc = Splats(
        means=torch.zeros(1, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        log_scales=torch.tensor([[-6.0, -1.0, -1.0]]),
        logit_opacity=torch.tensor([3.0]),
        rgb=torch.ones(1, 3),
    )
    images = rasterize(disc, orbit(2, size=16), normals=True)
    assert images.normal is not None
    centre = images.normal[:, 8, 8] / images.alpha[:, 8, 8, None]
    assert torch.allclose(centre, torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]), atol=1e-4)


def test_screen_gradient_is_the_gradient_by_the_projected_centre() -> None:
    """Shifting the principal point shifts all centres: their gradients add up to a finite difference.

    Roughly: no gradient knows of the cut at 1/255.
    """
    splats = cloud(30, radius=0.3)
    splats = Splats(*(getattr(splats, f).requires_grad_() for f in FIELDS))
    camera = orbit(1, size=32)
    ramp = torch.linspace(0, 1, 32) ** 2
    images = rasterize(splats, camera)
    (images.alpha * ramp).sum().backward()
    assert images.screen is not None and images.screen.grad is not None
    moved = []
    for step in (-0.5, 0.5):
        K = camera.K.clone()
        K[:, 0, 2] += step
        moved.append((rasterize(splats, Cameras(camera.c2w, K, 32, 32)).alpha * ramp).sum().item())
    assert images.screen.grad[0, :, 0].sum().item() == pytest.approx(moved[1] - moved[0], rel=0.1)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_nothing_visible(count: int) -> None:
    splats = replace(cloud(count), means=torch.tensor([[50.0, 0, 0]]).repeat(count, 1))
    splats = Splats(*(getattr(splats, f).requires_grad_() for f in FIELDS))
    images = rasterize(splats, orbit(1, size=20), normals=True)
    assert images.rgb.abs().sum() == 0 and images.alpha.sum() == 0 and images.expected_depth.sum() == 0
    assert (images.over(1.0) == 1).all()
    (images.rgb.sum() + images.alpha.sum()).backward()
    assert all((getattr(splats, f).grad == 0).all() for f in FIELDS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, float("nan")) for name in FIELDS),
        *((name, float("inf")) for name in ("means", "quats", "log_scales", "rgb")),
        ("quats", 0.0),
        ("log_scales", 40.0),
        ("logit_opacity", -100.0),
    ],
)
def test_a_broken_gaussian_is_invisible_and_harms_no_other(field: str, value: float) -> None:
    good, bad = cloud(50), cloud(1, radius=0.9, seed=3)
    bad = replace(bad, **{field: torch.full_like(getattr(bad, field), value)})
    both = Splats(*(torch.cat([getattr(good, f), getattr(bad, f)]).requires_grad_() for f in FIELDS))
    alone = Splats(*(getattr(good, f).requires_grad_() for f in FIELDS))
    camera = orbit(1, size=32)
    a, b = rasterize(both, camera), rasterize(alone, camera)
    assert torch.equal(a.rgb, b.rgb) and torch.equal(a.alpha, b.alpha)
    for images in (a, b):
        (images.rgb.square().sum() + images.depth.sum()).backward()
    for f in FIELDS:
        assert torch.allclose(getattr(both, f).grad[:50], getattr(alone, f).grad)


@pytest.mark.parametrize("log_scale", [-200.0, -30.0, 3.0, 9.0])
def test_extreme_sizes_stay_finite(log_scale: float) -> None:
    splats = replace(cloud(20), log_scales=torch.full((20, 3), log_scale))
    splats = Splats(*(getattr(splats, f).requires_grad_() for f in FIELDS))
    images = rasterize(splats, odd_camera(30, 17))
    assert images.alpha.max() > 0 and images.alpha.max() <= 1
    (images.rgb.sum() + images.alpha.sum() + images.depth.sum()).backward()
    assert all(torch.isfinite(getattr(splats, f).grad).all() for f in FIELDS)


def test_changing_the_gaussians_before_backward_is_an_error() -> None:
    splats = Splats(*(getattr(cloud(5), f).requires_grad_() for f in FIELDS))
    images = rasterize(splats, orbit(1, size=8))
    with torch.no_grad():
        splats.means.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        images.rgb.sum().backward()


def test_threads_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("V3D_THREADS", threads)
        splats = Splats(*(getattr(cloud(300), f).requires_grad_() for f in FIELDS))
        images = rasterize(splats, odd_camera(61, 47))
        (images.rgb.square().sum() + images.depth.sum()).backward()
        results.append([images.rgb, images.depth, *(getattr(splats, f).grad for f in FIELDS)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_gsplat_agrees() -> None:
    pytest.importorskip("gsplat")
    splats, cameras = cloud(300), orbit(2, size=64)
    a, b = rasterize(splats, cameras, normals=True), rasterize(splats.to("cuda"), cameras, normals=True)
    for name in ("rgb", "alpha", "depth", "normal"):
        # The two stop compositing by different rules once a pixel is almost opaque.
        assert (getattr(a, name) - getattr(b, name).cpu()).abs().max() < 0.02
