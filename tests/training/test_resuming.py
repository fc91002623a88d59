"""The training loop is exact: resumed, in parts, in two processes; and what stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from runs import losses, training, weights
from torch import Tensor, nn

from v3d.diffusion.mini import MiniModel
from v3d.errors import V3DError
from v3d.training import loop
from v3d.training.checkpoint import FILE, Progress, read_recipe
from v3d.training.recipe import VideoRecipe
from v3d.training.session import make_task, resume_training, train
from v3d.training.task import BatchShare
from v3d.weights.storage import load_weights


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_repeats_an_uninterrupted_one(
    tiny: VideoRecipe, tmp_path: Path, optimizer: Literal["adamw", "muon"]
) -> None:
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


def test_one_run_at_a_time_in_a_folder(tiny: VideoRecipe, tmp_path: Path) -> None:
    """Refused while the first goes on, though it has a checkpoint; welcome when it has ended."""
    refused = []

    def meddle(line: dict[str, float]) -> None:
        if line["step"] == 6:
            with pytest.raises(V3DError, match="Another process trains in"):
                resume_training(tmp_path, device="cpu")
            refused.append(line)

    train(replace(tiny, save_minutes=0.0), tmp_path, device="cpu", on_line=meddle)
    assert refused
    assert resume_training(tmp_path, device="cpu").step == tiny.steps


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_resumes(tiny: VideoRecipe, tmp_path: Path) -> None:
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


def apart(a: dict[str, Tensor], b: dict[str, Tensor], begun: Path) -> float:
    """How far apart two runs ended, as a share of how far they went from the weights that both began with.

    Adam scales every weight's step to the learning rate, and rounding errors too where a weight has no
    gradient (a key's bias, which softmax ignores): single weights say little, all of them together much.
    """
    start = load_weights(begun / "dit.safetensors")
    names = [name for name in start if f"network.{name}" in a]
    assert len(names) > 10
    apart, gone = (
        torch.cat([(x[f"network.{name}"] - y(name)).flatten() for name in names]).norm()
        for x, y in ((a, lambda name: b[f"network.{name}"]), (a, lambda name: start[name]))
    )
    return float(apart / gone)


def test_a_batch_in_parts_is_the_same_batch(tiny: VideoRecipe, begun: Path, tmp_path: Path) -> None:
    exact = replace(tiny, precision="float32", steps=3)
    train(exact, tmp_path / "one", device="cpu", init=begun)
    train(replace(exact, accumulate=3), tmp_path / "three", device="cpu", init=begun)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "three")
    assert apart(a, b, begun) < 0.01
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "three"), rel=1e-3)
    train(replace(exact, seed=exact.seed + 1), tmp_path / "other", device="cpu", init=begun)
    assert apart(a, weights(tmp_path / "other"), begun) > 0.1  # another batch is told from the same one


def test_minutes_stop_cleanly_and_a_signal_too(tiny: VideoRecipe, tmp_path: Path) -> None:
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

    def batch_size(self, step: int, done: float) -> int:
        return 2

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        loss = (network(torch.ones(2, 1)) - 3).square()[:, 0]
        return {"loss": loss * torch.nan if share.step % 3 == 1 else loss}

    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        return {}, None

    def refresh(self) -> None: ...

    def close(self) -> None: ...

    def export(self, network: nn.Module, folder: Path) -> None: ...


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path: Path) -> None:
    task = Divergent()
    recipe = VideoRecipe(steps=300, learning_rate=0.05, warmup=1, log_steps=1, precision="float32")
    progress = loop.run(task, recipe, tmp_path)
    assert progress.skipped == 100 and progress.step == 300
    assert float((task.network(torch.ones(1, 1)) - 3).abs().detach()) < 0.1
    assert losses(tmp_path)[300] < losses(tmp_path)[1] / 10 and 2 not in losses(tmp_path)


def test_unusable_files_give_one_sentence(tiny: VideoRecipe, tmp_path: Path) -> None:
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
    with pytest.raises(V3DError, match="no usable weights"):
        train(replace(tiny, pixelnerf=tmp_path / "nothing"), tmp_path / "b", device="cpu")


def test_training_starts_from_given_weights(tiny: VideoRecipe, tmp_path: Path) -> None:
    train(replace(tiny, steps=2), tmp_path / "a", device="cpu")
    task = make_task(tiny, init=tmp_path / "a/model")
    kept = load_weights(tmp_path / "a/model/dit.safetensors")
    assert all(torch.equal(p, kept[name].float()) for name, p in task.network.state_dict().items())
    assert all(p.requires_grad for p in task.network.parameters())
    with pytest.raises(V3DError, match="change the recipe"):
        make_task(replace(tiny, network=replace(tiny.network, depth=3)), init=tmp_path / "a/model")


def test_checkpoints_name_their_recipe(tiny: VideoRecipe, tmp_path: Path) -> None:
    train(replace(tiny, steps=1), tmp_path, device="cpu")
    assert read_recipe(tmp_path) == replace(tiny, steps=1)
    assert Progress().step == 0


@pytest.mark.slow
def test_two_processes_train_as_one(tiny: VideoRecipe, begun: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    import socket

    exact = replace(tiny, precision="float32", steps=3)
    train(exact, tmp_path / "one", device="cpu", init=begun)
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
            training(exact, tmp_path / "two", begun),
            env={**os.environ, **launch, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [p.wait(timeout=300) for p in processes] == [0, 0]
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert apart(a, b, begun) < 0.01
