from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from v3d.training.log import Log


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_line_holds_means_over_the_samples_that_a_name_concerns(tmp_path: Path):
    log = Log(tmp_path, after_step=0)
    log.add({"loss": torch.tensor([1.0, 2.0]), "high": torch.tensor([math.nan, 5.0])})
    log.add({"loss": torch.tensor([6.0]), "high": torch.tensor([math.nan])})
    assert log.line(2, {"rate": 0.5, "bad": math.inf}) == {"step": 2, "loss": 3, "high": 5, "rate": 0.5}
    assert lines(tmp_path) == [{"step": 2, "loss": 3, "high": 5, "rate": 0.5, "bad": None}]


def test_small_numbers_keep_their_digits(tmp_path: Path):
    """A tuned SVD's learning rate falls to 2e-7, which five decimals would call 0."""
    wanted = {"step": 1, "rate": 2.3457e-07, "seconds": 12345.67891, "samples": 12345678}
    assert Log(tmp_path, after_step=0).line(1, {**wanted, "rate": 2.345678e-07}) == wanted


def test_tensorboard_holds_what_the_log_holds_after_a_resume_too(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path, after_step=0)
    for step in (1, 2, 3):
        log.add({"loss": torch.tensor([float(step)])})
        log.line(step, {"rate": 0.1})
    resumed = Log(tmp_path, after_step=2)  # the run was killed after step 3; its checkpoint is of step 2
    resumed.add({"loss": torch.tensor([30.0])})
    resumed.line(3, {"rate": 0.2, "psnr": math.nan})

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss", "rate"]
    for name in ("loss", "rate"):
        stored = [(event.step, event.value) for event in events.Scalars(name)]
        logged = [(line["step"], line[name]) for line in lines(tmp_path)]
        assert [step for step, _ in stored] == [1, 2, 3]
        torch.testing.assert_close(torch.tensor(stored), torch.tensor(logged, dtype=torch.float32))
