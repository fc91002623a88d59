"""Training: recipes, the loop's exactness, what it does with bad data and bad files, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from v3d.diffusion.mini import MiniModel
from v3d.diffusion.pixelnerf import PixelNeRF, PixelNeRFConfig, load_pixelnerf
from v3d.diffusion.vae import load_vae
from v3d.errors import V3DError
from v3d.training import loop
from v3d.training.checkpoint import FILE, Progress, read_recipe
from v3d.training.dataset import OrbitShards, Order
from v3d.training.export import export_pixelnerf
from v3d.training.latents import encode, recoloured
from v3d.training.loop import Draw
from v3d.training.recipe import OrbitRecipe, PixelNeRFRecipe, Recipe, VAERecipe, from_json, to_json
from v3d.training.train import make_task, resume_training, train
from v3d.training.vae import VAETask, reconstruction_loss
from v3d.weights.storage import load_weights


@pytest.fixture(scope="module")
def vae(orbits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small untrained VAE, its latents standardised."""
    task = VAETask(replace(VAERecipe.smoke(), data=orbits))
    folder = tmp_path_factory.mktemp("vae")
    task.export(task.network, folder)
    return folder


@pytest.fixture(scope="module")
def nerf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small untrained PixelNeRF."""
    folder = tmp_path_factory.mktemp("pixelnerf")
    torch.manual_seed(0)
    net = PixelNeRF(PixelNeRFConfig(size=32, width=64, depth=1, grid=8, planes=4, samples=4))
    export_pixelnerf(net, folder)
    return folder


@pytest.fixture
def tiny(orbits: Path, vae: Path, nerf: Path) -> OrbitRecipe:
    """A recipe of a few steps that tells every step's loss."""
    return replace(
        OrbitRecipe.smoke(),
        data=orbits,
        vae=vae,
        pixelnerf=nerf,
        steps=8,
        batch=6,
        width=64,
        depth=1,
        warmup=2,
        log_steps=1,
    )


def training(recipe: OrbitRecipe, out: Path) -> list[str]:
    """The command of a process that trains, with as many threads as this one: sums of bfloat16 differ with their number."""
    program = (
        "import sys; from pathlib import Path; from v3d.training.recipe import from_json;"
        "from v3d.training.train import train;"
        "train(from_json(sys.argv[1]), Path(sys.argv[2]), device='cpu', threads=int(sys.argv[3]))"
    )
    return [sys.executable, "-c", program, to_json(recipe), str(out), str(torch.get_num_threads())]


def values(folder: Path, name: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def losses(folder: Path) -> dict[int, float]:
    return values(folder, "loss")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / FILE)


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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_repeats_an_uninterrupted_one(
    tiny: OrbitRecipe, tmp_path: Path, optimizer: Literal["adamw", "muon"]
) -> None:
    if not hasattr(torch.optim, optimizer.title()) and optimizer == "muon":
        pytest.skip("this torch has no Muon")
    tiny = replace(tiny, optimizer=optimizer)
    train(tiny, tmp_path / "whole", device="cpu")

    class KilledError(Exception):
        pass

    def kill(line: dict[str, float]) -> None:
        if line["step"] == 6:
            raise KilledError

    # A checkpoint after every step; killed at step 6, before its checkpoint.
    with pytest.raises(KilledError):
        train(replace(tiny, save_minutes=0.0), tmp_path / "killed", device="cpu", on_line=kill)
    assert resume_training(tmp_path / "killed", device="cpu").step == 8
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_resumes(tiny: OrbitRecipe, tmp_path: Path) -> None:
    recipe = replace(tiny, steps=30, save_minutes=0.0)
    train(recipe, tmp_path / "whole", device="cpu")
    out = tmp_path / "killed"
    with subprocess.Popen(training(recipe, out)) as process:
        while not (out / FILE).exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3 * torch.rand(()).item())
        process.send_signal(signal.SIGKILL)
    assert process.returncode != 0
    resume_training(out, device="cpu")
    assert losses(out) == losses(tmp_path / "whole")


