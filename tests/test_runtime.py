"""The device that is computed on, and where autocast must not reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from v3d.errors import V3DError
from v3d.runtime import pick_device, without_autocast
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


def test_a_function_without_autocast_keeps_the_precision_of_its_arguments() -> None:
    x = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))

    @without_autocast
    def square(a: Tensor) -> Tensor:
        return a @ a

    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        inside = square(x)
        assert (x @ x).dtype == torch.bfloat16  # and autocast goes on after it
    assert inside.dtype == torch.float32 and torch.equal(inside, x @ x)
