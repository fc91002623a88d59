from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from v3d.errors import V3DError
from v3d.evaluation.report import ObjectResult, ResultFile, make_report, markdown, summarise
from v3d.provenance import provenance


def result(name: str, value: float, scan: bool = False) -> ObjectResult:
    return ObjectResult(
        name, f"hash of {name}", scan, {"true views": {"psnr": 100.0}, "ours": {"psnr": value}}
    )


def test_results_survive_a_restart_and_a_cut_line(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    file = ResultFile(path, {"seed": 0})
    file.add(result("a", 20.0))
    file.add(result("b", math.inf))
    with path.open("a") as stream:
        stream.write('{"id": "c", "has')  # killed while writing
    again = ResultFile(path, {"seed": 0})
    assert again.done == {"a", "b"} and again.results == file.results
    again.add(result("c", 22.0))
    assert ResultFile(path, {"seed": 0}).done == {"a", "b", "c"}


def test_results_of_other_settings_are_not_continued(tmp_path: Path):
    ResultFile(tmp_path / "results.jsonl", {"seed": 0}).add(result("a", 20.0))
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(V3DError, match="other settings"):
        ResultFile(tmp_path / "results.jsonl", {"seed": 1})
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_means_are_given_for_all_for_scans_and_for_made_objects():
    summary = summarise([result("a", 20.0, True), result("b", 30.0), result("c", math.nan)])
    assert summary["all objects"]["ours"] == {"psnr": 25.0, "n": 3}
    assert summary["real scans"]["ours"] == {"psnr": 20.0, "n": 1}
    assert summary["made objects"]["ours"] == {"psnr": 30.0, "n": 2}
    assert list(summarise([result("a", 20.0, True)])) == ["all objects"]


def test_a_report_of_failures_alone_lists_them():
    failed = ObjectResult("a", "hash of a", False, {}, {"ours": "No surface."})
    report = make_report("Title", [failed], {})
    assert report["summary"] == {}
    assert "- a, ours: No surface." in markdown(report)


def test_report_is_valid_json_and_a_table_with_its_provenance(tmp_path: Path):
    results = [result("a", 20.0, True), result("b", math.nan)]
    results[1].failures["mesh"] = "No surface."
    report = make_report("Title", results, {"seed": 0} | provenance(), tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    stored = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert stored["objects"][1]["scores"]["ours"]["psnr"] is None
    assert {"commit", "versions", "machine", "data_hash", "seed"} <= set(stored["provenance"])
    text = (tmp_path / "report.md").read_text()
    assert text == markdown(report)
    assert "| true views | 2 | 100.00 |" in text and "| ours | 1 | 20.00 |" in text and "No surface." in text


def test_the_data_hash_depends_on_the_objects_and_not_on_their_order():
    a, b = result("a", 1.0), result("b", 2.0)
    hashes = [make_report("", rows, {})["provenance"]["data_hash"] for rows in ([a, b], [b, a], [a])]
    assert hashes[0] == hashes[1] != hashes[2]
