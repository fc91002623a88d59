"""OrbitDiT, the VAE and the generator: shapes, symmetries, determinism, honest errors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from v3d.cameras import orbit
from v3d.diffusion import edm
from v3d.diffusion.dit import Block, Frames, Geometry, OrbitDiT, OrbitDiTConfig
from v3d.diffusion.generator import Generator
from v3d.diffusion.mini import MOST_READ, OUTLINE, MiniModel, draw_guide, solid, to_image
from v3d.diffusion.pixelnerf import PixelNeRF, PixelNeRFConfig, nearness
from v3d.diffusion.vae import VAE, VAEConfig
from v3d.errors import V3DError
from v3d.training.export import Sampling, export_mini

TINY = OrbitDiTConfig(latent_channels=4, latent_size=4, patch=2, width=64, depth=2)
TINY_NERF = PixelNeRFConfig(size=32, width=64, depth=1, grid=8, planes=4, samples=4)
TINY_VAE = VAEConfig(latent_channels=4, widths=(8, 8, 16), blocks=1)


def awake(net: OrbitDiT) -> OrbitDiT:
    """A network whose zero-initialised output is not zero."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = p.data + 0.05 * torch.randn(p.shape, generator=generator)
    return net


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    networks = VAE(TINY_VAE), PixelNeRF(TINY_NERF), awake(OrbitDiT(TINY))
    export_mini(*networks, tmp_path, Sampling(steps=2, guidance=1.5, sigma_min=0.01))
    return tmp_path


def test_patchify_round_trip_and_layout() -> None:
    net = OrbitDiT(TINY)
    z = torch.randn(2, 3, 4, 4, 4)
    tokens = net.patchify(z)
    assert tokens.shape == (2, 3, 4, 16)
    assert torch.equal(net.unpatchify(tokens), z)
    assert torch.equal(tokens[0, 0, 1], z[0, 0, :, :2, 2:].flatten())  # second patch: first row, right


