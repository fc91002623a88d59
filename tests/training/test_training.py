"""Training: recipes, what the models learn, what training does with bad data, and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh
from runs import losses, values

from shapes import textured
from v3d.cameras import orbit
from v3d.data.fresh_orbits import OrbitLayout
from v3d.data.orbit_shards import OrbitShards, recoloured
from v3d.data.render_orbits import render_meshes
from v3d.data.settings import FreshOrbits, RenderSettings
from v3d.diffusion.guide import render_guide
from v3d.diffusion.mini import MiniModel
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.evaluation.comparison import silhouette_consistency
from v3d.meshes.glb import save_glb
from v3d.networks.configs import VAEConfig
from v3d.networks.pixelnerf import PixelNeRF, load_pixelnerf
from v3d.networks.vae import load_vae
from v3d.surface.carving import carve
from v3d.surface.extract import marching_cubes
from v3d.training.examples import OrbitExamples
from v3d.training.fresh_rays import AROUND, KEPT
from v3d.training.guides import OrbitGuides
from v3d.training.learner import schedule
from v3d.training.order import Order
from v3d.training.recipe import PixelNeRFRecipe, Recipe, VAERecipe, VideoRecipe
from v3d.training.recipe_json import from_json, to_json
from v3d.training.ring import rows_in
from v3d.training.session import make_task, train
from v3d.training.tasks.pixelnerf import PixelNeRFTask
from v3d.training.tasks.vae import VAETask, reconstruction_loss
from v3d.views import Views
from v3d.weights.storage import weights_fingerprint


def test_recipes_survive_json() -> None:
    recipes: list[Recipe] = [
        VAERecipe(data=Path("x"), network=VAEConfig(widths=(1, 2, 3))),
        PixelNeRFRecipe.scenes(),
        VideoRecipe(pixelnerf=Path("v"), steps=7),
        VideoRecipe.scenes_smoke(),
        PixelNeRFRecipe(fresh=FreshOrbits(meshes=(Path("a"), Path("b")), index=Path("c"))),
        VideoRecipe.large(),
    ]
    for recipe in recipes:
        assert from_json(to_json(recipe)) == recipe
    with pytest.raises(V3DError, match="no recipe of this version"):
        from_json('{"recipe": "video", "colour": 1}')
    with pytest.raises(V3DError, match="no recipe of this version"):  # sizes once stood in the recipe itself
        from_json('{"recipe": "pixelnerf", "width": 192}')
    with pytest.raises(V3DError, match="no recipe of this version"):
        from_json('{"recipe": "pixelnerf", "network": {"wide": 192}}')


def test_the_large_recipe_is_that_of_the_larger_weights() -> None:
    """Its sizes have their number of parameters, and its length their samples and orbits."""
    recipe = PixelNeRFRecipe.large()
    with torch.device("meta"):
        network = PixelNeRF(recipe.network)
    assert sum(p.numel() for p in network.parameters()) == 42_825_669
    counts = recipe.source_counts
    samples = recipe.steps * sum(recipe.batch // n for n in counts) / len(counts)
    assert samples == pytest.approx(498_000, rel=0.02)
    assert recipe.fresh.rendered_by(recipe.steps) == pytest.approx(32_407, rel=0.01)
    row = OrbitLayout(recipe.network.size, KEPT + AROUND).nbytes
    assert rows_in(recipe.fresh.orbit_gigabytes, row) > 32_000  # no orbit had to go


def test_what_follows_from_the_data_is_no_option() -> None:
    from v3d.cli import main

    for options in (["pixelnerf", "--opaque"], ["orbit", "--size", "64"]):
        with pytest.raises(SystemExit):
            main(["train", *options])


def test_every_epoch_is_another_permutation_and_a_position_says_it_all() -> None:
    order = Order(5, seed=3)
    epochs = [[order[5 * e + i] for i in range(5)] for e in range(4)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs) and len({tuple(e) for e in epochs}) > 1
    assert [Order(5, seed=3)[i] for i in (17, 2)] == [epochs[3][2], epochs[0][2]]
    assert [Order(5, seed=4)[i] for i in range(20)] != [i for epoch in epochs for i in epoch]


def test_the_schedule_rises_stands_and_falls() -> None:
    recipe = VideoRecipe(warmup=10, flat=0.6)
    assert schedule(recipe, 0, 0.0) == pytest.approx(0.1)
    assert schedule(recipe, 50, 0.5) == 1
    assert schedule(recipe, 50, 0.8) == pytest.approx(0.5)
    assert schedule(recipe, 50, 1.0) == pytest.approx(0.02)


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


def test_the_smoke_orbit_model_learns_and_loads(orbits: Path, nerf: Path, tmp_path: Path) -> None:
    recipe = replace(VideoRecipe.smoke(), data=orbits, validation=orbits, pixelnerf=nerf)
    lines: list[dict[str, float]] = []
    train(recipe, tmp_path, device="cpu", on_line=lines.append)
    curve = losses(tmp_path)
    assert curve[recipe.steps] < 0.9 * curve[recipe.log_steps]
    assert {"psnr of guide, 1", "lpips of one step, 1", "loss at 0.5"} <= lines[-1].keys()
    assert {"first step", "noisy", "lpips"} <= lines[0].keys()
    model = MiniModel.load(tmp_path / "model")
    assert len(model(OrbitPhotos((torch.rand(64, 64, 4),)), steps=1)) == 18


def test_the_smoke_pixelnerf_learns_and_loads(orbits: Path, tmp_path: Path) -> None:
    recipe = replace(PixelNeRFRecipe.smoke(), data=orbits, validation=orbits)
    lines: list[dict[str, float]] = []
    train(recipe, tmp_path, device="cpu", on_line=lines.append)
    curve = losses(tmp_path)
    assert curve[recipe.steps] < 0.7 * curve[recipe.log_steps]
    assert {"psnr", "psnr of repeating", "psnr reversed"} <= lines[-1].keys()
    assert load_pixelnerf(tmp_path / "model").config == recipe.network
    assert len(list((tmp_path / "samples").glob("*.png"))) == 1


def test_damaged_shards_are_skipped(
    orbits: Path, tiny: VideoRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
    render_meshes([meshes], tmp_path, RenderSettings(size=40, format="folders"))
    (tmp_path / "ball-0/views/000.png").write_bytes(b"\x89PNG no more")
    for k in range(18):
        (tmp_path / f"pillar-0/views/{k:03d}.png").write_bytes(b"")
    recipe = replace(VAERecipe.smoke(), data=tmp_path, steps=3, crop=16)
    assert train(recipe, tmp_path / "run", device="cpu").step == 3
    assert "pillar-0" in caplog.text


def test_guides_are_drawn_once_for_their_network(orbits: Path, nerf: Path, tmp_path: Path) -> None:
    for path in sorted(orbits.glob("orbits-*"))[:2]:
        (tmp_path / path.name).symlink_to(path)
    network = load_pixelnerf(nerf)

    def first(data: OrbitGuides) -> torch.Tensor:
        return data.draw(0, 1, 18, torch.Generator().manual_seed(0)).guide.images

    data = OrbitGuides(OrbitShards(tmp_path), network, warps=1)
    images = first(data)
    caches = {p: p.stat().st_mtime_ns for p in tmp_path.glob("guides-*")}
    assert len(data) == 6 and len(caches) == 2 and images.shape == (18, 4, 64, 64)
    assert all(weights_fingerprint(network) in path.name for path in caches)
    assert torch.equal(first(OrbitGuides(OrbitShards(tmp_path), network, warps=1)), images)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("guides-*")} == caches  # not made again
    sorted(caches)[0].write_bytes(b"damaged")
    assert torch.equal(first(OrbitGuides(OrbitShards(tmp_path), network, warps=1)), images)
    with torch.no_grad():
        network.decoded.bias += 0.3
    assert not torch.equal(first(OrbitGuides(OrbitShards(tmp_path), network, warps=1)), images)


def test_an_example_is_one_orbit_in_one_appearance(orbits: Path, nerf: Path) -> None:
    """Photo, views and guide share colours and mirroring; a guide is what PixelNeRF renders of the photo."""
    data, network = OrbitGuides(OrbitShards(orbits), load_pixelnerf(nerf), warps=1), load_pixelnerf(nerf)
    shards, turned = OrbitShards(orbits), 0
    for seed in range(8):
        some = data.draw(2, 1, 4, torch.Generator().manual_seed(seed))
        frames = [int(torch.cdist(c[None], orbit(18).centers).argmin()) for c in some.cameras.centers[1:]]
        mirrored = not torch.equal(some.photos[0, 3], shards.photo(2)[..., 3].float() / 127.5 - 1)
        assert len(set(frames)) == 4
        for k, view in zip(frames, some.views, strict=True):
            alpha = shards.view(2, -k if mirrored else k)[..., 3].float() / 127.5 - 1
            torch.testing.assert_close(view[3], alpha.flip(1) if mirrored else alpha)
        turned += mirrored
    assert 0 < turned < 8
    generator = torch.Generator().manual_seed(0)
    plain = data.draw(2, 1, 18, generator)
    rendered = render_guide(network, plain.photos, plain.cameras[0], plain.cameras[1:], 1)
    assert float((plain.guide.images - rendered.images)[:, 3].abs().mean()) < 0.05


def test_another_appearance_is_what_rendering_would_give(meshes: Path) -> None:
    """Mirrored, the orbit is the mirrored object's; the ground stays white, the silhouette in place."""
    from v3d.data.variants import OrbitVariant, render_orbit
    from v3d.meshes.files import load_mesh

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


