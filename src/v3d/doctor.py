"""`v3d doctor`: what this machine has, what V3D will use of it, and what to install for more."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from v3d.distribution import install_hint, own_version
from v3d.errors import V3DError
from v3d.weights import MINI, MINI_SCENE

State = Literal["ok", "could be better", "missing"]

OFFICIAL_PACKAGES = ("diffusers", "transformers", "accelerate")
_MATTING_WEIGHTS = "https://github.com/danielgatis/rembg/releases"


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        part: what it is about, such as "memory".
        uses: what is there, or what V3D will use.
        state: "could be better" and "missing" come with advice.
        advice: how to get more; empty where there is no more.
    """

    part: str
    uses: str
    state: State = "ok"
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What this machine has, and what V3D chooses on it.

    Attributes:
        machine: software, processor, memory, GPU, disk.
        choices: weights, backends and optional packages.
    """

    machine: tuple[Finding, ...]
    choices: tuple[Finding, ...]


def diagnose(folder: Path = Path()) -> Diagnosis:
    """Look at this machine, without starting or downloading anything.

    Args:
        folder: where results would go (its free disk space counts).
    """
    machine = (_software(), _processor(), _memory(), _gpu(), _disk(folder))
    return Diagnosis(
        machine,
        (
            _mini("mini model", ("pixelnerf", "one_photo", "vae"), MINI),
            _mini("mini scenes", ("pixelnerf", "dit"), MINI_SCENE),
            _official(),
            _splats(),
            _perceptual(),
            _matting(),
        ),
    )


def show(diagnosis: Diagnosis) -> None:
    """Print a diagnosis to stdout as two tables: the machine, and what V3D uses on it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    colours = {"ok": "green", "could be better": "yellow", "missing": "red"}
    for title, findings in (("This machine", diagnosis.machine), ("V3D here", diagnosis.choices)):
        table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for finding in findings:
            table.add_row(finding.part, f"[{colours[finding.state]}]{escape(finding.uses)}[/]")
            if finding.advice:
                table.add_row("", f"-> {escape(finding.advice)}")
        console.print(table, end="\n")


def _software() -> Finding:
    import torch

    own = own_version() or "not installed as a package"
    python = platform.python_version()
    return Finding(
        "software", f"V3D {own}, Python {python}, PyTorch {torch.__version__}, {platform.platform()}"
    )


def _processor() -> Finding:
    from v3d.runtime import has_fast_bfloat16

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bfloat16 = "bfloat16 in hardware" if has_fast_bfloat16() else "float32 only"
    return Finding(
        "processor", f"{cores} {'core' if cores == 1 else 'cores'} ({platform.machine()}), {bfloat16}"
    )


def _memory() -> Finding:
    from v3d.runtime import memory_bytes  # which imports torch

    total = memory_bytes()
    if total is None:
        return Finding("memory", "unknown")
    if total < 4e9:
        return Finding(
            "memory", f"{total / 1e9:.1f} GB", "could be better", "use --quality draft; standard wants 4 GB"
        )
    return Finding("memory", f"{total / 1e9:.1f} GB")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = []
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            names.append(f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB")
        bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        return Finding("CUDA", f"{'; '.join(names)} (CUDA {torch.version.cuda}, {bfloat16})")
    driver = shutil.which("nvidia-smi") is not None
    if driver and torch.version.cuda is None:
        advice = (
            "this PyTorch is built without CUDA; install one from https://pytorch.org/get-started/locally"
        )
        return Finding("CUDA", "an NVIDIA driver, but PyTorch cannot use it", "could be better", advice)
    if driver:
        advice = f"update the driver: this PyTorch was built for CUDA {torch.version.cuda}"
        return Finding("CUDA", "an NVIDIA driver that PyTorch cannot use", "could be better", advice)
    return Finding("CUDA", "no NVIDIA GPU; everything runs on the processor")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    if free < 1e9:
        return Finding(
            "disk", f"{free / 1e9:.1f} GB free here", "could be better", "a run writes up to 0.1 GB"
        )
    return Finding("disk", f"{free / 1e9:.0f} GB free here")


def _mini(name: str, networks: tuple[str, ...], folder: Path) -> Finding:
    parts = [folder / "config.json", *(folder / f"{network}.safetensors" for network in networks)]
    if all(part.is_file() for part in parts):
        megabytes = sum(part.stat().st_size for part in parts) / 1e6
        return Finding(name, f"ships with V3D ({megabytes:.0f} MB)")
    return Finding(name, "its weights are not in this installation", "missing", "reinstall V3D")


def _official() -> Finding:
    absent = [name for name in OFFICIAL_PACKAGES if find_spec(name) is None]
    if absent:
        uses = f"not usable: {', '.join(absent)} not installed"
        return Finding("official weights", uses, "could be better", install_hint("official"))
    uses = "usable: give --model a folder that `v3d convert` made, or a hub id"
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("0", "", "false", "no", "off"):
        uses = "usable: give --model a folder that `v3d convert` made (HF_HUB_OFFLINE forbids downloads)"
    return Finding("official weights", uses)


def _splats() -> Finding:
    import torch

    cpu = "Numba kernels on the processor"
    if not torch.cuda.is_available():
        return Finding("splats", cpu)
    if find_spec("gsplat") is None:
        return Finding("splats", cpu, "could be better", f"for the GPU: {install_hint('cuda')}")
    return Finding("splats", "gsplat on the GPU")


def _perceptual() -> Finding:
    from v3d.networks.perceptual import find_vgg16

    try:
        path = find_vgg16()
    except V3DError as error:
        return Finding(
            "perceptual", "V3D's own, LPIPS (AlexNet); VGG16 not usable as set", "missing", str(error)
        )
    return Finding("perceptual", "V3D's own, LPIPS (AlexNet)" + (f", LPIPS with {path}" if path else ""))


def _matting() -> Finding:
    from v3d.capture.matting import MATTING_MODELS, installed_model

    try:
        model = installed_model()
    except V3DError as error:
        return Finding("cut-outs", "not usable as set", "missing", str(error))
    if model is None:
        steps = [] if find_spec("rembg") else [install_hint("matting")]
        steps.append(f"put {MATTING_MODELS[0]}.onnx (from {_MATTING_WEIGHTS}) into {Path.home() / '.u2net'}")
        advice = f"for hair and busy backgrounds: {', and '.join(steps)}"
        uses = "V3D's network (U^2-Net, ships with V3D) and the colour of plain backgrounds"
        return Finding("cut-outs", uses, "ok", advice)
    return Finding("cut-outs", f"{model} (rembg)")
