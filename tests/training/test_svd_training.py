"""Tuning SVD: the loss fits the sampler, the draws are the paper's, runs resume, weights sample."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from v3d.data.orbit_shards import OrbitShards
from v3d.diffusion import edm
from v3d.diffusion.conditions import Conditions, cat_conditions, run_unet
from v3d.diffusion.generator import Generator
from v3d.diffusion.official.networks import load_networks, unet_network
from v3d.diffusion.photos import OrbitPhotos
from v3d.diffusion.svd import SVDModel
from v3d.errors import V3DError
from v3d.training.checkpoint import FILE
from v3d.training.recipe import SVDRecipe
from v3d.training.recipe_json import from_json, to_json
from v3d.training.session import make_task, resume_training, train
from v3d.training.svd_latent_cache import LatentCache, OrbitLatents
from v3d.training.task import BatchShare
from v3d.training.tasks.svd import SVDTask, is_temporal, withheld

UNET = {
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "block_out_channels": (32, 32),
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "num_attention_heads": (1, 1),
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "sample_size": 16,
}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 56,
    "projection_dim": 24,
    "hidden_act": "gelu",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny networks in diffusers' layout, initialised as such networks are."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("svd")
    torch.manual_seed(0)
    networks: dict[str, Any] = {
        "unet": UNetSpatioTemporalConditionModel.from_config(UNET),
        "vae": AutoencoderKLTemporalDecoder.from_config(VAE),
        "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(CLIP)),
    }
    for (part, network), config in zip(networks.items(), (UNET, VAE, CLIP), strict=True):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
        save_file(
            {k: v.contiguous() for k, v in network.state_dict().items()}, folder / part / "m.safetensors"
        )
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture
def recipe(orbits: Path, base: Path) -> SVDRecipe:
    return SVDRecipe(
        data=orbits,
        model=str(base),
        size=16,
        steps=3,
        batch=2,
        accumulate=1,
        learning_rate=2e-3,
        warmup=1,
        ema=0.9,
        checkpointing=False,
        log_steps=1,
        sampler_steps=2,
    )


def small(orbits: Path, folder: Path) -> Path:
    """A folder with the last shard alone, of two orbits."""
    folder.mkdir(parents=True)
    path = sorted(orbits.glob("orbits-*"))[-1]
    (folder / path.name).symlink_to(path)
    return folder


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def draw(batch: int = 2, step: int = 0) -> BatchShare:
    return BatchShare(step, step * batch, 0.0, batch, list(range(batch)), seed=0, device=torch.device("cpu"))


class Recorder(torch.nn.Module):
    """Stands for the UNet: remembers what it is given and answers with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = torch.nn.Conv2d(1, 1, 1)
        self.calls: list[tuple[Tensor, ...]] = []

    def forward(self, *inputs: Tensor) -> Any:
        from types import SimpleNamespace

        self.calls.append(inputs)
        return SimpleNamespace(sample=torch.zeros_like(inputs[0][:, :, :4]))


def test_the_recipe_is_the_papers_and_survives_json() -> None:
    recipe = SVDRecipe(model="somewhere", steps=3)
    assert from_json(to_json(recipe)) == recipe
    assert (recipe.P_mean, recipe.P_std, recipe.drop) == (1.5, 2.0, 0.2)
    assert (recipe.augmentation_mean, recipe.augmentation_std, recipe.size) == (-3.0, 0.5, 512)