def test_views_around_stay_in_one_world(tmp_path: Path) -> None:
    """However turned and mirrored, source and targets show one solid: its hull fills silhouettes."""
    boxes = [trimesh.creation.box(extents=size) for size in ((0.4, 0.5, 1.4), (0.9, 0.3, 0.4))]
    boxes[1].apply_translation((0.4, 0.1, -0.5))
    save_glb(textured(trimesh.util.concatenate(boxes), 0), tmp_path / "boot.glb")
    render_meshes(
        [tmp_path / "boot.glb"], tmp_path, RenderSettings(rounds=2, size=64, around=10, appearance="plain")
    )
    data = OrbitShards(tmp_path)
    assert data[0][0].shape == (28, 64, 64, 4)
    low, high = data.cameras(0).centers[18:, 2].aminmax()
    assert -1.001 <= float(low) < 0 < float(high) < 2
    for alpha in data[0][0][18:, ..., 3].float():  # the wide cameras see all of it
        assert float(torch.cat([alpha[[0, -1]].flatten(), alpha[:, [0, -1]].flatten()]).max()) == 0
    exact, examples = 0, OrbitExamples(tmp_path)
    for seed in range(6):
        clip = examples.clip(0, 1, 28, torch.Generator().manual_seed(seed), any_front=True)
        views = Views(*clip.targets.permute(0, 2, 3, 1).split([3, 1], -1), clip.target_cameras)
        views = replace(views, alpha=views.alpha[..., 0])
        assert float(silhouette_consistency(views, marching_cubes(carve(views))).min()) > 0.85
        away = (clip.target_cameras.centers - clip.source_cameras.centers).norm(dim=-1)
        assert float(away.min()) < 1e-4
        # The source stands where one of the orbit's cameras does, and sees the same, or the photo, framed
        # anew.
        exact += torch.equal(clip.targets[int(away.argmin())], clip.sources[0])
    assert exact > 0
    task = PixelNeRFTask(replace(PixelNeRFRecipe.smoke(), data=tmp_path, validation=tmp_path))
    measured, _ = task.validate(task.network.eval())
    assert set(measured) == {"psnr", "psnr of repeating", "psnr reversed", "psnr around"}


