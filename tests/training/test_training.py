"""Training: recipes, what the models learn, what training does with bad data, and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import losses, values

from v3d.diffusion.mini import MiniModel
from v3d.diffusion.pixelnerf import load_pixelnerf
from v3d.diffusion.vae import load_vae
from v3d.errors import V3DError
from v3d.training import loop
from v3d.training.dataset import OrbitShards, Order
from v3d.training.latents import encode, recoloured
from v3d.training.recipe import OrbitRecipe, PixelNeRFRecipe, Recipe, VAERecipe, from_json, to_json
from v3d.training.train import make_task, train
from v3d.training.vae import VAETask, reconstruction_loss


def test_recipes_survive_json() -> None:
    recipes: list[Recipe] = [
        VAERecipe(data=Path("x"), widths=(1, 2, 3)),
        OrbitRecipe(vae=Path("v"), steps=7),
        OrbitRecipe.smoke(),
    ]
    for recipe in recipes:
        assert from_json(to_json(recipe)) == recipe
    with pytest.raises(V3DError, match="no recipe of this version"):
        from_json('{"recipe": "orbit", "colour": 1}')


def test_every_epoch_is_another_permutation_and_a_position_says_it_all() -> None:
    order = Order(5, seed=3)
    epochs = [[order[5 * e + i] for i in range(5)] for e in range(4)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs) and len({tuple(e) for e in epochs}) > 1
    assert [Order(5, seed=3)[i] for i in (17, 2)] == [epochs[3][2], epochs[0][2]]
    assert [Order(5, seed=4)[i] for i in range(20)] != [i for epoch in epochs for i in epoch]


def test_the_schedule_rises_stands_and_falls() -> None:
    recipe = OrbitRecipe(warmup=10, flat=0.6)
    assert loop.schedule(recipe, 0, 0.0) == pytest.approx(0.1)
    assert loop.schedule(recipe, 50, 0.5) == 1
    assert loop.schedule(recipe, 50, 0.8) == pytest.approx(0.5)
    assert loop.schedule(recipe, 50, 1.0) == pytest.approx(0.02)


def test_the_smoke_vae_learns_and_loads(orbits: Path, tmp_path: Path) -> None:
    recipe = replace(VAERecipe.smoke(), data=orbits, validation=orbits)
    progress = train(recipe, tmp_path, device="cpu")
    assert progress.step == recipe.steps and progress.skipped == 0
    assert values(tmp_path, "loss")[recipe.steps] < 0.9 * values(tmp_path, "loss")[recipe.log_steps]
    crops = values(tmp_path, "psnr of crops")
    assert crops[recipe.steps] > crops[recipe.log_steps] + 2.5
    model = load_vae(tmp_path / "model")
    images = OrbitShards(orbits)[0][0][:4].permute(0, 3, 1, 2).float() / 127.5 - 1
    assert 0.3 < float(model.encode(images).std()) < 3  # standardised
    assert len(list((tmp_path / "samples").glob("*.png"))) == 1


def test_the_smoke_orbit_model_learns_and_loads(orbits: Path, vae: Path, nerf: Path, tmp_path: Path) -> None:
    recipe = replace(OrbitRecipe.smoke(), data=orbits, validation=orbits, vae=vae, pixelnerf=nerf)
    lines: list[dict[str, float]] = []
    train(recipe, tmp_path, device="cpu", on_line=lines.append)
    curve = losses(tmp_path)
    assert curve[recipe.steps] < 0.9 * curve[recipe.log_steps]
    assert {"D80", "reversed", "wrong", "repeat", "loss0.3", "psnr"} <= lines[-1].keys()
    assert any("loss sigma 0.5-2" in line for line in lines)
    model = MiniModel.load(tmp_path / "model")
    assert len(model(torch.rand(64, 64, 4), steps=1)) == 18


def test_the_smoke_pixelnerf_learns_and_loads(orbits: Path, tmp_path: Path) -> None:
    recipe = replace(PixelNeRFRecipe.smoke(), data=orbits, validation=orbits)
    lines: list[dict[str, float]] = []
    train(recipe, tmp_path, device="cpu", on_line=lines.append)
    curve = losses(tmp_path)
    assert curve[recipe.steps] < 0.7 * curve[recipe.log_steps]
    assert {"psnr", "psnr of repeating", "psnr reversed"} <= lines[-1].keys()
    assert load_pixelnerf(tmp_path / "model").config.size == recipe.size
    assert len(list((tmp_path / "samples").glob("*.png"))) == 1


def test_damaged_shards_are_skipped(
    orbits: Path, tiny: OrbitRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in orbits.glob("orbits-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    cut = tmp_path / "orbits-00001.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    (tmp_path / "orbits-00009.tar").write_bytes(b"not a tar" * 100)
    data = OrbitShards(tmp_path)
    assert len(data) == 5 and [p.name for p in data.skipped] == [cut.name, "orbits-00009.tar"]
    assert "skipped" in caplog.text and cut.name in caplog.text
    assert train(replace(tiny, data=tmp_path, steps=1), tmp_path / "run", device="cpu").step == 1


def test_a_damaged_image_is_passed_over(
    meshes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from v3d.training.render import render_meshes
    from v3d.training.settings import RenderSettings

    render_meshes([meshes], tmp_path, RenderSettings(size=40, format="folders"))
    (tmp_path / "ball-0/views/000.png").write_bytes(b"\x89PNG no more")
    for k in range(18):
        (tmp_path / f"pillar-0/views/{k:03d}.png").write_bytes(b"")
    recipe = replace(VAERecipe.smoke(), data=tmp_path, steps=3, crop=16)
    assert train(recipe, tmp_path / "run", device="cpu").step == 3
    assert "skipped an image of pillar" in caplog.text


def test_the_latent_cache_belongs_to_its_networks(
    orbits: Path, vae: Path, nerf: Path, tmp_path: Path
) -> None:
    for path in sorted(orbits.glob("orbits-*"))[:2]:
        (tmp_path / path.name).symlink_to(path)
    shards, network, guide = OrbitShards(tmp_path), load_vae(vae), load_pixelnerf(nerf)
    first = encode(shards, network, guide)
    assert first.guides.shape == first.views.shape
    caches = {p: p.stat().st_mtime_ns for p in tmp_path.glob("latents-*")}
    assert len(first) == 6 and len(caches) == 2 and first.views.shape[1:] == (18, 8, 8, 8)
    assert torch.equal(encode(shards, network, guide).views, first.views)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("latents-*")} == caches  # not made again
    next(iter(caches)).write_bytes(b"damaged")
    assert torch.equal(encode(shards, network, guide).views, first.views)
    both = encode(shards, network, guide, appearances=2)
    assert len(both) == 12 and torch.equal(both.views[:6], first.views)
    assert float((both.views[6:] - first.views).abs().mean()) > 0.05
    network.std.mul_(2)
    torch.testing.assert_close(encode(shards, network, guide).views, first.views / 2, atol=2e-2, rtol=2e-2)


def test_another_appearance_is_what_rendering_would_give(meshes: Path) -> None:
    """Mirrored, the orbit is that of the mirrored object; the ground stays white and the silhouette in place."""
    from v3d.mesh import load_mesh
    from v3d.training.orbits import OrbitVariant, render_orbit

    mesh = load_mesh(meshes / "pillar.glb")
    orbit = render_orbit(mesh, OrbitVariant(front=20.0), size=32)
    plain = (torch.cat([orbit.rgb, orbit.alpha[..., None]], -1)[[0, *range(18)]] * 255).to(torch.uint8)
    turned = render_orbit(mesh, OrbitVariant(front=-20.0, mirror=True), size=32)
    for seed in range(20):
        images, mirrored = recoloured(plain, torch.Generator().manual_seed(seed))
        ground = plain[..., 3] == 0
        if not mirrored:
            assert torch.equal(images[..., 3], plain[..., 3])
            assert bool((images[ground][:, :3] == 255).all())
            continue
        difference = (images[[1, *range(18, 1, -1)], ..., 3].float() / 255 - turned.alpha).abs().mean()
        assert float(difference) < 0.01
        return
    raise AssertionError("never mirrored")


def test_orbits_of_another_kind_are_refused(meshes: Path, vae: Path, nerf: Path, tmp_path: Path) -> None:
    from v3d.training.render import render_meshes
    from v3d.training.settings import RenderSettings

    render_meshes([meshes / "ball.glb"], tmp_path, RenderSettings(size=32, views=6))
    with pytest.raises(V3DError, match="18 views at elevation 0"):
        make_task(OrbitRecipe(data=tmp_path, vae=vae, pixelnerf=nerf))


def test_pixelnerf_refuses_views_of_another_size(orbits: Path) -> None:
    with pytest.raises(V3DError, match="say --size 64"):
        make_task(PixelNeRFRecipe(data=orbits))


def test_the_reconstruction_loss_sees_hues() -> None:
    grey = torch.zeros(1, 4, 16, 16)
    brighter, redder = grey.clone(), grey.clone()
    brighter[:, :3] += 0.1
    redder[:, 0] += 0.3
    torch.testing.assert_close((brighter - grey).abs().mean(), (redder - grey).abs().mean())
    assert float(reconstruction_loss(redder, grey)) > 2 * float(reconstruction_loss(brighter, grey))
    assert float(reconstruction_loss(grey, grey)) == 0


def test_crops_touch_the_object(orbits: Path) -> None:
    task = VAETask(replace(VAERecipe.smoke(), data=orbits))
    for seed in range(20):
        crop = task._crop(seed, torch.Generator().manual_seed(seed))
        assert crop.shape == (32, 32, 4) and int(crop[..., 3].max()) > 0


def test_the_command_line_renders_and_trains(meshes: Path, vae: Path, tmp_path: Path) -> None:
    from v3d.cli import main

    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert main(["render", str(meshes), "-o", data, "--size", "64", "--appearance", "plain"]) == 0
    options = ["--data", data, "--vae", str(vae), "--steps", "1", "--device", "cpu", "-o", run]
    assert main(["train", "orbit-smoke", *options, "--export", str(tmp_path / "model")]) == 0
    assert MiniModel.load(tmp_path / "model").size == 64
    assert main(["train", "resume", run]) == 0
    assert main(["train", "orbit-smoke", *options]) == 2  # a run stands there
    assert main(["train", "resume", str(tmp_path)]) == 2
