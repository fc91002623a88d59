"""A run that is killed and started again leaves what an uninterrupted one leaves (`scripts/kill_runs.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from kill_runs import content, job, reference, run, trial


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    run(["make-objects", "2", "-o", str(folder / "objects")])
    return folder


def test_a_killed_job_ends_as_if_it_had_not_been(inputs: Path, tmp_path: Path) -> None:
    expected, seconds = reference("render", inputs, tmp_path)
    assert {"manifest.json", "orbits-00000.safetensors", ".done/00005.json"} <= set(expected)
    kills, wrong = trial("render", inputs, tmp_path, expected, [0.6 * seconds, 0.5 * seconds])
    assert kills >= 1
    assert wrong == []


def test_what_differs_is_told(inputs: Path, tmp_path: Path) -> None:
    line = job("render", inputs, tmp_path / "render-killed").first
    run(line)
    expected = content(tmp_path / "render-killed")
    expected["orbits-00000.safetensors"] = "other"
    expected["orbits-00009.safetensors"] = "more"
    del expected["manifest.json"]
    assert trial("render", inputs, tmp_path, expected, [])[1] == [
        "orbits-00000.safetensors differs",
        "orbits-00009.safetensors is missing",
        "manifest.json is left over",
    ]


def test_times_in_reports_do_not_count(tmp_path: Path) -> None:
    for name, seconds, faces in (("a", 1.5, 9), ("b", 7.25, 9), ("c", 1.5, 8)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(
            f'{{"stages": {{"mesh": {{"seconds": {seconds}, "faces": {faces}}}}}}}'
        )
    a, b, c = (content(tmp_path / name) for name in "abc")
    assert a == b != c
