"""Results on disk: a JSON-lines file that grows by one object at a time, then a table with its provenance."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeGuard

from v3d.errors import V3DError
from v3d.files import atomic, clear_errors, write_json
from v3d.provenance import provenance

Scores = dict[str, dict[str, float]]
"""Of one object: method -> metric -> value."""

GROUPS = {"all objects": None, "real scans": True, "made objects": False}


@dataclass(frozen=True)
class ObjectResult:
    """What was measured on one object.

    Attributes:
        id: name of the object.
        hash: fingerprint of its data.
        real_scan: whether it is a scan of a real thing.
        scores: method -> metric -> value.
        failures: method -> the sentence it failed with.
    """

    id: str
    hash: str
    real_scan: bool
    scores: Scores
    failures: dict[str, str] = field(default_factory=dict)


class ResultFile:
    """`results.jsonl`: a header (protocol and settings), then one line an object.

    A file with the same header is continued, so an interrupted evaluation loses one object at most.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Open or start the file.

        Raises:
            V3DError: the file holds results of another protocol or other settings.
        """
        self.path = path
        self.header = json.loads(json.dumps(header))
        self.results = read_results(path, self.header)
        with atomic(path) as temporary:
            rows = [self.header, *(vars(r) for r in self.results)]
            temporary.write_text("".join(_line(row) for row in rows), encoding="utf-8")

    @property
    def done(self) -> set[str]:
        """Names of the objects that are in the file."""
        return {r.id for r in self.results}

    def add(self, result: ObjectResult) -> None:
        """Append one object, on disk before this returns."""
        with clear_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line(vars(result)))
            file.flush()
            os.fsync(file.fileno())
        self.results.append(result)


def read_results(path: Path, header: dict[str, Any]) -> list[ObjectResult]:
    """The results in a `ResultFile`, which another process may be writing; none where there is no file.

    Raises:
        V3DError: the file holds results of another protocol or other settings.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    if lines and _parse(lines[0]) != json.loads(json.dumps(header)):
        raise V3DError(f"{path} holds results of other settings; choose another folder or remove the file.")
    rows = [_parse(line) for line in lines[1:]]
    # A line that a kill has cut, or somebody has changed, is measured again.
    return [ObjectResult(**row) for row in rows if _is_result(row)]


def _is_result(row: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a line's value has the fields of a result, with scores that are numbers."""
    if not isinstance(row, dict) or set(row) != {f.name for f in fields(ObjectResult)}:
        return False
    scores = row["scores"].values() if isinstance(row["scores"], dict) else [None]
    numbers = [v for of in scores for v in (of.values() if isinstance(of, dict) else [None])]
    return isinstance(row["failures"], dict) and all(isinstance(v, int | float) for v in numbers)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row


def summarise(results: Sequence[ObjectResult]) -> dict[str, Scores]:
    """Group -> method -> metric -> mean over the group's objects; `n` counts successes.

    Values that are not finite are left out of a mean, groups in which every method failed out of the summary.
    """
    summary: dict[str, Scores] = {}
    for group, scan in GROUPS.items():
        chosen = [r for r in results if scan is None or r.real_scan == scan]
        methods = dict.fromkeys(m for r in chosen for m in r.scores)
        if methods and not (scan is not None and len(chosen) == len(results)):
            summary[group] = {m: _means([r.scores[m] for r in chosen if m in r.scores]) for m in methods}
    return summary


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    means: dict[str, float] = {}
    for metric in dict.fromkeys(k for row in rows for k in row):
        values = [row[metric] for row in rows if metric in row and math.isfinite(row[metric])]
        means[metric] = sum(values) / len(values) if values else math.nan
    return {**means, "n": len(rows)}


def make_report(
    title: str,
    results: Sequence[ObjectResult],
    provenance: dict[str, Any],
    folder: Path | None = None,
    look: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Provenance, means, every object; with a `folder`, also as `report.json` and `report.md` (tables).

    `look` is the `note` and the `columns` of the tables, where there are any (`markdown`).
    """
    data = hashlib.sha256("".join(sorted(r.id + r.hash for r in results)).encode()).hexdigest()[:16]
    report = {
        "title": title,
        **(look or {}),
        "provenance": {**provenance, "data_hash": data, "objects": len(results)},
        "summary": summarise(results),
        "objects": [vars(r) for r in results],
    }
    if folder is not None:
        save_report(report, folder)
    return report


def report_one(
    title: str, subject: Path, scores: Scores, folder: Path | None, about: dict[str, Any]
) -> dict[str, Any]:
    """The report of one comparison: `scores` of `subject`, with provenance; see `make_report`."""
    result = ObjectResult(str(subject), "", False, scores, {})
    return make_report(title, [result], about | provenance(), folder)


def save_report(report: dict[str, Any], folder: Path) -> None:
    """Write `report.json` and `report.md`."""
    write_json(folder / "report.json", _finite(report))
    with atomic(folder / "report.md") as temporary:
        temporary.write_text(markdown(report), encoding="utf-8")


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown: a table for each group, failures, provenance.

    A report may have a `note`, `columns` (the only metrics to show), and `differences` (group -> method ->
    metric -> mean, low, high), which stand behind the means.
    """
    parts = [f"# {report['title']}\n", *([report["note"] + "\n"] if "note" in report else [])]
    for group, methods in report["summary"].items():
        metrics = list(dict.fromkeys(k for scores in methods.values() for k in scores if k != "n"))
        metrics = [m for m in metrics if m in report.get("columns", metrics)]
        different = report.get("differences", {}).get(group, {})
        count = max(int(scores["n"]) for scores in methods.values())
        parts.append(f"## {group.capitalize()} ({count})\n")
        parts.append("| method | n | " + " | ".join(metrics) + " |")
        parts.append("|---|---:|" + "---:|" * len(metrics))
        for method, scores in methods.items():
            against = different.get(method, {})
            cells = [_cell(m, scores.get(m)) + _difference(m, against.get(m)) for m in metrics]
            parts.append(f"| {method} | {int(scores['n'])} | " + " | ".join(cells) + " |")
        parts.append("")
    failures = [(r["id"], m, why) for r in report["objects"] for m, why in r["failures"].items()]
    if failures:
        parts += ["## Failures\n", *(f"- {name}, {method}: {why}" for name, method, why in failures), ""]
    parts += ["## Provenance\n", "```json", json.dumps(_finite(report["provenance"]), indent=2), "```", ""]
    return "\n".join(parts)


def _cell(metric: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    if "psnr" in metric.lower():
        return f"{value:.2f}"
    if metric.endswith("gaussians"):
        return f"{value:.0f}"
    return f"{value:.1f}" if metric.endswith("seconds") else f"{value:.4f}"


def _difference(metric: str, against: dict[str, float] | None) -> str:
    if against is None:
        return ""
    mean, low, high = (_cell(metric, against[k]) for k in ("mean", "low", "high"))
    return f" ({'' if mean.startswith('-') else '+'}{mean}; {low} to {high})"


def _finite(value: Any) -> Any:
    """Nested dicts and lists with None in place of nan and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
