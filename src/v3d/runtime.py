"""How torch runs in this process: its memory, its device, and the precision of its products."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from v3d.errors import V3DError

if TYPE_CHECKING:
    from v3d.settings import Device

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def tune_malloc() -> None:
    """Let glibc keep large blocks instead of returning them to the system after every operation.

    Temporaries of a few megabytes are otherwise mapped, zeroed and unmapped again each time. Does
    nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 64 << 20)


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware, about twice as fast as float32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where `device` multiplies its matrices in hardware, else float32."""
    return torch.bfloat16 if device.type != "cpu" or has_fast_bfloat16() else torch.float32


def pick_device(device: Device) -> str:
    """The device to compute on, "cpu" or "cuda"; "auto" takes CUDA where it can be used.

    Raises:
        V3DError: CUDA was asked for and cannot be used.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise V3DError(
            "There is no CUDA device here (or torch was installed without CUDA); use --device cpu."
        )
    return device


def memory_bytes() -> int | None:
    """Bytes of main memory that this process may use: the machine's, or its container's where that is less.

    None where the system does not say (Windows).
    """
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def reset_peak_memory() -> None:
    """Let the kernel's high-water mark start anew (Linux; elsewhere peaks are those of the whole process)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float | None:
    """Highest resident memory since `reset_peak_memory`, in MB; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)