def test_the_optimal_network_has_no_loss_and_the_sampler_then_finds_the_data(
    recipe: SVDRecipe, base: Path
) -> None:
    """One parametrisation: the v that zeroes the loss makes the sampler return the data."""
    x0 = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    class Perfect(torch.nn.Module):
        """Knows x0, and answers F = (x0 - c_skip x) / c_out."""

        def __init__(self) -> None:
            super().__init__()
            self.conv_in = torch.nn.Conv2d(1, 1, 1, dtype=torch.float64)
            self.config = type("Config", (), {})()

        def forward(self, inputs: Tensor, c_noise: Tensor, context: Tensor, ids: Tensor) -> Any:
            sigma = edm.expand((4 * c_noise).exp().to(inputs), inputs)
            x = inputs[:, :, :4] * (1 + sigma**2).sqrt()
            answer = x0.repeat(len(x) // len(x0), 1, 1, 1, 1)
            v = (x / (1 + sigma**2) - answer) * (1 + sigma**2).sqrt() / sigma
            return type("Output", (), {"sample": v})

    conditions = Conditions(torch.ones(1, 1, 24), torch.ones(1, 4, 4, 4), torch.ones(1, 3))
    denoise = partial(edm.Preconditioning().denoise, partial(run_unet, Perfect(), conditions=conditions))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for level in (0.05, 1.0, 30.0, 700.0):
        sigma = torch.tensor([level], dtype=torch.float64)
        assert float(edm.edm_loss(denoise, x0, sigma, noise, edm.Preconditioning())) < 1e-9
    model = SVDModel(replace(load_networks(base, torch.float32), unet=Perfect()), torch.device("cpu"), "")
    for sampler in (edm.euler, edm.heun, edm.dpm_solver_2m):
        found = replace(model, sampler=sampler).sample(conditions, noise, steps=8)
        torch.testing.assert_close(found, x0, atol=1e-5, rtol=0)


def test_conditions_are_drawn_as_the_paper_says(recipe: SVDRecipe) -> None:
    recorder = Recorder()
    task = SVDTask(recipe)
    values = task.losses(recorder, draw(2))
    assert set(values) >= {"loss", "loss sigma 0.5-2"} and values["loss"].shape == (2,)
    for step in range(60):
        task.losses(recorder, draw(16, step))
    calls = recorder.calls[1:]
    inputs, context, ids = (torch.cat([call[k] for call in calls]) for k in (0, 2, 3))
    c_noise = torch.cat([call[1] for call in calls])
    assert bool((ids[:, 0] == 1).all()) and bool((ids[:, 1] == 300).all())
    assert float(ids[:, 2].log().mean()) == pytest.approx(-3, abs=0.06)
    assert float(ids[:, 2].log().std()) == pytest.approx(0.5, abs=0.05)
    assert float((4 * c_noise).mean()) == pytest.approx(1.5, abs=0.2)
    assert float((4 * c_noise).std()) == pytest.approx(2.0, abs=0.15)
    no_latent = (inputs[:, :, 4:] == 0).flatten(1).all(1)
    no_embedding = (context == 0).flatten(1).all(1)
    assert float(no_latent.float().mean()) == pytest.approx(0.2, abs=0.04)
    assert float(no_embedding.float().mean()) == pytest.approx(0.2, abs=0.04)
    assert float((no_latent & no_embedding).float().mean()) == pytest.approx(0.04, abs=0.02)
    assert bool((inputs[:, :1, 4:] == inputs[:, :, 4:]).all())  # every frame sees the same latent


def test_training_and_sampling_mean_the_same_conditions(recipe: SVDRecipe, base: Path) -> None:
    """The cached conditions of front 0 are those that the sampler makes of the photo."""
    task, model = SVDTask(recipe), replace(SVDModel.load(base, dtype=torch.float32), size=16)
    shards = OrbitShards(recipe.data)
    image = torch.nn.functional.interpolate(
        shards[0][1][None, ..., :3].permute(0, 3, 1, 2) / 127.5 - 1, (16, 16), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        expected = model.condition(image, torch.Generator().manual_seed(0))
        posterior = model.networks.vae.encode(image).latent_dist
    x0, conditions = task.sample(task.latents[0], 0.02, torch.Generator().manual_seed(0))
    torch.testing.assert_close(conditions.time_ids, expected.time_ids)
    torch.testing.assert_close(conditions.embedding, expected.embedding, atol=2e-3, rtol=1e-2)
    spread = torch.stack(
        [task.sample(task.latents[0], 0.02, torch.Generator().manual_seed(s))[1].latent for s in range(200)]
    )
    assert float((spread.mean(0) - posterior.mean).abs().mean()) < 0.1 * float(posterior.std.mean()) + 5e-3
    ratio = spread.std(0) / (posterior.var + 0.02**2).sqrt()
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03)
    assert x0.shape == (18, 4, 8, 8)
    still = replace(task.latents[0], std=torch.zeros_like(task.latents[0].std))
    views, _ = task.sample(still, 0.02, torch.Generator())
    torch.testing.assert_close(views, still.mean[1:] * 0.18215)


def test_an_orbit_may_begin_at_any_view() -> None:
    ids = torch.arange(5.0)  # the photo is 0, the views 1 to 4
    orbit = OrbitLatents(ids, ids, ids)
    assert orbit.from_front(0) is orbit
    assert orbit.from_front(1).mean.tolist() == [2, 2, 3, 4, 1]
    assert orbit.from_front(3).embedding.tolist() == [4, 4, 1, 2, 3]


def test_guidance_subtracts_what_withholding_both_leaves() -> None:
    conditions = Conditions(torch.ones(1, 1, 2), torch.ones(1, 4, 2, 2), torch.ones(1, 3))
    both = withheld(conditions, embedding=True, latent=True)
    assert not both.embedding.any() and not both.latent.any() and both.time_ids.all()
    one = withheld(conditions, embedding=True, latent=False)
    assert not one.embedding.any() and one.latent.all()
    assert cat_conditions([conditions, one]).embedding[:, 0, 0].tolist() == [1, 0]


def test_the_cache_belongs_to_its_networks_and_size(base: Path, orbits: Path, tmp_path: Path) -> None:
    for path in sorted(orbits.glob("orbits-*"))[:1]:
        (tmp_path / path.name).symlink_to(path)
    networks = load_networks(base, torch.float32)
    vae, clip = networks.vae, networks.image_encoder
    shards, cpu = OrbitShards(tmp_path), torch.device("cpu")
    first = LatentCache(shards, vae, clip, 16, cpu)
    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("svd-*")}
    assert len(first) == 3 and len(made) == 1
    assert first[0].mean.shape == (19, 4, 8, 8) and first[0].embedding.shape == (19, 24)
    again = LatentCache(shards, vae, clip, 16, cpu)
    assert torch.equal(again[2].mean, first[2].mean)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("svd-*")} == made
    LatentCache(shards, vae, clip, 24, cpu)
    assert len(list(tmp_path.glob("svd-*"))) == 2
    damaged = next(iter(made))
    damaged.unlink()  # another file, not the one that is open
    damaged.write_bytes(b"damaged")
    assert torch.equal(LatentCache(shards, vae, clip, 16, cpu)[1].std, first[1].std)


