"""A log hears that a stage begins, how far it has come every ten seconds, and that it has ended."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from v3d import progress
from v3d.progress import ProgressDisplay


def test_a_log_is_never_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    text = io.StringIO()
    with ProgressDisplay(Console(file=text, width=80)) as show:
        show.title("cup.png -> out/cup")
        show("splats", 0, 1)
        for step in range(1, 31):
            now += 1.0
            show("splats", step, 60)
        now += 5.0
        show("splats", 1, 1)
    assert text.getvalue().splitlines() == [
        "cup.png -> out/cup",
        "splats ...",
        "splats: 10 of 60, about 0:00:50 left",
        "splats: 20 of 60, about 0:00:40 left",
        "splats: 30 of 60, about 0:00:30 left",
        "splats: 35.0 s",
    ]


def test_a_first_step_that_compiles_promises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    text = io.StringIO()
    with ProgressDisplay(Console(file=text, width=80)) as show:
        show("splats", 0, 300)
        for step, seconds in ((1, 30.0), (11, 10.0)):
            now += seconds
            show("splats", step, 300)
    assert text.getvalue().splitlines() == [
        "splats ...",
        "splats: 1 of 300",
        "splats: 11 of 300, about 0:04:49 left",
    ]
