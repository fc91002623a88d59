"""The device that is computed on."""

from __future__ import annotations

import pytest
import torch

from v3d.errors import V3DError
from v3d.runtime import pick_device
from v3d.training.processes import Processes


def test_auto_takes_cuda_where_it_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert pick_device("auto") == device
        assert pick_device("cpu") == "cpu"
        assert Processes.open("auto").device == torch.device(device)


def test_cuda_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for choose in (pick_device, Processes.open):
        with pytest.raises(V3DError, match=r"no CUDA device here.*--device cpu"):
            choose("cuda")
