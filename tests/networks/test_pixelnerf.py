"""PixelNeRF: projection, volume rendering and pooling against what they must be."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from v3d.cameras import Cameras, cat_cameras, orbit
from v3d.networks import pixelnerf
from v3d.networks.pixelnerf import Frusta, PixelNeRF, PixelNeRFConfig, without_lattice
from v3d.networks.sources import FALLOFF, Sources, camera_similarity, patch_rays, project
from v3d.networks.volume_rendering import EVEN_SHARE, Rendered, flat_rays, importance_edges

TINY = PixelNeRFConfig(
    size=16, patch=4, width=64, depth=2, grid=8, planes=6, channels=4, hidden=8, samples=12
)
FREE = 5.0  # an output of the decoder for "dense"


def pictures(count: int) -> Tensor:
    return torch.rand(count, 4, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def perturbed(net: PixelNeRF) -> PixelNeRF:
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = p.data + 0.1 * torch.randn(p.shape, generator=generator)
    return net


def rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    origins, directions = cameras.rays()
    return origins.reshape(1, -1, 3), directions.reshape(1, -1, 3)


def constant(net: PixelNeRF, density: float, photo: bool) -> PixelNeRF:
    """A network with one decoder output for the density of all points, and the photo's colour or grey."""
    with torch.no_grad():
        for p in (net.frustum.weight, net.frustum.bias, net.decoded.weight, net.decoded.bias):
            p.zero_()
        net.decoded.bias[0] = density
        net.decoded.bias[1] = -50.0 if photo else 50.0
    return net


