"""PixelNeRF's guide joined to the SVD UNet: nothing changes at step 0, and training can use it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import UNetSpatioTemporalConditionModel
from sgm_layout import tiny_release

from v3d.diffusion.conditions import Conditions, run_unet, widen_for_guide
from v3d.diffusion.official.convert import convert
from v3d.diffusion.official.networks import load_networks


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> UNetSpatioTemporalConditionModel:
    root = tmp_path_factory.mktemp("svd")
    v3d, svd, _ = tiny_release(root)
    return load_networks(str(convert(v3d, svd, root / "official").folder), dtype=torch.float32).unet


def conditions(
    unet: UNetSpatioTemporalConditionModel, seed: int
) -> tuple[torch.Tensor, torch.Tensor, Conditions]:
    g = torch.Generator().manual_seed(seed)
    x, guide = torch.randn(2, 3, 4, 16, 16, generator=g), torch.randn(2, 3, 4, 16, 16, generator=g)
    embedding = torch.randn(2, 1, unet.config.cross_attention_dim, generator=g)
    latent = torch.randn(2, 4, 16, 16, generator=g)
    ids = torch.tensor([[1.0, 300.0, 0.02]]).expand(2, -1)
    return x, torch.tensor([0.1, -0.2]), Conditions(embedding, latent, ids, guide)


@torch.no_grad()
def test_a_widened_network_is_the_old_one_until_it_is_trained(
    unet: UNetSpatioTemporalConditionModel, tmp_path: Path
) -> None:
    x, c_noise, known = conditions(unet, 0)
    before = run_unet(unet, x, c_noise, Conditions(known.embedding, known.latent, known.time_ids))
    wide = widen_for_guide(copy.deepcopy(unet))
    assert torch.equal(run_unet(wide, x, c_noise, known), before)
    with pytest.raises(ValueError, match="guide already"):
        widen_for_guide(wide)
    wide.save_pretrained(tmp_path)
    again = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path)
    assert torch.equal(again.conv_in.weight, wide.conv_in.weight)


def test_the_guide_has_a_gradient_and_dropping_takes_it_away(unet: UNetSpatioTemporalConditionModel) -> None:
    x, c_noise, known = conditions(unet, 1)
    wide = widen_for_guide(copy.deepcopy(unet)).requires_grad_(False)
    wide.conv_in.weight.requires_grad_(True)
    run_unet(wide, x, c_noise, known).square().mean().backward()
    gradient = wide.conv_in.weight.grad
    assert gradient is not None and float(gradient[:, 8:].abs().max()) > 0
    with torch.no_grad():
        wide.conv_in.weight[:, 8:] -= 10 * gradient[:, 8:]
        kept, dropped = (run_unet(wide, x, c_noise, c) for c in (known, known.dropped()))
        assert not torch.allclose(
            kept, run_unet(unet, x, c_noise, Conditions(known.embedding, known.latent, known.time_ids))
        )
        assert dropped.isfinite().all() and known.dropped().guide is not None
        assert float(known.dropped().guide.abs().max()) == 0
