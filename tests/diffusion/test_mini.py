"""OrbitDiT and the generator: shapes, symmetries, determinism, honest errors."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from v3d.cameras import orbit
from v3d.diffusion import edm
from v3d.diffusion.configs import Sampling
from v3d.diffusion.dit import Block, Frames, Geometry, OrbitDiT, OrbitDiTConfig
from v3d.diffusion.generator import Generator, load_generator
from v3d.diffusion.guide import OUTLINE, Guide, firm_alpha, in_outlines, render_guide
from v3d.diffusion.mini import MiniModel, as_images
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.networks.pixelnerf import PixelNeRF, PixelNeRFConfig
from v3d.training.export import export_mini

TINY = OrbitDiTConfig(size=16, channels=(8, 16), width=64, depth=2, warps=2, sigma_data=0.5)
TINY_NERF = PixelNeRFConfig(size=16, width=64, depth=1, grid=4, planes=4, samples=4, drawn=16)


def awake(net: OrbitDiT) -> OrbitDiT:
    """A network whose zero-initialised output is not zero."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = p.data + 0.05 * torch.randn(p.shape, generator=generator)
    return net


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    export_mini(PixelNeRF(TINY_NERF), awake(OrbitDiT(TINY)), tmp_path, Sampling(steps=2, guidance=1.5))
    return tmp_path


def seen(views: int, samples: int = 1, photos: int = 1) -> dict[str, torch.Tensor]:
    """Random inputs of a tiny network: of every view some photos show something, and some do not."""
    generator = torch.Generator().manual_seed(views)
    warped = torch.randn(samples, views, 2, 5, 16, 16, generator=generator)
    warped[:, :, :, 4] = warped[:, :, :, 4].sign()
    return {
        "x": torch.randn(samples, views, 4, 16, 16, generator=generator),
        "c_noise": torch.linspace(0.1, -0.3, samples),
        "photos": torch.randn(samples, photos, 4, 16, 16, generator=generator),
        "keep": torch.ones(samples, dtype=torch.bool),
        "guide": torch.randn(samples, views, 4, 16, 16, generator=generator),
        "warped": warped,
    }


def of_views(inputs: dict[str, torch.Tensor], index: list[int]) -> dict[str, torch.Tensor]:
    return inputs | {name: inputs[name][:, index] for name in ("x", "guide", "warped")}


def test_patches_are_laid_out_rows_first() -> None:
    net = OrbitDiT(TINY)
    images = torch.randn(2, 3, 4, 16, 16)
    tokens = net.patchify(images)
    assert tokens.shape == (2, 3, 4, 4 * 64) and TINY.grid == 2
    assert torch.equal(tokens[0, 0, 1], images[0, 0, :, :8, 8:].flatten())  # second patch: first row, right


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
    """Values and gradients against torch's attention; cameras shared by the samples, and one set for each."""
    torch.manual_seed(0)
    net = awake(OrbitDiT(replace(TINY, width=128, depth=1)))
    block = net.blocks[0]
    assert isinstance(block, Block)
    sets = [Geometry.of(orbit(3, elevation=e), net.config.grid) for e in (0.0, 20.0)]
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

    here, turned = (Geometry.of(orbit(6, azimuth=a), net.config.grid) for a in (0.0, 37.0))
    y = attend(here)
    torch.testing.assert_close(y, attend(turned), atol=1e-5, rtol=1e-4)
    assert (y - attend(here[[0, 2, 1, 3, 4, 5]])).abs().max() > 1e-3


def test_network_is_equivariant_to_the_order_of_views() -> None:
    net = awake(OrbitDiT(TINY))
    geometry = Geometry.of(orbit(5), TINY.grid)
    inputs, order = seen(5, samples=2), [3, 1, 0, 4, 2]
    y = net(**inputs, geometry=geometry[[0, 0, 1, 2, 3, 4]])
    z = net(**of_views(inputs, order), geometry=geometry[[0, *order]])
    torch.testing.assert_close(y[:, order], z, atol=1e-4, rtol=1e-3)


def test_dropped_photo_does_not_matter_and_kept_photo_does() -> None:
    net = awake(OrbitDiT(TINY))
    geometry = Geometry.of(orbit(2), TINY.grid)[[0, 0, 1]]
    inputs = seen(2) | {"geometry": geometry}
    other = inputs | {"photos": -inputs["photos"]}
    no = {"keep": torch.tensor([False])}
    assert torch.equal(net(**inputs | no), net(**other | no))
    assert not torch.allclose(net(**inputs), net(**other))