@pytest.mark.parametrize("texture", [0, 3])
def test_the_order_of_sources_does_not_matter(texture: int) -> None:
    net = perturbed(PixelNeRF(replace(TINY, texture=texture)))
    cameras = cat_cameras([orbit(8, size=16, elevation=e)[k] for k, e in ((0, 0.0), (2, 30.0), (5, 10.0))])
    images, order = pictures(3), [2, 0, 1]
    origins, directions = rays(orbit(7, size=8, elevation=15.0)[3])
    a = net(Sources.of(images, cameras), origins, directions)
    b = net(Sources.of(images[order], cameras[order]), origins, directions)
    for x, y in zip(vars(a).values(), vars(b).values(), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    c = net(Sources.of(images, cameras[order]), origins, directions)
    assert not torch.allclose(a.rgb, c.rgb, atol=1e-3)  # which camera took which photo does matter
    a.depth.sum().backward()
    assert net.texture is None or all(bool(p.grad.abs().sum() > 0) for p in net.texture.parameters())


def test_a_dense_world_seen_from_the_source_is_the_photo() -> None:
    """With the photo's colour everywhere, at any density: a source pixel's ray projects onto that pixel."""
    net = constant(PixelNeRF(TINY), FREE, photo=True)
    cameras = orbit(5, size=16, elevation=25.0)[2]
    images = pictures(1)
    out = net(Sources.of(images, cameras), *rays(cameras))
    expected = (images[0, :3] / 2 + 0.5).flatten(1).T
    torch.testing.assert_close(out.alpha, torch.ones_like(out.alpha), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.rgb[0], expected, atol=1e-3, rtol=0)


def test_opacity_of_constant_density_is_beer_lamberts() -> None:
    net = constant(PixelNeRF(replace(TINY, fine=400)), -1.0, photo=False)
    cameras = orbit(5, size=16)[0]
    out = net(Sources.of(pictures(1), cameras), *rays(cameras))
    density = 8 * math.log1p(math.exp(2 * -1.0 - 1))
    length = 2 * rays(cameras)[1].norm(dim=-1)  # near 1 to far 3
    torch.testing.assert_close(out.alpha, 1 - torch.exp(-density * length), atol=5e-3, rtol=0)
    opaque = PixelNeRF(replace(TINY, opaque=True))
    out = constant(opaque, -20.0, photo=False)(Sources.of(pictures(1), cameras), *rays(cameras))
    torch.testing.assert_close(out.alpha, torch.ones_like(out.alpha))
    assert float(out.depth.min().detach()) > 2.8  # all weight is on the last sample


def test_what_no_source_sees_is_empty() -> None:
    net = constant(PixelNeRF(TINY), FREE, photo=False)
    cameras = orbit(2, size=16)
    sources = Sources.of(pictures(1), cameras[0])
    points = torch.tensor([[[0.0, 0.0, 0.0], [2.5, 0.0, 0.0], [0.0, 1.5, 0.0], [-1.5, 0.0, 0.0]]])
    density, _ = net.decode(net.encode(sources), points)  # in view, behind the camera, beside, beyond far
    assert (density[0] > 0).tolist() == [True, False, False, False]


def test_pooling_is_mean_and_deviation_over_the_sources_that_see_a_point() -> None:
    net = perturbed(PixelNeRF(TINY))
    cameras = orbit(3, size=16)
    sources = Sources.of(pictures(3), cameras)
    frusta = net.encode(sources)
    point = torch.zeros(1, 1, 3)
    at = torch.tensor([[[[[0.0, 0.0, 2 * math.log(2) / math.log(3) - 1]]]]])  # middle pixel, depth 2
    h = torch.cat(
        [torch.nn.functional.grid_sample(v[None], at, align_corners=False) for v in frusta.volumes[0]]
    )
    middle = sources.images[0, :, :, 7:9, 7:9].mean((2, 3))  # where the point lies in all photos
    h = torch.cat([h.flatten(1), middle], 1)  # [3, C + 4]
    deviation = (h.var(0, correction=0) + 1e-4).sqrt() - 1e-2
    hidden = torch.nn.functional.silu(net.pooled(torch.cat([h.mean(0), deviation, torch.ones(1)])))
    density, _ = net.decode(frusta, point)
    expected = 8 * torch.nn.functional.softplus(2 * net.decoded(hidden)[0] - 1)
    torch.testing.assert_close(density[0, 0], expected, atol=1e-4, rtol=1e-4)


def test_a_photo_that_counts_twice_is_two_photos() -> None:
    net = perturbed(PixelNeRF(TINY))
    cameras = orbit(3, size=16)
    frusta = net.encode(Sources.of(pictures(3), cameras))
    points = 1.6 * torch.rand(1, 12, 3, generator=torch.Generator().manual_seed(3)) - 0.8
    again = [0, 0, 1, 2]
    doubled = Frusta(
        Sources.of(pictures(3)[again], cameras[again]), frusta.volumes[:, again], frusta.pixels[:, again]
    )
    weighted = replace(frusta, sources=Sources.of(pictures(3), cameras, torch.tensor([[2.0], [1.0], [1.0]])))
    in_all = (points.norm(dim=-1) < 0.5)[0]  # the share of photos that see a point counts photos, not weights
    for a, b in zip(net.decode(weighted, points), net.decode(doubled, points), strict=True):
        torch.testing.assert_close(a[0, in_all], b[0, in_all], atol=1e-4, rtol=1e-4)
    # Weights for parts of the points are those of the parts.
    halves = torch.tensor([[2.0, 1.0], [1.0, 1.0], [1.0, 3.0]])
    both = net.decode(replace(frusta, sources=Sources.of(pictures(3), cameras, halves)), points)
    for k in range(2):
        one = replace(frusta, sources=Sources.of(pictures(3), cameras, halves[:, k : k + 1]))
        for a, b in zip(net.decode(one, points[:, 6 * k : 6 * k + 6]), both, strict=True):
            torch.testing.assert_close(a, b[:, 6 * k : 6 * k + 6])


@pytest.mark.parametrize("texture", [0, 3])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_one_photo_is_decoded_as_the_general_rule_says(texture: int, weight: float) -> None:
    """One source takes shortcuts (mean = value, deviation = 0); compared with the rule for any number."""
    net = perturbed(PixelNeRF(replace(TINY, texture=texture))).requires_grad_(False)
    sources = Sources.of(pictures(1), orbit(1, size=16), torch.tensor([[weight]]))
    frusta = net.encode(sources)
    points = 6 * torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(3)) - 3
    uv, depth = project(sources, points)
    at = torch.cat([uv, depth.clamp_min(1e-3).log()[..., None] / math.log(3)], -1)[0] * 2 - 1
    visible = ((at.abs() <= 1).all(-1) & (depth[0] > 0)).float()[0]
    sample = partial(torch.nn.functional.grid_sample, padding_mode="border", align_corners=False)
    h = sample(frusta.volumes[0], at[:, None, None]).flatten(2)[0].T
    photo = sample(frusta.pixels[0], at[:, None, :, :2]).flatten(2)[0].T
    mean = torch.cat([h, photo], -1) * visible[:, None]
    hidden = net.pooled(torch.cat([mean, torch.zeros_like(mean), visible[:, None]], -1))
    out = net.decoded(torch.nn.functional.silu(hidden))
    density = 8 * torch.nn.functional.softplus(2 * out[:, 0] - 1) * visible
    votes = torch.stack([h[:, 0] + math.log(weight) + (visible - 1) * 1e4, out[:, 1]], -1).softmax(-1)
    colour = votes[:, :1] * (photo[:, :3] / 2 + 0.5) + votes[:, 1:] * out[:, 2:].sigmoid()
    assert 0.02 < float(visible.mean()) < 0.5
    for got, expected in zip(net.decode(frusta, points), (density, colour), strict=True):
        torch.testing.assert_close(got[0], expected, atol=2e-5, rtol=2e-5)


