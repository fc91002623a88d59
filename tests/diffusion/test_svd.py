"""The released model's sampling against an independent small implementation of the same mathematics."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from sgm_layout import tiny_release

from v3d.cameras import orbit
from v3d.diffusion.generator import Generator
from v3d.diffusion.official.convert import convert
from v3d.diffusion.official.networks import load_networks
from v3d.diffusion.photos import OrbitPhotos
from v3d.diffusion.svd import SVDModel, clip_pixels, use_single_token_attention
from v3d.distribution import install_hint
from v3d.errors import V3DError

VIEWS, SIZE, LATENT = 4, 32, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("svd")
    v3d, svd, _ = tiny_release(root)
    return convert(v3d, svd, root / "official").folder


@pytest.fixture(scope="module")
def model(folder):
    return replace(SVDModel.load(folder, dtype=torch.float32), views=VIEWS, size=SIZE)


@pytest.fixture(scope="module")
def photo():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    alpha = ((x**2 + y**2) < 0.5).float()
    return torch.stack([0.5 + 0.4 * x, 0.5 + 0.4 * y, torch.full_like(x, 0.2), alpha], -1)


def reference_orbit(networks, image, seed, steps, guidance):
    """The original's inference, written out: no shared code, a pass per condition, float64 noise levels."""
    generator = torch.Generator().manual_seed(seed)
    embedding = networks.image_encoder(clip_pixels(image)).image_embeds[:, None]
    moments = networks.vae.quant_conv(networks.vae.encoder(image))
    mean, log_variance = moments.chunk(2, dim=1)
    noise = torch.randn(2, *mean.shape, generator=generator)
    concat = mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise[0] + 0.02 * noise[1]
    ids = torch.tensor([[1.0, 300.0, 0.02]])
    z = torch.randn(1, VIEWS, 4, LATENT, LATENT, generator=generator) * 700.0
    low, high = 0.002 ** (1 / 7), 700.0 ** (1 / 7)
    levels = [(high + i / (steps - 1) * (low - high)) ** 7 for i in range(steps)] + [0.0]
    for sigma, after in pairwise(levels):
        time = torch.tensor([0.25 * torch.tensor(sigma).log()])
        outputs = []
        for context, latent in ((embedding * 0, concat * 0), (embedding, concat)):
            frames = [
                torch.cat([z[:, i] / (sigma**2 + 1) ** 0.5, latent], dim=1) for i in range(VIEWS)
            ]  # every frame sees the same condition latent
            v = networks.unet(torch.stack(frames, dim=1), time, context, ids).sample
            outputs.append(z / (sigma**2 + 1) - v * sigma / (sigma**2 + 1) ** 0.5)
        denoised = outputs[0] + guidance * (outputs[1] - outputs[0])
        z = z + (z - denoised) / sigma * (after - sigma)
    return z


@torch.no_grad()
def test_whole_loop_against_a_reference(folder, model):
    reference = load_networks(folder, torch.float32)
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5)) * 2 - 1
    expected = reference_orbit(reference, image, seed=3, steps=5, guidance=3.5)
    generator = torch.Generator().manual_seed(3)
    conditions = model.condition(image, generator)
    noise = torch.randn(1, VIEWS, 4, LATENT, LATENT, generator=generator)
    found = model.sample(conditions, noise, steps=5, guidance=3.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4 * float(expected.std()))
    with_less = model.sample(conditions, noise, steps=5, guidance=2.0)
    assert (with_less - expected).std() > 0.01 * expected.std()  # the comparison can fail


@torch.no_grad()
def test_low_memory_changes_no_latents(model):
    image = torch.zeros(1, 3, SIZE, SIZE)
    conditions = model.condition(image, torch.Generator().manual_seed(0))
    noise = torch.randn(1, VIEWS, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(1))
    normal = model.sample(conditions, noise, steps=3)
    low = replace(model, memory="low").sample(conditions, noise, steps=3)
    torch.testing.assert_close(low, normal, rtol=0, atol=1e-4 * float(normal.std()))