def test_every_sample_may_have_its_own_cameras_and_several_photos_in_any_order() -> None:
    net = awake(OrbitDiT(TINY))
    sets = [Geometry.of(orbit(5, azimuth=a, elevation=e), TINY.grid) for a, e in ((0.0, 0.0), (50.0, 20.0))]
    inputs = seen(3, samples=2, photos=2)
    y = net(**inputs, geometry=Geometry.stack(sets))
    for b, geometry in enumerate(sets):
        one = net(**{name: t[b : b + 1] for name, t in inputs.items()}, geometry=geometry)
        torch.testing.assert_close(y[b : b + 1], one, atol=1e-5, rtol=1e-4)
    swapped = inputs | {"photos": inputs["photos"][:, [1, 0]]}
    z = net(**swapped, geometry=Geometry.stack([g[[1, 0, 2, 3, 4]] for g in sets]))
    torch.testing.assert_close(y, z, atol=1e-5, rtol=1e-4)


def test_a_view_is_told_by_its_neighbours() -> None:
    """Views are generated together: each changes the others, on patches far away too."""
    net = awake(OrbitDiT(TINY))
    geometry = Geometry.of(orbit(2), TINY.grid)[[0, 0, 1]]
    inputs = seen(2)
    other = inputs | {"x": inputs["x"].clone()}
    other["x"][:, 1, :, :2, :2] += 1
    with torch.no_grad():
        change = (net(**inputs, geometry=geometry) - net(**other, geometry=geometry))[0, 0].abs().amax(0)
    assert float(change.min()) > 0


def test_a_fresh_network_points_at_the_photos_that_show_a_view() -> None:
    """D_x is a mean of guide and photos: e parts of the guide, one of each photo that shows the pixel."""
    net = OrbitDiT(TINY)
    inputs = seen(2)
    geometry = Geometry.of(orbit(2), TINY.grid)[[0, 0, 1]]
    guide, warped = inputs["guide"], inputs["warped"]
    there = (warped[:, :, :, 4:] > 0).float()
    total = torch.e * guide + (there * warped[:, :, :, :4]).sum(2)
    wanted = total / (torch.e + there.sum(2)) - guide
    torch.testing.assert_close(-0.5 * net(**inputs, geometry=geometry), wanted, atol=1e-5, rtol=1e-4)
    nowhere = inputs | {"warped": warped.clone()}
    nowhere["warped"][:, :, :, 4] = -1
    assert float(net(**nowhere, geometry=geometry).detach().abs().max()) < 1e-6


def test_photos_are_composited_before_they_are_resized() -> None:
    rgba = torch.zeros(8, 8, 4)
    rgba[:4, :, :] = torch.tensor([1.0, 0.0, 0.0, 1.0])  # below: black, but fully transparent
    image = as_images(OrbitPhotos((rgba,)).as_views(4))[0]
    torch.testing.assert_close(image[:, 0, 0], torch.tensor([1.0, -1.0, -1.0, 1.0]))
    torch.testing.assert_close(image[:, 3, 0], torch.tensor([1.0, 1.0, 1.0, -1.0]))


def test_generator_is_deterministic_by_seed_and_reports_steps(tiny_weights: Path) -> None:
    generator = Generator.from_pretrained(str(tiny_weights))
    rgba = torch.rand(40, 40, 4, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, int]] = []
    a = generator(OrbitPhotos((rgba,)), seed=3, on_step=lambda i, n: seen.append((i, n)))
    b, c = generator(OrbitPhotos((rgba,)), seed=3), generator(OrbitPhotos((rgba,)), seed=4)
    assert a.rgb.shape == (18, 16, 16, 3) and a.alpha.shape == (18, 16, 16)
    assert torch.equal(a.rgb, b.rgb) and not torch.equal(a.rgb, c.rgb)
    assert seen == [(1, 2), (2, 2)]
    assert float(a.rgb.min()) >= 0 and float(a.rgb.max()) <= 1
    assert len(generator.hash) == 16


