"""What of this machine a program may use: cores and memory, within the limits of its container or job."""

from __future__ import annotations

import os
from pathlib import Path

GIGABYTES = 3.0
"""Memory of one worker at standard quality, in GiB."""
_ROOT = Path("/sys/fs/cgroup")


def default_workers() -> int:
    """Processes that cores and memory allow, at least one."""
    free = free_gigabytes()
    return max(1, cores() if free is None else min(cores(), int(free / GIGABYTES)))


def cores(group: Path | None = None) -> int:
    """Cores that this process may use, at least 1: those of its affinity, or its control group's quota.

    Args:
        group: folder of the control group; by default this process's. Those above it count as well.
    """
    group = group or _own_group()
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in (group, *group.parents):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            count = min(count, int(quota) // int(period))
    quota, period = _text(_ROOT / "cpu/cpu.cfs_quota_us"), _text(_ROOT / "cpu/cpu.cfs_period_us")  # version 1
    if quota.isdecimal() and period.isdecimal() and int(period):
        count = min(count, int(quota) // int(period))
    return max(1, count)


def free_gigabytes(group: Path | None = None, meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """GiB of memory that programs could still take: of the machine, and of this process's control group.

    Pages that only cache files count as free. None where the system does not say.

    Args:
        group: folder of the control group; by default this process's. Those above it count as well.
        meminfo: what the kernel says of the machine's memory.
    """
    group = group or _own_group()
    free = [int(line.split()[1]) * 1024 for line in _text(meminfo).splitlines() if "MemAvailable:" in line]
    for folder in (group, *group.parents):
        free += _left(folder, "memory.max", "memory.current", "inactive_file ")
    free += _left(
        _ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "
    )  # version 1
    if not free:
        try:
            free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):
            return None
    return max(0, min(free)) / 2**30


def _left(folder: Path, limit: str, usage: str, cache: str) -> list[int]:
    """Bytes that a control group has left, in a list; an empty one where it has no limit."""
    most, used = _text(folder / limit), _text(folder / usage)
    if not (most.isdecimal() and used.isdecimal()):
        return []
    lines = _text(folder / "memory.stat").splitlines()
    return [int(most) - int(used) + sum(int(line.split()[1]) for line in lines if line.startswith(cache))]


def _own_group() -> Path:
    """Folder of this process's control group (version 2)."""
    lines = _text(Path("/proc/self/cgroup")).splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return _ROOT / own.lstrip("/")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