@torch.no_grad()
def test_single_token_attention_is_exact(folder):
    plain, fast = (load_networks(folder, torch.float64).unet for _ in range(2))
    use_single_token_attention(fast)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 8, 8, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 1, 24, generator=generator, dtype=torch.float64)
    inputs = (x, torch.tensor([0.3, -1.0]), context, torch.tensor([[1.0, 300.0, 0.02]]).repeat(2, 1))
    torch.testing.assert_close(fast(*inputs).sample, plain(*inputs).sample, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [576, 512, 256, 128])
def test_clip_resize_is_the_originals(size):
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
        _resize_with_antialiasing,  # agrees with the original's kornia call to 2e-7
    )

    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    expected = (_resize_with_antialiasing(image, (224, 224)) * 0.5 + 0.5 - mean) / std
    torch.testing.assert_close(clip_pixels(image), expected, rtol=0, atol=5e-6)


@torch.no_grad()
def test_conditions_follow_the_original(model):
    image = torch.zeros(1, 3, SIZE, SIZE)
    draws = [model.condition(image, torch.Generator().manual_seed(seed)).latent for seed in range(64)]
    posterior = model.networks.vae.encode(image).latent_dist
    spread = torch.stack(draws).std(0)
    expected = (
        posterior.var + 0.02**2
    ).sqrt()  # the posterior is sampled, then noise of 0.02 is added; no 0.18215
    assert (spread / expected).mean() == pytest.approx(1, abs=0.03)
    assert (torch.stack(draws).mean(0) - posterior.mean).abs().mean() < 0.25 * expected.mean()
    conditions = model.condition(image, torch.Generator())
    assert conditions.time_ids.tolist() == [pytest.approx([1, 300, 0.02])]
    dropped = conditions.dropped()
    assert not dropped.embedding.any()
    assert not dropped.latent.any()
    assert torch.equal(dropped.time_ids, conditions.time_ids)


def test_views_of_a_photo(model, photo, caplog):
    steps = []
    with caplog.at_level(logging.WARNING):
        views = model(
            OrbitPhotos((photo,)), seed=1, steps=3, on_step=lambda done, of: steps.append((done, of))
        )
    assert "minutes on this CPU" in caplog.text
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert views.rgb.shape == (VIEWS, SIZE, SIZE, 3)
    assert views.alpha.shape == (VIEWS, SIZE, SIZE)
    assert views.rgb.min() >= 0
    assert views.rgb.max() <= 1
    assert torch.equal(views.cameras.c2w, orbit(VIEWS, size=SIZE).c2w)
    assert torch.isfinite(views.rgb).all()
    again = model(OrbitPhotos((photo,)), seed=1, steps=3)
    other = model(OrbitPhotos((photo,)), seed=2, steps=3)
    assert torch.equal(again.rgb, views.rgb)
    assert not torch.equal(other.rgb, views.rgb)


def test_further_photos_hold_their_views(model, photo):
    """They are what their views show, and the views beside them are generated to fit."""
    back = torch.cat([1 - photo[..., :3], photo[..., 3:]], -1)
    half = VIEWS // 2
    azimuth = 360.0 * half / VIEWS
    alone = model(OrbitPhotos((photo,)), seed=1, steps=3)
    views = model(OrbitPhotos((photo, back), (0.0, azimuth)), seed=1, steps=3)
    given = OrbitPhotos((photo, back), (0.0, azimuth)).as_views(SIZE)
    assert len(views) == VIEWS and torch.equal(views.rgb[half], given.rgb[1])
    assert not torch.equal(views.rgb[half - 1], alone.rgb[half - 1])
    latent = model.encode(model._on_white(back))
    noise = torch.randn(1, VIEWS, *latent.shape, generator=torch.Generator().manual_seed(2))
    conditions = model.condition(model._on_white(photo), torch.Generator().manual_seed(1))
    latents = model.sample(conditions, noise, 3, known={half: latent})
    torch.testing.assert_close(latents[0, half], latent, atol=1e-4, rtol=0)


