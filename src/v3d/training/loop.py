"""The training loop, the same for every model: draw, loss, gradient, step, average; now and then look and save.

Three ideas keep it exact. All randomness of a step is a function of the seed and of the step (and sample), so a
resumed run repeats an uninterrupted one, and a batch can be cut into parts, over processes or one after the other,
without changing what is drawn. Processes sum their gradients and agree on the clock in one message a step.
Weights are float32; the arithmetic runs on a copy of them, in bfloat16 where the machine is fast at it. Frozen weights
(`requires_grad` off) exist once, in the precision of the arithmetic.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from v3d.training.log import Log
from v3d.training.processes import ALONE, Processes
from v3d.training.recipe import Recipe


@dataclass(frozen=True)
class BatchShare:
    """One process's share of a step.

    Attributes:
        step: number of the step.
        position: samples drawn before this step.
        done: fraction of the run that is done.
        batch: samples of the whole step.
        samples: the ones to compute here, numbers below `batch`.
        seed: of the run.
        device: where they are computed.
    """

    step: int
    position: int
    done: float
    batch: int
    samples: list[int]
    seed: int
    device: torch.device

    def generator(self) -> torch.Generator:
        """For what all samples of the step share."""
        return torch.Generator().manual_seed(2 * (self.seed * 1_000_003 + self.step))

    def sample_generator(self, sample: int, device: torch.device | str = "cpu") -> torch.Generator:
        """For one sample alone."""
        where = self.position + sample
        return torch.Generator(device).manual_seed(2 * (self.seed * 1_000_003 + where) + 1)


class Task(Protocol):
    """What is trained; `v3d.training.tasks.vae`, `pixelnerf`, `video` and `svd` say how.

    Attributes:
        network: float32, on the run's device; parameters that do not require gradients stay as they are.
    """

    network: nn.Module

    def batch_size(self, done: float) -> int:
        """Samples of a step, `done` in [0, 1] of the way."""
        ...

    def losses(self, network: nn.Module, share: BatchShare) -> dict[str, Tensor]:
        """Values per sample; `loss` is minimised, the others are logged (NaN: does not concern the sample)."""
        ...

    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """Measurements, and a picture [H, W, 3] in [0, 1] of what the network makes."""
        ...

    def refresh(self) -> None:
        """Take in data that have arrived."""
        ...

    def export(self, network: nn.Module, folder: Path) -> None:
        """Write weights that V3D loads."""
        ...


OnLine = Callable[[dict[str, float]], None]
"""Called with every line of the log."""


def run(
    task: Task,
    recipe: Recipe,
    out: Path,
    *,
    minutes: float | None = None,
    resume: bool = False,
    processes: Processes = ALONE,
    on_line: OnLine | None = None,
) -> Progress:
    """Train until the recipe's steps are done, `minutes` are over, or a signal (Ctrl-C) asks to stop.

    `out` holds `checkpoint.safetensors`, `log.jsonl`, `samples/` and `model/`, which always loads.

    Args:
        minutes: of this session; with `recipe.steps` 0 the schedule ends with them.
        resume: go on from `out`'s checkpoint.

    Raises:
        V3DError: neither steps nor minutes are given, the checkpoint is unusable, the disk is full.
    """
    if not recipe.steps and minutes is None:
        raise V3DError("Say how long to train: --minutes 60, or --steps 10000.")
    network = task.network
    frozen = {id(p): p for p in network.parameters() if not p.requires_grad}  # shared by the copies
    fast = copy.deepcopy(network, dict(frozen)).to(processes.precision(recipe.precision))
    compute: nn.Module = torch.compile(fast) if recipe.compile else fast  # type: ignore[assignment]
    ema = copy.deepcopy(network, dict(frozen)).requires_grad_(False)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizers = make_optimizers(network, recipe)
    progress = load_checkpoint(out, network, ema, optimizers) if resume else Progress()
    _copy(network, fast)
    log = Log(out, after_step=progress.step) if processes.main else None
    first, earlier, saved, start = progress.step, progress.seconds, progress.seconds, time.monotonic()
    budget = math.inf if minutes is None else 60 * minutes
    stop = False

    def save() -> None:
        if processes.main and log is not None:
            values, picture = task.validate(ema)
            line = log.line(
                progress.step, {"seconds": progress.seconds, "skipped": progress.skipped, **values}
            )
            if on_line:
                on_line(line)
            if picture is not None:
                with atomic(out / f"samples/{progress.step:07d}.png") as temporary:
                    Image.fromarray((picture.clamp(0, 1) * 255 + 0.5).byte().cpu().numpy()).save(temporary)
            task.export(ema, out / "model")
            save_checkpoint(out, recipe, progress, network, ema, optimizers)
        processes.wait()

    with _signals() as asked:
        while not stop:
            done = progress.step / recipe.steps if recipe.steps else progress.seconds / (earlier + budget)
            if done >= 1 or progress.seconds - earlier >= budget:
                break
            rate = recipe.learning_rate * schedule(recipe, progress.step, done)
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = rate

            batch = task.batch_size(done)
            parts = processes.size * recipe.accumulate
            gradients = [torch.zeros_like(p) for p in trained]
            for part in range(processes.rank * recipe.accumulate, (processes.rank + 1) * recipe.accumulate):
                samples = list(range(part, batch, parts))
                if not samples:
                    continue
                share = BatchShare(
                    progress.step, progress.position, done, batch, samples, recipe.seed, processes.device
                )
                values = task.losses(compute, share)
                (values["loss"].sum() / batch).backward()
                _take_gradients(fast, gradients)
                if log is not None:
                    log.add({name: value.detach() for name, value in values.items()})
            clock = torch.tensor(
                [earlier + time.monotonic() - start if processes.main else 0.0, float(asked.is_set())],
                device=processes.device,
            )
            processes.sum_([*gradients, clock])
            for p, g in zip(trained, gradients, strict=True):
                p.grad = g
            norm = nn.utils.clip_grad_norm_(trained, recipe.clip)
            finite = bool(norm.isfinite())
            if finite:  # one bad batch must not spoil the weights for good
                for optimizer in optimizers:
                    optimizer.step()
                _copy(network, fast)
                _average(ema, network, min(recipe.ema, (1 + progress.step) / (10 + progress.step)))
            seconds, stop = float(clock[0]), bool(clock[1] > 0)
            progress = Progress(
                progress.step + 1, progress.position + batch, seconds, progress.skipped + (not finite)
            )
            if progress.seconds - saved > 60 * recipe.save_minutes:
                save()
                if processes.size == 1:  # several processes might not see the same files
                    task.refresh()
                saved = earlier + time.monotonic() - start
            elif log is not None and progress.step % recipe.log_steps == 0:
                line = log.line(
                    progress.step,
                    {
                        "seconds": seconds,
                        "samples": progress.position,
                        "rate": rate,
                        "skipped": progress.skipped,
                    },
                )
                if on_line:
                    on_line(line)
        progress = replace(
            progress, seconds=earlier + time.monotonic() - start if processes.size == 1 else progress.seconds
        )
        if progress.step > first or not resume:
            save()
    return progress


def make_optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon (steps of orthogonal matrices) for the matrices of transformer blocks.

    Raises:
        V3DError: this torch has no Muon.
    """

    def is_hidden_matrix(name: str, p: Tensor) -> bool:
        return name.startswith("blocks.") and p.ndim == 2 and not name.endswith("modulation")

    muon = recipe.optimizer == "muon"
    if muon and not hasattr(torch.optim, "Muon"):
        raise V3DError(f"torch {torch.__version__} has no Muon; install torch 2.9 or say --optimizer adamw.")
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if muon and is_hidden_matrix(name, p)]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in trained if id(p) not in chosen]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, recipe.beta2), weight_decay=decay, fused=True)
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def schedule(recipe: Recipe, step: int, done: float) -> float:
    """The learning rate over its largest value: rises, stands, falls linearly to 0.02."""
    fall = 1.0 if done < recipe.flat else max(0.02, (1 - done) / (1 - recipe.flat))
    return min(1.0, (step + 1) / recipe.warmup) * fall


def _take_gradients(fast: nn.Module, gradients: list[Tensor]) -> None:
    """Add the copy's gradients to `gradients`, in float32, and clear them."""
    trained = (p for p in fast.parameters() if p.requires_grad)
    for p, total in zip(trained, gradients, strict=True):
        if p.grad is not None:
            total += p.grad
            p.grad = None


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    torch._foreach_copy_(list(target.parameters()), list(source.parameters()))


@torch.no_grad()
def _average(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * network."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