def test_frames_score_only_relative_positions() -> None:
    """query_i key_j^T must be E_i E_j^-1 on the camera channels and a rotation on the others."""
    geometry = Geometry.of(orbit(3, elevation=20.0), 2)
    angles = torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
    frames = Frames.of(geometry, angles, torch.float32)
    i, j = 2 * 4 + 1, 3  # patch 1 of view 2, patch 3 of view 0
    score = frames.query[i] @ frames.key[j].T
    relative = geometry.w2c[2] @ geometry.c2w[0]
    torch.testing.assert_close(score[:4, :4], relative, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(score[28:32, 28:32], relative, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(score[32:, 32:] @ score[32:, 32:].T, torch.eye(32), atol=1e-5, rtol=1e-5)
    carried = frames.value[0] @ frames.out[2]  # a row vector from the frame of view 0 to that of view 2
    torch.testing.assert_close(carried[:4, :4].T, relative, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(carried[32:, 32:], torch.eye(32))


@pytest.mark.parametrize("own_cameras", [False, True])
def test_attention_is_the_textbooks_with_heads_carried_between_frames(own_cameras: bool) -> None:
    """Values and gradients, against torch's own attention; cameras shared by the samples, and one set for each."""
    torch.manual_seed(0)
    net = awake(OrbitDiT(replace(TINY, width=128, depth=1)))
    block = net.blocks[0]
    assert isinstance(block, Block)
    sets = [Geometry.of(orbit(3, elevation=e), net.grid) for e in (0.0, 20.0)]
    frames = Frames.of(Geometry.stack(sets) if own_cameras else sets[0], torch.rand(4, 16), torch.float32)
    x = (3 * torch.randn(12, 2, 128)).requires_grad_()

    def textbook() -> torch.Tensor:
        def heads(t: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
            matrices = matrices.repeat_interleave(max(1, 12 // len(matrices)), 0)  # of views -> of patches
            matrices = matrices.view(12, -1, 64, 64).expand(-1, 2, -1, -1)
            return torch.einsum("nbhi,nbij->bhnj", t.view(12, 2, 2, 64), matrices)

        q = heads(F.layer_norm(block.query(x).view(12, 2, 2, 64), (64,)), frames.query)
        k = heads(F.layer_norm(block.key(x).view(12, 2, 2, 64), (64,)), frames.key)
        y = F.scaled_dot_product_attention(q, k, heads(block.value(x), frames.value))
        return block.out(heads(y.permute(2, 0, 1, 3), frames.out).permute(2, 0, 1, 3).flatten(2))

    ours, theirs = block.attend(x, frames), textbook()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    target = torch.randn_like(ours)
    inputs = (x, block.query.weight, block.key.weight, block.value.weight)
    gradients = (torch.autograd.grad((y * target).sum(), inputs) for y in (ours, theirs))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_attention_sees_only_relative_cameras() -> None:
    net = awake(OrbitDiT(TINY))
    x = torch.randn(24, 1, 64, generator=torch.Generator().manual_seed(0))
    angles = torch.rand(4, 16, generator=torch.Generator().manual_seed(1))

    def attend(geometry: Geometry) -> torch.Tensor:
        return net.blocks[0].attend(x, Frames.of(geometry, angles, torch.float32))

    here, turned = (Geometry.of(orbit(6, azimuth=a), net.grid) for a in (0.0, 37.0))
    y = attend(here)
    torch.testing.assert_close(y, attend(turned), atol=1e-5, rtol=1e-4)
    assert (y - attend(here[[0, 2, 1, 3, 4, 5]])).abs().max() > 1e-3


def test_network_is_equivariant_to_the_order_of_views() -> None:
    net = awake(OrbitDiT(TINY))
    geometry = Geometry.of(orbit(5), net.grid)
    x, photo = torch.randn(2, 5, 4, 4, 4), torch.randn(2, 1, 4, 4, 4)
    c_noise, keep = torch.tensor([0.1, -0.3]), torch.tensor([True, True])
    order = [3, 1, 0, 4, 2]
    y = net(x, c_noise, photo, keep, geometry[[0, 0, 1, 2, 3, 4]])
    z = net(x[:, order], c_noise, photo, keep, geometry[[0, *order]])
    torch.testing.assert_close(y[:, order], z, atol=1e-4, rtol=1e-3)


def test_dropped_photo_does_not_matter_and_kept_photo_does() -> None:
    net = awake(OrbitDiT(TINY))
    geometry = Geometry.of(orbit(2), net.grid)[[0, 0, 1]]
    x, a, b = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 1, 4, 4, 4), torch.randn(1, 1, 4, 4, 4)
    c_noise = torch.zeros(1)
    no, yes = torch.tensor([False]), torch.tensor([True])
    assert torch.equal(net(x, c_noise, a, no, geometry), net(x, c_noise, b, no, geometry))
    assert not torch.allclose(net(x, c_noise, a, yes, geometry), net(x, c_noise, b, yes, geometry))


def test_every_sample_may_have_its_own_cameras_and_several_photos_in_any_order() -> None:
    net = awake(OrbitDiT(TINY))
    sets = [Geometry.of(orbit(5, azimuth=a, elevation=e), net.grid) for a, e in ((0.0, 0.0), (50.0, 20.0))]
    x, photos = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 2, 4, 4, 4)
    c_noise, keep = torch.tensor([0.1, -0.3]), torch.tensor([True, True])
    y = net(x, c_noise, photos, keep, Geometry.stack(sets))
    for b, geometry in enumerate(sets):
        one = net(x[b : b + 1], c_noise[b : b + 1], photos[b : b + 1], keep[:1], geometry)
        torch.testing.assert_close(y[b : b + 1], one, atol=1e-5, rtol=1e-4)
    swapped = net(x, c_noise, photos[:, [1, 0]], keep, Geometry.stack([g[[1, 0, 2, 3, 4]] for g in sets]))
    torch.testing.assert_close(y, swapped, atol=1e-5, rtol=1e-4)


def test_a_fresh_network_ignores_the_guide_and_a_trained_one_looks_at_it() -> None:
    net = OrbitDiT(TINY)
    torch.nn.init.normal_(net.out.weight)
    geometry = Geometry.of(orbit(2), net.grid)[[0, 0, 1]]
    x, photo, guide = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 1, 4, 4, 4), torch.randn(1, 2, 4, 4, 4)
    c_noise, yes, no = torch.zeros(1), torch.tensor([True]), torch.tensor([False])
    y = net(x, c_noise, photo, yes, geometry)
    assert torch.equal(y, net(x, c_noise, photo, yes, geometry, guide))
    awake(net)
    assert not torch.allclose(y, net(x, c_noise, photo, yes, geometry, guide))
    dropped = net(x, c_noise, photo, no, geometry, guide)
    assert torch.equal(dropped, net(x, c_noise, -photo, no, geometry, guide))
    assert not torch.allclose(dropped, net(x, c_noise, photo, no, geometry, -guide))


def test_fresh_network_predicts_zero() -> None:
    net = OrbitDiT(TINY)
    geometry = Geometry.of(orbit(2), net.grid)[[0, 0, 1]]
    x, photo = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 1, 4, 4, 4)
    y = net(x, torch.zeros(1), photo, torch.ones(1).bool(), geometry)
    assert torch.equal(y, torch.zeros_like(y))


def test_vae_shapes_and_standardisation() -> None:
    vae = VAE(TINY_VAE)
    x = torch.rand(2, 4, 24, 32) * 2 - 1
    vae.mean.fill_(0.3)
    vae.std.fill_(2.0)
    z = vae.encode(x)
    assert z.shape == (2, 4, 3, 4)
    torch.testing.assert_close(z * 2 + 0.3, vae.moments(x)[0])
    assert vae.decode(z).shape == x.shape
    assert [tuple(f.shape[1:]) for f in vae.features(x)] == [(8, 12, 16), (8, 6, 8), (16, 3, 4)]


def test_to_image_composites_without_bleeding() -> None:
    rgba = torch.zeros(8, 8, 4)
    rgba[:4, :, :] = torch.tensor([1.0, 0.0, 0.0, 1.0])  # below: black, but fully transparent
    image = to_image(rgba, 4)
    torch.testing.assert_close(image[:, 0, 0], torch.tensor([1.0, -1.0, -1.0, 1.0]))
    torch.testing.assert_close(image[:, 3, 0], torch.tensor([1.0, 1.0, 1.0, -1.0]))


def test_generator_is_deterministic_by_seed_and_reports_steps(tiny_weights: Path) -> None:
    generator = Generator.from_pretrained(str(tiny_weights))
    rgba = torch.rand(40, 40, 4, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, int]] = []
    a = generator(rgba, seed=3, on_step=lambda i, n: seen.append((i, n)))
    b, c = generator(rgba, seed=3), generator(rgba, seed=4)
    assert a.rgb.shape == (18, 32, 32, 3) and a.alpha.shape == (18, 32, 32)
    assert torch.equal(a.rgb, b.rgb) and not torch.equal(a.rgb, c.rgb)
    assert seen == [(1, 2), (2, 2)]
    assert float(a.rgb.min()) >= 0 and float(a.rgb.max()) <= 1
    assert len(generator.hash) == 16


def test_guidance_one_equals_the_conditional_model(tiny_weights: Path) -> None:
    model = MiniModel.load(tiny_weights)
    rgba = torch.rand(32, 32, 4, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(model(rgba, guidance=1.0).rgb, model(rgba, guidance=3.0).rgb)


@pytest.mark.parametrize("damage", ["missing", "truncated", "config"])
def test_bad_weights_give_one_sentence(tiny_weights: Path, damage: str) -> None:
    if damage == "missing":
        (tiny_weights / "vae.safetensors").unlink()
    elif damage == "truncated":
        data = (tiny_weights / "dit.safetensors").read_bytes()
        (tiny_weights / "dit.safetensors").write_bytes(data[: len(data) // 2])
    else:
        (tiny_weights / "config.json").write_text("{}")
    with pytest.raises(V3DError, match="holds no usable mini weights"):
        Generator.from_pretrained(str(tiny_weights))


def test_solid_takes_the_white_out_of_half_transparent_colour() -> None:
    red = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    alpha = torch.tensor([[[0.0, OUTLINE, 0.9, 1.0]]])
    image = torch.cat([red * alpha + 1 - alpha, alpha]) * 2 - 1
    rgb, firm = (solid(image[None])[0] / 2 + 0.5).split([3, 1])
    torch.testing.assert_close(firm, torch.tensor([[[0.0, 0.5, 1.0, 1.0]]]))
    torch.testing.assert_close(rgb[:, 0, 2], red[:, 0, 0])
    torch.testing.assert_close(rgb[:, 0, 0], torch.ones(3))


@pytest.mark.parametrize("opaque", [False, True])
def test_the_video_model_draws_what_the_guide_leaves_open(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, opaque: bool
) -> None:
    model = MiniModel.load(tiny_weights)
    model.pixelnerf.config = replace(model.pixelnerf.config, opaque=opaque)
    cameras = orbit(3, size=32)
    photo = torch.rand(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    guide, _ = draw_guide(model.pixelnerf, photo, cameras[0], cameras)
    z = model.vae.encode(guide)
    for wanted in (0.0, 0.5):
        residual = torch.full((1, 1, 1, 1, 1), wanted)
        monkeypatch.setattr(MiniModel, "_denoise", lambda self, x, sigma, r=residual, **_: r.expand_as(x))
        drawn = model.draw(photo, cameras[0], cameras, steps=3)
        expected = model.vae.decode(z + wanted)
        if opaque:  # details of the guide that the VAE cannot carry stay
            expected = guide + expected - model.vae.decode(z)
        torch.testing.assert_close(drawn.images, expected)
        torch.testing.assert_close(drawn.guide, guide if opaque else solid(guide))
        assert torch.equal(model.draw(photo, cameras[0], cameras, steps=0).images, drawn.guide)


def test_a_view_is_drawn_from_the_nearest_photos(tiny_weights: Path) -> None:
    """As if it had been asked for alone; other photos change nothing, and their order neither."""
    pixelnerf = MiniModel.load(tiny_weights).pixelnerf
    around, new = orbit(9, size=32, elevation=20.0), orbit(5, size=32)
    images = torch.rand(9, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    guide, depth = draw_guide(pixelnerf, images, around, new)
    for v in range(5):
        near = nearness(around, new[v])[:, 0].argsort(descending=True)[:MOST_READ]
        others = images.flip(3)
        others[near] = images[near]
        alone = draw_guide(pixelnerf, others, around, new[v])
        torch.testing.assert_close(alone[0][0], guide[v])
        torch.testing.assert_close(alone[1][0], depth[v])
    order = [4, 2, 0, 8, 6, 1, 3, 5, 7]
    mixed, _ = draw_guide(pixelnerf, images[order], around[order], new)
    torch.testing.assert_close(mixed, guide, atol=1e-5, rtol=0)


def test_views_drawn_before_are_seen_by_the_video_model_alone(tiny_weights: Path) -> None:
    model = MiniModel.load(tiny_weights)
    around, new = orbit(12, size=32), orbit(5, size=32)
    images = torch.rand(12, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    guide, depth = draw_guide(model.pixelnerf, images[:9], around[:9], new)
    plain = model.draw(images[:9], around[:9], new, steps=2)
    told = model.draw(images, around, new, drawn=3, steps=2)
    torch.testing.assert_close(told.guide, solid(guide))
    torch.testing.assert_close(told.depth, depth)
    assert float((told.images - plain.images).abs().max()) > 1e-3


def test_an_empty_network_samples_residuals_of_the_stated_deviation(tiny_weights: Path) -> None:
    model = MiniModel.load(tiny_weights)
    for layer in (model.dit.out, model.dit.refine.last):
        torch.nn.init.zeros_(layer.weight)  # F = 0: the data are N(0, sigma_data^2), whatever is seen
        torch.nn.init.zeros_(layer.bias)
    model.sigma_min, model.sigma_max, model.sigma_data = 1e-3, 80.0, 0.3
    geometry = Geometry.of(orbit(7), model.dit.grid)
    z = torch.zeros(6, 4, 4, 4)
    denoise = partial(model._denoise, z_photos=z[:1], guide=z, geometry=geometry, guidance=1.0)
    noise = torch.randn(40, 6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    sigmas = edm.karras_sigmas(60, model.sigma_min, model.sigma_max)
    drawn = torch.cat([edm.heun(denoise, n[None], sigmas) for n in noise])
    assert float(drawn.std()) == pytest.approx(0.3, rel=0.02)