def test_photos_between_the_views_are_refused_in_one_sentence(model, photo):
    between = OrbitPhotos((photo, photo.flip(0)), (0.0, 180.0 / VIEWS))
    with pytest.raises(V3DError, match="degrees from it"):
        model(between, steps=3)


def test_an_orbit_of_a_photo_from_above_stands_upright(model, photo):
    """The model turns around the tilted object; the cameras say how it is tilted."""
    views = model(OrbitPhotos((photo,), elevation=20.0), steps=1)
    assert torch.allclose(views.cameras.c2w[0], orbit(1, elevation=20.0).c2w[0], atol=1e-5)
    assert torch.allclose(views.cameras.c2w, orbit(VIEWS).tilted(20.0).c2w, atol=1e-5)


@pytest.mark.parametrize("steps", [0, -2])
def test_the_official_weights_take_at_least_one_step(model, photo, steps):
    with pytest.raises(V3DError, match="give 1 or more, or leave steps out"):
        Generator(model, "official")(OrbitPhotos((photo,)), steps=steps)


def test_half_precision_follows_float32(folder, model):
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5)) * 2 - 1
    noise = torch.randn(1, VIEWS, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(1))
    half = replace(SVDModel.load(folder, dtype=torch.bfloat16), views=VIEWS, size=SIZE)
    assert half.networks.vae.encoder.conv_in.weight.dtype == torch.float32
    found = []
    with torch.no_grad():
        for one in (model, half):
            latents = one.sample(
                one.condition(image, torch.Generator().manual_seed(0)), noise, steps=3, guidance=1.0
            )
            found.append(one.decode(latents[0]))
    assert (found[1] - found[0]).std() < 0.1 * found[0].std()


@torch.no_grad()
def test_8_bit_matrices_change_little_and_take_half(folder, model):
    """Rounding to 8 bits costs less than bfloat16 arithmetic; a moved network computes the same."""
    pytest.importorskip("torchao")
    small = replace(SVDModel.load(folder, dtype=torch.float32, int8=True), views=VIEWS, size=SIZE)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, VIEWS, 8, LATENT, LATENT, generator=generator)
    context = torch.randn(1, 1, 24, generator=generator)
    inputs = (x, torch.tensor([0.3]), context, torch.tensor([[1.0, 300.0, 0.02]]))
    expected = model.networks.unet(*inputs).sample
    found = small.networks.unet(*inputs).sample
    assert 0 < float((found - expected).std() / expected.std()) < 0.02
    matrices = [m.weight for m in small.networks.unet.modules() if isinstance(m, torch.nn.Linear)]
    assert len(matrices) > 50 and all(type(w.data).__name__ != "Tensor" for w in matrices)
    low = replace(small, memory="low")
    conditions = low.condition(torch.zeros(1, 3, SIZE, SIZE), torch.Generator().manual_seed(0))
    noise = torch.randn(1, VIEWS, 4, LATENT, LATENT, generator=generator)
    latents = low.sample(conditions, noise, steps=2)
    assert bool(latents.isfinite().all())


def test_8_bit_weights_without_torchao_are_one_sentence(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(V3DError, match=re.escape(install_hint("int8"))):
        SVDModel.load(folder, int8=True)


def test_the_time_estimate_is_near_the_truth(model, photo):
    import time

    start = time.perf_counter()
    model(OrbitPhotos((photo,)), steps=6)
    took = time.perf_counter() - start
    assert (
        0.1 < model.estimate_seconds(6) / took < 10
    )  # shared machines are noisy; the factor 2*V/part is not lost


def test_generator_loads_a_converted_folder(folder):
    generator = Generator.from_pretrained(str(folder), memory="low")
    assert isinstance(generator.model, SVDModel)
    assert generator.model.memory == "low"
    assert len(generator.hash) == 16


def test_no_cuda_is_one_sentence(folder):
    if torch.cuda.is_available():
        pytest.skip("has CUDA")
    with pytest.raises(V3DError, match="v3d doctor"):
        SVDModel.load(folder, "cuda", dtype=torch.float16)


def test_missing_packages_are_one_sentence(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(V3DError, match=re.escape(install_hint("official"))):
        SVDModel.load(folder)