def test_tuning_lowers_the_loss_and_the_weights_sample(
    recipe: SVDRecipe, orbits: Path, tmp_path: Path
) -> None:
    run = replace(recipe, validation=small(orbits, tmp_path / "validation"), steps=20, log_steps=5)
    lines: list[dict[str, float]] = []
    progress = train(run, tmp_path, device="cpu", on_line=lines.append)
    assert progress.step == 20 and progress.skipped == 0
    untrained, _ = SVDTask(run).validate(unet_of(run.model))
    trained = lines[-1]
    levels = [name for name in untrained if name.startswith("loss")]
    assert len(levels) == 5
    assert sum(trained[name] for name in levels) < 0.8 * sum(untrained[name] for name in levels)
    assert {"psnr", "psnr of repeating"} <= trained.keys()
    assert len(list((tmp_path / "samples").glob("*.png"))) == 1
    generator = Generator.from_pretrained(str(tmp_path / "model"))
    assert isinstance(generator.model, SVDModel)
    generator.model = replace(generator.model, size=16)
    views = generator(OrbitPhotos((torch.rand(16, 16, 4),)), steps=1)
    assert len(views) == 18 and bool(views.rgb.isfinite().all())
    assert (tmp_path / "model/model_index.json").exists()
    ema = load_file(tmp_path / FILE)
    kept = load_file(tmp_path / "model/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(v, ema[f"ema.{k}"].half()) for k, v in kept.items())


def unet_of(folder: str) -> torch.nn.Module:
    return load_networks(folder, torch.float32).unet


def test_a_resumed_run_repeats_an_uninterrupted_one(recipe: SVDRecipe, tmp_path: Path) -> None:
    train(recipe, tmp_path / "whole", device="cpu")

    class KilledError(Exception):
        pass

    def kill(line: dict[str, float]) -> None:
        if line["step"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(replace(recipe, save_minutes=0.0), tmp_path / "killed", device="cpu", on_line=kill)
    assert resume_training(tmp_path / "killed", device="cpu").step == 3
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    a, b = (load_file(tmp_path / name / FILE) for name in ("whole", "killed"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_batch_in_parts_and_checkpointing_change_nothing(recipe: SVDRecipe) -> None:
    def gradients(task: SVDTask, parts: list[list[int]]) -> dict[str, Tensor]:
        for samples in parts:
            task.losses(task.network, replace(draw(2), samples=samples))["loss"].sum().backward()
        return {name: p.grad for name, p in task.network.named_parameters() if p.grad is not None}

    whole = gradients(SVDTask(recipe), [[0, 1]])
    parts = gradients(SVDTask(replace(recipe, checkpointing=True)), [[0], [1]])
    largest = max(float(g.abs().max()) for g in whole.values())
    assert whole.keys() == parts.keys() and largest > 0
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-4 * largest, rtol=1e-3, msg=name)


def test_frozen_layers_stay_and_cost_one_copy(recipe: SVDRecipe, tmp_path: Path) -> None:
    """Only temporal layers train; resumed, the run repeats; the checkpoint holds the rest once."""
    tuned = replace(recipe, layers="temporal", precision="bfloat16", steps=2, save_minutes=0.0)
    train(tuned, tmp_path / "run", device="cpu")
    before = unet_of(recipe.model).state_dict()
    after = load_file(tmp_path / "run" / FILE)
    kept = load_file(tmp_path / "run/model/unet/diffusion_pytorch_model.safetensors")
    changed = {name for name in before if not torch.equal(before[name].half(), kept[name])}
    assert changed and all(is_temporal(name) for name in changed)
    frozen = {name for name in before if not is_temporal(name)}
    assert not any(f"ema.{name}" in after for name in frozen) and len(frozen) > 50
    assert all(after[f"network.{name}"].dtype == torch.bfloat16 for name in frozen)
    assert all(after[f"network.{name}"].dtype == torch.float32 for name in changed)
    train(replace(tuned, steps=1, warmup=1), tmp_path / "half", device="cpu")
    two = replace(tuned, steps=2)
    train(two, tmp_path / "half", resume=True, device="cpu")
    assert losses(tmp_path / "half") == losses(tmp_path / "run")
    again = load_file(tmp_path / "half" / FILE)
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_gradients_reach_every_weight_that_matters(recipe: SVDRecipe) -> None:
    """Queries and keys of attention to one token, and their norm, cannot matter; all else learns."""
    task = SVDTask(recipe)
    torch.nn.init.normal_(task.network.conv_out.weight, 0, 0.1)  # type: ignore[union-attr,arg-type]
    task.losses(task.network, draw(2))["loss"].sum().backward()
    still = {name for name, p in task.network.named_parameters() if p.grad is None or not p.grad.any()}
    inert = ("attn2.to_q", "attn2.to_k", "norm2")
    assert all(any(part in name for part in inert) for name in still), still


def test_the_clip_tower_leaves_the_device_when_new_orbits_are_encoded(
    recipe: SVDRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It encodes on the training device, where the UNet needs the memory afterwards."""
    task, places = make_task(recipe), []
    assert isinstance(task, SVDTask)
    monkeypatch.setattr(task.networks.image_encoder, "to", places.append)
    task._load()
    assert places[-1:] == ["cpu"]


def test_unusable_settings_are_one_sentence(recipe: SVDRecipe, tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="lower --accumulate"):
        make_task(replace(recipe, accumulate=4))
    with pytest.raises(V3DError, match="instead of --init"):
        make_task(recipe, init=tmp_path)
    with pytest.raises(V3DError, match="holds no official weights"):
        make_task(replace(recipe, model=str(tmp_path)))
    with pytest.raises(V3DError, match="holds no rendered orbits"):
        make_task(replace(recipe, data=tmp_path))


def test_the_command_line_tunes(recipe: SVDRecipe, tmp_path: Path) -> None:
    from v3d.cli import main

    options = ["--data", str(recipe.data), "--model", recipe.model, "--size", "16", "--steps", "1"]
    options += ["--batch", "1", "--accumulate", "1", "--device", "cpu", "-o", str(tmp_path / "run")]
    assert main(["train", "svd", *options, "--export", str(tmp_path / "copy")]) == 0
    assert unet_network(UNET).state_dict().keys() == unet_of(str(tmp_path / "copy")).state_dict().keys()
    assert main(["train", "resume", str(tmp_path / "run")]) == 0
