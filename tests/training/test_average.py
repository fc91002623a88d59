"""The mean of models: exact on the weights, and only of models that fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from v3d import cli
from v3d.errors import V3DError
from v3d.networks.pixelnerf import PixelNeRF, PixelNeRFConfig, load_pixelnerf
from v3d.training.export import average, export_pixelnerf

SMALL = PixelNeRFConfig(size=32, width=64, depth=1, planes=8, grid=8, drawn=32)


def saved(folder: Path, seed: int, config: PixelNeRFConfig = SMALL) -> Path:
    torch.manual_seed(seed)
    export_pixelnerf(PixelNeRF(config), folder)
    return folder


def test_the_mean_of_two_models_by_their_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, out = saved(tmp_path / "a", 0), saved(tmp_path / "b", 1), tmp_path / "out"
    assert cli.main(["train", "average", str(a), str(b), "--shares", "3", "1", "-o", str(out)]) == 0
    of = [load_pixelnerf(folder).state_dict() for folder in (a, b, out)]
    for name, tensor in of[2].items():
        exact = 0.75 * of[0][name] + 0.25 * of[1][name]
        step = exact.flatten(1).abs().amax(1) / 127 if exact.ndim > 1 else exact.abs().amax() / 127
        assert float((tensor - exact).abs().max()) <= 0.51 * float(step.max()) + 1e-3
    average([a, a], [1, 2], out)
    for name, tensor in load_pixelnerf(out).state_dict().items():
        torch.testing.assert_close(tensor, of[0][name], atol=1e-3, rtol=1e-2)


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    a, other = saved(tmp_path / "a", 0), saved(tmp_path / "b", 0, replace(SMALL, width=128))
    with pytest.raises(V3DError, match="same sizes"):
        average([a, other], [1, 1], tmp_path / "out")
    with pytest.raises(V3DError, match="same sizes"):
        average([a, tmp_path / "nowhere"], [1, 1], tmp_path / "out")
    with pytest.raises(V3DError, match="no networks"):
        average([tmp_path / "nowhere", a], [1, 1], tmp_path / "out")
    torn = saved(tmp_path / "torn", 1)
    (torn / "pixelnerf.safetensors").write_bytes((a / "pixelnerf.safetensors").read_bytes()[:1000])
    with pytest.raises(V3DError, match="cannot be read"):
        average([a, torn], [1, 1], tmp_path / "out")
    for shares in ([1], [1, 1, 1], [0, 0]):
        with pytest.raises(V3DError, match="one share for each"):
            average([a, a], shares, tmp_path / "out")
    assert not (tmp_path / "out").exists()