def test_guidance_one_equals_the_conditional_model(tiny_weights: Path) -> None:
    model = MiniModel.load(tiny_weights)
    rgba = torch.rand(32, 32, 4, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(
        model(OrbitPhotos((rgba,)), guidance=1.0).rgb, model(OrbitPhotos((rgba,)), guidance=3.0).rgb
    )


@pytest.mark.parametrize("guidance", [float("nan"), float("inf")])
def test_guidance_is_a_number(tiny_weights: Path, guidance: float) -> None:
    with pytest.raises(V3DError, match="guidance is"):
        Generator.from_pretrained(str(tiny_weights))(OrbitPhotos((torch.rand(16, 16, 4),)), guidance=guidance)


@pytest.mark.parametrize("steps", [-1, -20])
def test_steps_are_not_negative(tiny_weights: Path, steps: int) -> None:
    with pytest.raises(V3DError, match=r"cannot take .* steps; give 1 or more"):
        Generator.from_pretrained(str(tiny_weights))(OrbitPhotos((torch.rand(16, 16, 4),)), steps=steps)


def test_weights_trained_again_in_their_folder_are_loaded_again(tiny_weights: Path) -> None:
    """As a process that serves for days meets them; files that did not change are read once."""
    first = load_generator(str(tiny_weights), "cpu")
    assert load_generator(str(tiny_weights), "cpu") is first
    export_mini(PixelNeRF(TINY_NERF), OrbitDiT(TINY), tiny_weights, Sampling(steps=2, guidance=1.5))
    again = load_generator(str(tiny_weights), "cpu")
    assert again.hash != first.hash and load_generator(str(tiny_weights), "cpu") is again
    config = tiny_weights / "config.json"
    settings = json.loads(config.read_text())
    settings["sampling"]["steps"] += 1
    config.write_text(json.dumps(settings))
    assert load_generator(str(tiny_weights), "cpu").hash != again.hash  # other defaults draw other views
    (tiny_weights / "dit.safetensors").unlink()
    with pytest.raises(V3DError):
        load_generator(str(tiny_weights), "cpu")


@pytest.mark.parametrize("damage", ["missing", "truncated", "config"])
def test_bad_weights_give_one_sentence(tiny_weights: Path, damage: str) -> None:
    if damage == "missing":
        (tiny_weights / "pixelnerf.safetensors").unlink()
    elif damage == "truncated":
        data = (tiny_weights / "dit.safetensors").read_bytes()
        (tiny_weights / "dit.safetensors").write_bytes(data[: len(data) // 2])
    else:
        (tiny_weights / "config.json").write_text("{}")
    with pytest.raises(V3DError, match="holds no usable weights"):
        Generator.from_pretrained(str(tiny_weights))


def test_solid_takes_the_white_out_of_half_transparent_colour() -> None:
    red = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    alpha = torch.tensor([[[0.0, OUTLINE, 0.9, 1.0]]])
    image = torch.cat([red * alpha + 1 - alpha, alpha]) * 2 - 1
    rgb, firm = (firm_alpha(image[None])[0] / 2 + 0.5).split([3, 1])
    torch.testing.assert_close(firm, torch.tensor([[[0.0, 0.5, 1.0, 1.0]]]))
    torch.testing.assert_close(rgb[:, 0, 2], red[:, 0, 0])
    torch.testing.assert_close(rgb[:, 0, 0], torch.ones(3))


@pytest.mark.parametrize("opaque", [False, True])
def test_the_video_model_draws_what_the_guide_leaves_open(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, opaque: bool
) -> None:
    model = MiniModel.load(tiny_weights)
    model.pixelnerf.config = replace(model.pixelnerf.config, opaque=opaque)
    cameras = orbit(3, size=16)
    photo = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    guide = render_guide(model.pixelnerf, photo, cameras[0], cameras, 2).images
    for wanted in (0.0, 0.5):
        residual = torch.full((1, 1, 1, 1, 1), wanted)
        monkeypatch.setattr(
            MiniModel, "_denoise", staticmethod(lambda dit, x, sigma, r=residual, **_: r.expand_as(x))
        )
        generated = model.generate(photo, cameras[0], cameras, steps=3)
        expected = guide + wanted
        torch.testing.assert_close(generated.images, expected if opaque else in_outlines(expected, guide))
        torch.testing.assert_close(generated.guide, guide)
        assert torch.equal(model.generate(photo, cameras[0], cameras, steps=0).images, generated.guide)


def test_views_drawn_before_are_seen_by_the_video_model_alone(tiny_weights: Path) -> None:
    model = MiniModel.load(tiny_weights)
    around, new = orbit(12, size=16), orbit(5, size=16)
    images = torch.rand(12, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    guide = render_guide(model.pixelnerf, images[:9], around[:9], new, 2)
    plain = model.generate(images[:9], around[:9], new, steps=2)
    informed = model.generate(images, around, new, n_generated=3, steps=2)
    torch.testing.assert_close(informed.guide, guide.images)
    torch.testing.assert_close(informed.depth, guide.depth)
    assert float((informed.images - plain.images).abs().max()) > 1e-3


def test_an_empty_network_samples_residuals_of_the_stated_deviation(tiny_weights: Path) -> None:
    model = MiniModel.load(tiny_weights)
    torch.nn.init.zeros_(model.dit.out.weight)  # F = 0: the data are N(0, sigma_data^2), whatever is seen
    torch.nn.init.zeros_(model.dit.out.bias)
    geometry = Geometry.of(orbit(7), TINY.grid)
    nothing = torch.zeros(6, 4, 16, 16)
    guide = Guide(nothing, nothing[:, 0], -torch.ones(6, 2, 5, 16, 16))
    denoise = partial(
        model._denoise, model.dit, photos=nothing[:1], guide=guide, geometry=geometry, guidance=1.0
    )
    noise = torch.randn(4, 6, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sigmas = edm.karras_sigmas(60, 1e-3, 80.0)
    generated = torch.cat([edm.heun(denoise, n[None], sigmas) for n in noise])
    assert float(generated.std()) == pytest.approx(TINY.sigma_data, rel=0.02)