def test_orbits_of_another_kind_are_refused(meshes: Path, nerf: Path, tmp_path: Path) -> None:
    render_meshes([meshes / "ball.glb"], tmp_path, RenderSettings(size=32, views=6))
    with pytest.raises(V3DError, match="18 views at elevation 0"):
        make_task(VideoRecipe(data=tmp_path, pixelnerf=nerf))


def test_more_views_than_an_orbit_has_are_refused(tiny: VideoRecipe) -> None:
    with pytest.raises(V3DError, match="An orbit has 18 views"):
        make_task(replace(tiny, views=20))


def test_pixelnerf_refuses_views_of_another_size(orbits: Path) -> None:
    with pytest.raises(V3DError, match="say --size 64"):
        make_task(PixelNeRFRecipe(data=orbits))


@pytest.mark.parametrize("crop", [20, 30, 72])
def test_crops_that_do_not_fit_are_refused(orbits: Path, crop: int) -> None:
    """They are a multiple of 8 pixels, as latents are 8 times smaller, and no larger than a view."""
    with pytest.raises(V3DError, match=f"--crop is {crop}; .* at most the 64 pixels"):
        make_task(replace(VAERecipe.smoke(), data=orbits, crop=crop))


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


def test_the_command_line_renders_and_trains(meshes: Path, nerf: Path, tmp_path: Path) -> None:
    from v3d.cli import main

    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert main(["render", str(meshes), "-o", data, "--size", "64", "--appearance", "plain"]) == 0
    options = ["--data", data, "--pixelnerf", str(nerf), "--steps", "1", "--device", "cpu", "-o", run]
    assert main(["train", "orbit-smoke", *options, "--export", str(tmp_path / "model")]) == 0
    assert MiniModel.load(tmp_path / "model").size == 64
    assert main(["train", "resume", run]) == 0
    assert main(["train", "orbit-smoke", *options]) == 2  # a run stands there
    assert main(["train", "resume", str(tmp_path)]) == 2
