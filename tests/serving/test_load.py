"""Short versions of `benchmarks/serving_load.py` and `scripts/kill_server.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_many_clients_lose_and_double_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from serving_load import measure

    figures = measure(clients=12, minutes=0.1, folder=tmp_path)
    assert figures["jobs"] >= 12 and figures["looks"] >= figures["jobs"]
    assert figures["mb_at_the_end"] < 1.2 * figures["mb_after_a_fifth"] + 50


def test_kills_lose_nothing(tmp_path: Path) -> None:
    from kill_server import kill_often

    ended = kill_often(4, tmp_path, seed=1)
    assert ended["done"] > 0