def test_near_photos_count_most() -> None:
    around = orbit(36)
    assert torch.equal(camera_similarity(around[[7]], around), torch.ones(1, 36))
    weights = camera_similarity(around[[0, 2, 3, 18]], around[[1, 17]])
    torch.testing.assert_close(weights.amax(0), torch.ones(2))
    first, last = weights.T
    torch.testing.assert_close(first[0], first[1])  # 10 degrees away on either side
    far = math.sin(math.radians(10)) / math.sin(math.radians(5))  # chords of 20 and of 10 degrees
    torch.testing.assert_close(first[2], torch.tensor(far**-FALLOFF), atol=1e-5, rtol=1e-4)
    assert last.tolist() == sorted(last.tolist()) and first[3] < 0.03
    # A photo from the very place, and cameras in one place that look elsewhere.
    assert camera_similarity(around[[0, 9]], around[[0]])[1] < 1e-3
    turned = replace(around, c2w=around.c2w.clone())
    turned.c2w[:, :3, 3] = 0
    assert camera_similarity(turned[[0, 18]], turned[[1]])[1] < 0.1


def test_gradients_of_a_ray_agree_with_finite_differences() -> None:
    net = perturbed(PixelNeRF(TINY)).double()
    cameras = orbit(2, size=16, elevation=10.0)
    f64 = Cameras(cameras.c2w.double(), cameras.K.double(), 16, 16)
    sources = Sources.of(pictures(2).double(), f64)
    frusta = net.encode(sources)
    volumes = frusta.volumes.detach().requires_grad_(True)
    origins, directions = (t[:, 100:104] for t in rays(Cameras(f64.c2w[1:], f64.K[1:], 16, 16)))
    edges = importance_edges(net.coarse_weights(frusta, origins, directions), net.config.fine)
    look = torch.randn(4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def value(v: Tensor) -> Tensor:
        out = net.render(replace(frusta, volumes=v), origins, directions, edges)
        return (torch.cat([out.rgb[0], out.alpha[0, :, None], out.depth[0, :, None]], -1) * look).sum()

    (gradient,) = torch.autograd.grad(value(volumes), volumes)
    step = torch.randn(volumes.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    h = 1e-5
    numeric = (value(volumes + h * step) - value(volumes - h * step)) / (2 * h)
    assert float((gradient * step).sum()) == pytest.approx(float(numeric.detach()), rel=1e-5)


def test_fine_samples_gather_where_coarse_ones_found_something() -> None:
    edges = importance_edges(torch.zeros(1, 1, 20), 40)[0, 0]
    torch.testing.assert_close(edges, torch.linspace(0, 1, 41))  # nothing found: evenly spaced
    found = torch.zeros(1, 1, 20)
    found[..., 7] = 0.9
    edges = importance_edges(found, 40)[0, 0]
    assert edges[0] == 0 and edges[-1] == 1 and bool((edges.diff() > 0).all())
    # Found in the eighth of twenty parts: that and its neighbours share 1 - EVEN_SHARE, all parts the rest.
    middle = (edges[:-1] + edges[1:]) / 2
    near = ((middle > 6 / 20) & (middle < 9 / 20)).sum()
    assert int(near) == pytest.approx(40 * (1 - EVEN_SHARE + 3 / 20 * EVEN_SHARE), abs=1.5)
    noise = torch.rand(1, 5, 20, generator=torch.Generator().manual_seed(0))
    many = importance_edges(noise, 4000)
    w = torch.nn.functional.max_pool1d(noise, 3, stride=1, padding=1)
    w = (1 - EVEN_SHARE) * w / w.sum(-1, keepdim=True) + EVEN_SHARE / 20
    density = torch.stack([((many >= k / 20) & (many < (k + 1) / 20)).sum(-1) for k in range(20)], -1) / 4000
    torch.testing.assert_close(density, w, atol=1e-3, rtol=0)


def test_a_thin_wall_is_drawn_where_it_stands() -> None:
    """Thinner than the distance of two evenly spaced samples; its depth is found to a part of that."""
    net = PixelNeRF(replace(TINY, samples=24, fine=24))
    wall = 1.83

    def decode(frusta: Frusta, points: Tensor) -> tuple[Tensor, Tensor]:
        return 200 * torch.sigmoid(400 * (points[..., 0] - 0)) * (points[..., 0] < 0.06), points.abs()

    net.decode = decode  # type: ignore[method-assign]
    origins = torch.tensor([[[-wall, 0.0, 0.0]]])
    directions = torch.tensor([[[1.0, 0.0, 0.0]]])
    sources = Sources.of(pictures(1), orbit(1, size=16))
    out = net.render(Frusta(sources, torch.zeros(0), sources.images), origins, directions)
    spacing = wall * math.log(3) / 24
    assert float(out.alpha) > 0.95
    assert float(out.depth / out.alpha) == pytest.approx(wall, abs=spacing / 4)


@pytest.mark.parametrize("texture", [0, 3])
def test_skipping_empty_space_draws_the_same_image(texture: int) -> None:
    torch.manual_seed(0)
    net = PixelNeRF(replace(TINY, texture=texture, fine=96))
    with torch.no_grad():  # a ball of density: the frustum's bias is one value a plane and cell of a token
        net.decoded.weight[0] = 3.0
        net.decoded.bias[0] = -4.0
        net.frustum.weight.mul_(20)
    cameras = orbit(4, size=32)
    sources = Sources.of(pictures(1), cameras[0].resized(16, 16))
    images, depth = net.render_images(sources, cameras)
    net.requires_grad_(False)
    frusta = net.encode(sources)
    frusta = replace(frusta, volumes=without_lattice(frusta.volumes, net.cells))
    for v in range(4):
        whole = net.render(frusta, *rays(cameras[v]))
        alpha = images[v, 3].flatten() / 2 + 0.5
        assert float((alpha - whole.alpha[0]).abs().mean()) < 0.02
    assert depth.shape == (4, 32, 32) and images.shape == (4, 4, 32, 32)


@pytest.mark.parametrize("cells", [2, 3, 4])
def test_the_lattice_of_tokens_goes_and_slopes_stay(cells: int) -> None:
    """Any pattern that repeats from token to token becomes its mean; slopes and single details stay."""
    tokens = 7
    pattern = torch.randn(2, 3, cells, cells, generator=torch.Generator().manual_seed(0))
    smooth = without_lattice(pattern.repeat(1, 1, tokens, tokens), cells)
    inside = slice(2 * cells, -2 * cells)  # the border has no neighbours to compare with
    inner = smooth[..., inside, inside]
    torch.testing.assert_close(inner, pattern.mean((-2, -1))[..., None, None].expand_as(inner))
    slope = torch.arange(tokens * cells).float().expand(2, 3, tokens * cells, -1)
    torch.testing.assert_close(without_lattice(slope, cells)[..., inside], slope[..., inside])
    assert torch.equal(without_lattice(slope, 1), slope)
    detail = torch.zeros(1, tokens * cells, tokens * cells)
    detail[0, 3 * cells, 3 * cells] = 1.0
    kept = without_lattice(detail, cells)
    assert float(kept[0, 3 * cells, 3 * cells]) > 8 / 9 and float((kept - detail).abs().max()) < 1 / 9


def test_an_object_of_one_photo_is_rendered_without_the_lattice() -> None:
    """Scenes and objects of several photos keep what single cells hold: here one cell in four of a token."""
    net = constant(PixelNeRF(replace(TINY, samples=24, fine=24)), 0.0, photo=False)
    with torch.no_grad():
        bias = net.frustum.bias.view(net.cells, net.cells, TINY.planes, TINY.channels)
        bias[0, 0] = 1.0  # the same in every token
        net.pooled.weight[:, 1] = 1.0
        net.decoded.weight[0] = 0.5
        net.decoded.bias[0] = -1.0
    camera = orbit(1, size=16)
    inner = slice(4, 12)

    def spread(opaque: bool, photos: int) -> float:
        kind = PixelNeRF(replace(net.config, opaque=opaque))
        kind.load_state_dict(net.state_dict())
        _, depth = kind.render_images(Sources.of(pictures(photos), camera[[0] * photos]), camera)
        return float(depth[0, inner, inner].std())

    assert spread(False, 1) < 0.2 * min(spread(True, 1), spread(False, 2))


def test_a_view_of_nothing_is_white() -> None:
    net = constant(PixelNeRF(TINY), -30.0, photo=True)
    cameras = orbit(2, size=16)
    images, depth = net.render_images(Sources.of(pictures(1), cameras[0]), cameras)
    assert torch.equal(images[:, :3], torch.ones(2, 3, 16, 16))
    assert torch.equal(images[:, 3], -torch.ones(2, 16, 16)) and not depth.any()


def test_rays_of_patches_pass_through_their_centres() -> None:
    cameras = orbit(3, size=16, elevation=20.0, fov=40.0)
    plucker = patch_rays(Sources.of(pictures(3), cameras), 4)[0]
    origins, directions = cameras.resized(4, 4).rays()
    directions = torch.nn.functional.normalize(directions.flatten(1, 2), dim=-1)
    torch.testing.assert_close(plucker[..., 3:], directions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        plucker[..., :3], torch.linalg.cross(origins.flatten(1, 2), directions), atol=1e-5, rtol=1e-5
    )


def test_geometry_stays_in_float32_where_the_network_runs_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU: products in bfloat16; rays, projections, grids, depths and compositing in float32."""
    net = perturbed(PixelNeRF(replace(TINY, texture=3))).eval()
    cameras = orbit(3, size=16, elevation=15.0)
    sources = Sources.of(pictures(2), cameras[[0, 1]])
    monkeypatch.setattr(pixelnerf, "fast_dtype", lambda device: torch.float32)
    exact, _ = net.render_images(sources, cameras)
    types: dict[str, set[torch.dtype]] = {}

    def record(module: Any, name: str) -> None:
        function = getattr(module, name)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            values = list(vars(result).values()) if isinstance(result, Rendered) else result
            values = [values] if isinstance(values, Tensor) else values
            tensors = [x for x in (*args, *values) if isinstance(x, Tensor)]
            types.setdefault(name, set()).update(x.dtype for x in tensors)
            return result

        monkeypatch.setattr(module, name, recorded)

    for name in ("patch_rays", "flat_rays", "project", "points_on_rays", "rendering_weights", "composite"):
        record(pixelnerf, name)
    record(torch.nn.functional, "grid_sample")
    record(torch.nn.functional, "linear")
    monkeypatch.setattr(pixelnerf, "fast_dtype", lambda device: torch.bfloat16)
    images, depth = net.render_images(sources, cameras)
    assert torch.bfloat16 in types.pop("linear")  # the network did run under autocast
    assert len(types) == 7 and all(found == {torch.float32} for found in types.values()), types
    assert images.dtype == depth.dtype == torch.float32
    assert not torch.equal(images, exact)
    assert float((images - exact).abs().mean()) < 0.01


def test_rays_and_projections_do_not_change_inside_autocast() -> None:
    cameras = orbit(3, size=16, elevation=20.0)
    sources = Sources.of(pictures(3), cameras)
    points = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = (patch_rays(sources, 4), *project(sources, points), *flat_rays(cameras))
    with torch.autocast("cpu", torch.bfloat16):
        inside = (patch_rays(sources, 4), *project(sources, points), *flat_rays(cameras))
        assert (points[0] @ points[0].T).dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(inside, expected, strict=True))
