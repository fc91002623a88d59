"""Cores and memory within the limits of control groups, which the tests write as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from v3d.serving import resources
from v3d.serving.resources import cores, default_workers, free_gigabytes

GIB = 2**30


def test_the_tightest_group_decides_on_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\n")
    group = tmp_path / "job/step"
    group.mkdir(parents=True)
    assert free_gigabytes(group, meminfo) == 8.0
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("0\n")
    assert free_gigabytes(group, meminfo) == 8.0
    (group.parent / "memory.max").write_text(f"{6 * GIB}\n")
    (group.parent / "memory.current").write_text(f"{5 * GIB}\n")
    assert free_gigabytes(group, meminfo) == 1.0
    (group.parent / "memory.stat").write_text(f"anon 1\ninactive_file {3 * GIB}\n")
    assert free_gigabytes(group, meminfo) == 4.0  # caches of files give way
    (group.parent / "memory.current").write_text(f"{10 * GIB}\n")
    assert free_gigabytes(group, meminfo) == 0.0


def test_a_quota_decides_on_cores(tmp_path: Path) -> None:
    here = cores(tmp_path)
    assert here >= 1
    for text, expected in (("max 100000", here), ("100000 100000", 1), ("50000 100000", 1), ("0", here)):
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert cores(tmp_path / "below") == expected


def test_workers_have_three_gigabytes_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 8)
    for free, expected in ((None, 8), (100.0, 8), (9.5, 3), (0.5, 1)):
        monkeypatch.setattr(resources, "free_gigabytes", lambda free=free: free)
        assert default_workers() == expected
