"""Released checkpoints: every key accounted for, values kept, and clear refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from sgm_layout import (
    FULL_CLIP,
    FULL_UNET,
    FULL_VAE,
    clip_to_openclip,
    tiny_release,
    unet_to_sgm,
    vae_to_sgm,
)

from v3d.diffusion.official import sgm
from v3d.diffusion.official.convert import convert
from v3d.diffusion.official.networks import clip_network, load_networks, unet_network, vae_network
from v3d.diffusion.official.tensor_files import open_checkpoint
from v3d.errors import V3DError


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return tiny_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory):
    v3d, svd, _ = release
    return convert(v3d, svd, tmp_path_factory.mktemp("converted") / "official")


def test_every_tensor_arrives_with_its_value(release, converted):
    _, _, weights = release
    networks = load_networks(converted.folder, torch.float32)
    for component, expected in weights.items():
        state = getattr(networks, component).state_dict()
        assert state.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(state[name], tensor), name
        assert converted.parameters[component] == sum(t.numel() for t in expected.values())


def test_what_is_left_out_is_counted(release, converted):
    _, _, weights = release
    assert converted.left_out == {"V3D.ckpt": 0, "svd_xt.safetensors": len(weights["unet"]) + 3}


def test_files_are_half_precision_safetensors_with_a_card(converted):
    files = sorted(
        p.relative_to(converted.folder).as_posix() for p in converted.folder.rglob("*") if p.is_file()
    )
    assert files == [
        "README.md",
        "feature_extractor/preprocessor_config.json",
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    tensors = load_file(converted.folder / "unet/diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    card = (converted.folder / "README.md").read_text()
    assert "V3D.ckpt" in card
    assert "icence" in card
    assert [p.name for p in converted.folder.parent.iterdir()] == ["official"]  # no temporary folder is left


def test_the_folder_opens_as_a_diffusers_pipeline(release, converted):
    from diffusers import StableVideoDiffusionPipeline

    pipeline = StableVideoDiffusionPipeline.from_pretrained(converted.folder, local_files_only=True)
    _, _, weights = release
    for component, expected in weights.items():
        state = getattr(pipeline, component).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert pipeline.scheduler.config.sigma_max == 700


def test_full_size_unet_maps_one_to_one():
    expected = unet_network(FULL_UNET).state_dict()
    released = unet_to_sgm(expected, FULL_UNET)
    assert len(released) == 1428
    assert sgm.unet_config(released) == FULL_UNET
    state = sgm.unet_state_dict(released)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    assert all(state[name] is tensor for name, tensor in expected.items())  # each from its own source


def test_full_size_vae_maps_and_gains_the_identity():
    expected = vae_network(FULL_VAE).state_dict()
    released = vae_to_sgm(expected, FULL_VAE)
    assert len(released) == 372
    assert sgm.vae_config(released) == FULL_VAE
    state = sgm.vae_state_dict(released)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}


def test_full_size_clip_splits_its_projections():
    expected = clip_network(FULL_CLIP).state_dict()
    released = clip_to_openclip(expected)
    assert len(released) == 392
    assert sgm.clip_config(released) == FULL_CLIP
    state = sgm.clip_state_dict(released)
    assert len(state) == 520
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}


def test_every_residual_norm_has_the_original_epsilon():
    norms = {
        name: module.eps
        for name, module in unet_network(FULL_UNET).named_modules()
        if isinstance(module, torch.nn.GroupNorm) and "_res_block." in name
    }
    assert len(norms) == 88
    assert set(norms.values()) == {1e-5}


@pytest.mark.skipif("V3D_SGM_FIXTURES" not in os.environ, reason="V3D_SGM_FIXTURES names no folder")
def test_networks_reproduce_the_original_outputs():
    script = Path(__file__).parent / "sgm_parity.py"
    done = subprocess.run(
        [sys.executable, str(script), os.environ["V3D_SGM_FIXTURES"]],
        env={**os.environ, "MKL_CBWR": "COMPATIBLE"},
        capture_output=True,
        text=True,
        check=True,
    )
    errors = json.loads(done.stdout)
    assert errors.keys() == {"unet", "encoder", "decoder"}
    assert max(errors.values()) < 1e-10, errors


# --- refusals: one sentence that names the file and the way out ---


def refusal(call, *args) -> str:
    with pytest.raises(V3DError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def resaved(release, tmp_path, change) -> tuple[Path, Path]:
    """The released UNet checkpoint with its state dict changed."""
    v3d, svd, _ = release
    state = torch.load(v3d, weights_only=True)["state_dict"]
    change(state)
    path = tmp_path / "changed.ckpt"
    torch.save({"state_dict": state}, path)
    return path, svd


def test_missing_unexpected_and_reshaped_keys_are_named(release, tmp_path):
    prefix = "model.diffusion_model."

    def change(state):
        del state[f"{prefix}middle_block.0.in_layers.0.weight"]
        state[f"{prefix}middle_block.7.in_layers.0.weight"] = torch.zeros(1)
        state[f"{prefix}time_embed.2.bias"] = torch.zeros(5)

    message = refusal(convert, *resaved(release, tmp_path, change), tmp_path / "out")
    assert "missing mid_block.resnets.0.spatial_res_block.norm1.weight" in message
    assert "unexpected middle_block.7.in_layers.0.weight" in message
    assert "of another shape time_embedding.linear_2.bias" in message
    assert not (tmp_path / "out").exists()


def test_many_missing_keys_are_shortened(release, tmp_path):
    def change(state):
        for name in [name for name in state if ".output_blocks.1." in name]:
            del state[name]

    message = refusal(convert, *resaved(release, tmp_path, change), tmp_path / "out")
    assert " more" in message
    assert len(message) < 600


def test_a_key_that_fixes_the_configuration_is_named(release, tmp_path):
    def change(state):
        del state["model.diffusion_model.out.2.weight"]

    assert "missing out.2.weight" in refusal(convert, *resaved(release, tmp_path, change), tmp_path / "out")


def test_files_in_the_wrong_order(release, tmp_path):
    v3d, svd, _ = release
    message = refusal(convert, svd, v3d, tmp_path / "out")
    assert "V3D.ckpt holds no vae" in message


def test_another_models_checkpoint(tmp_path, release):
    save_file({"backbone.weight": torch.ones(3)}, tmp_path / "other.safetensors")
    message = refusal(convert, tmp_path / "other.safetensors", release[1], tmp_path / "out")
    assert "not a checkpoint of V3D or SVD" in message
    assert "backbone.weight" in message


@pytest.mark.parametrize("index", [0, 1])
def test_half_downloaded_file(release, tmp_path, index):
    source = release[index]
    cut = tmp_path / source.name
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    paths = [cut, release[1]] if index == 0 else [release[0], cut]
    message = refusal(convert, *paths, tmp_path / "out")
    assert "partly downloaded" in message
    assert str(cut) in message
    assert [p.name for p in tmp_path.iterdir()] == [cut.name]


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>login</html>", "web page"),
        (b"", "partly downloaded"),
    ],
)
def test_files_that_are_not_weights(tmp_path, release, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    assert words in refusal(convert, path, release[1], tmp_path / "out")


class Payload:
    """Pickles into a call, as malicious checkpoints do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_never_run(tmp_path, release, zipped):
    marker, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"x": Payload(marker)}}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(convert, path, release[1], tmp_path / "out")
    assert "could run code" in message
    assert "safetensors" in message
    assert not marker.exists()