def test_a_batch_in_parts_is_the_same_batch(tiny: OrbitRecipe, tmp_path: Path) -> None:
    exact = replace(tiny, precision="float32", steps=3)
    train(exact, tmp_path / "one", device="cpu")
    train(replace(exact, accumulate=3), tmp_path / "three", device="cpu")
    a, b = weights(tmp_path / "one"), weights(tmp_path / "three")
    for name in a:
        if name.startswith("network."):
            torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=0, msg=name)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "three"), rel=1e-3)


def test_minutes_stop_cleanly_and_a_signal_too(tiny: OrbitRecipe, tmp_path: Path) -> None:
    progress = train(replace(tiny, steps=0), tmp_path / "timed", minutes=0.01, device="cpu")
    assert progress.step >= 1 and progress.seconds >= 0.6
    MiniModel.load(tmp_path / "timed/model")

    def interrupt(line: dict[str, float]) -> None:
        if line["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert train(tiny, tmp_path / "asked", device="cpu", on_line=interrupt).step == 3
    assert resume_training(tmp_path / "asked", device="cpu").step == tiny.steps
    with pytest.raises(V3DError, match="how long"):
        train(replace(tiny, steps=0), tmp_path / "endless", device="cpu")


class Divergent:
    """A task whose loss is not a number now and then."""

    def __init__(self) -> None:
        self.network: nn.Module = nn.Linear(1, 1)

    def batch_size(self, done: float) -> int:
        return 2

    def losses(self, network: nn.Module, draw: Draw) -> dict[str, Tensor]:
        loss = (network(torch.ones(2, 1)) - 3).square()[:, 0]
        return {"loss": loss * torch.nan if draw.step % 3 == 1 else loss}

    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        return {}, None

    def refresh(self) -> None: ...

    def export(self, network: nn.Module, folder: Path) -> None: ...


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path: Path) -> None:
    task = Divergent()
    recipe = OrbitRecipe(steps=300, learning_rate=0.05, warmup=1, log_steps=1, precision="float32")
    progress = loop.run(task, recipe, tmp_path)
    assert progress.skipped == 100 and progress.step == 300
    assert float((task.network(torch.ones(1, 1)) - 3).abs().detach()) < 0.1
    assert losses(tmp_path)[300] < losses(tmp_path)[1] / 10 and 2 not in losses(tmp_path)


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


def test_unusable_files_give_one_sentence(tiny: OrbitRecipe, tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="holds no checkpoint"):
        resume_training(tmp_path)
    train(replace(tiny, steps=1), tmp_path, device="cpu")
    with pytest.raises(V3DError, match=r"holds a run already: v3d train resume"):
        train(tiny, tmp_path, device="cpu")
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(V3DError, match="is damaged"):
        resume_training(tmp_path, device="cpu")
    with pytest.raises(V3DError, match="holds no rendered orbits"):
        train(replace(tiny, data=tmp_path / "nothing"), tmp_path / "b", device="cpu")
    with pytest.raises(V3DError, match="no usable mini weights"):
        train(replace(tiny, vae=tmp_path / "nothing"), tmp_path / "b", device="cpu")


def test_training_starts_from_given_weights(tiny: OrbitRecipe, tmp_path: Path) -> None:
    train(replace(tiny, steps=2), tmp_path / "a", device="cpu")
    task = make_task(tiny, init=tmp_path / "a/model")
    kept = load_weights(tmp_path / "a/model/dit.safetensors")
    assert all(torch.equal(p, kept[name].float()) for name, p in task.network.state_dict().items())
    assert all(p.requires_grad for p in task.network.parameters())
    with pytest.raises(V3DError, match="change the recipe"):
        make_task(replace(tiny, depth=3), init=tmp_path / "a/model")


def test_checkpoints_name_their_recipe(tiny: OrbitRecipe, tmp_path: Path) -> None:
    train(replace(tiny, steps=1), tmp_path, device="cpu")
    assert read_recipe(tmp_path) == replace(tiny, steps=1)
    assert Progress().step == 0


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


@pytest.mark.slow
def test_two_processes_train_as_one(tiny: OrbitRecipe, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    import socket

    exact = replace(tiny, precision="float32", steps=3)
    train(exact, tmp_path / "one", device="cpu")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    processes = [
        subprocess.Popen(
            training(exact, tmp_path / "two"),
            env={**os.environ, **launch, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [p.wait(timeout=300) for p in processes] == [0, 0]
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        if name.startswith("network."):
            torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=0, msg=name)


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