def test_a_torch_file_of_something_else(tmp_path, release):
    torch.save([1, 2, 3], tmp_path / "list.pth")
    assert "no table of named tensors" in refusal(
        convert, tmp_path / "list.pth", release[1], tmp_path / "out"
    )


def test_a_missing_file(tmp_path, release):
    assert "is not a file" in refusal(convert, tmp_path / "none.ckpt", release[1], tmp_path / "out")


def test_an_existing_output_is_kept(release, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "already exists" in refusal(convert, release[0], release[1], out)
    assert (out / "mine.txt").read_text() == "mine"


def test_a_disk_that_fills_up_leaves_nothing(release, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        message = refusal(convert, release[0], release[1], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Cannot write" in message
    assert list(tmp_path.iterdir()) == []


def test_old_torch_files_are_read(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with open_checkpoint(tmp_path / "old.pth") as weights:
        assert weights["a"].tolist() == [0, 1, 2]


def test_a_config_that_does_not_fit_its_weights(converted, tmp_path):
    import shutil

    folder = tmp_path / "mixed"
    shutil.copytree(converted.folder, folder)
    path = folder / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cross_attention_dim": 32}))
    message = refusal(load_networks, folder, torch.float32)
    assert "of another shape" in message
    assert "attn2.to_k.weight" in message
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [64]}))
    assert "describes no network" in refusal(load_networks, folder, torch.float32)
    path.write_text("{")
    assert "missing or damaged" in refusal(load_networks, folder, torch.float32)


def test_a_file_where_a_folder_belongs(release):
    assert "v3d convert" in refusal(load_networks, release[0], torch.float32)


def test_a_folder_of_other_weights(tmp_path):
    assert "no official weights" in refusal(load_networks, tmp_path, torch.float32)


def test_a_hub_name_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(load_networks, "nobody/no-such-weights", torch.float32)
    assert "nobody/no-such-weights" in message
    assert "connection" in message
