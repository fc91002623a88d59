"""What the evaluations of objects share: one object after the other, results on disk, one report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from v3d.evaluation.report import ObjectResult, ResultFile, make_report
from v3d.evaluation.settings import ObjectSource, OnObject
from v3d.evaluation.testset import TestObject, load_objects, object_ids
from v3d.provenance import provenance
from v3d.runtime import tune_malloc


def evaluate_objects(
    out: Path,
    title: str,
    source: ObjectSource,
    header: dict[str, Any],
    measure: Callable[[TestObject], ObjectResult],
    on_object: OnObject | None,
) -> dict[str, Any]:
    """Measure every object of `source` that `out` has no result of yet; the report covers all of them.

    Args:
        out: folder of `results.jsonl`, `report.json` and `report.md`.
        title: of the report.
        source: the test objects.
        header: what decides the numbers (protocol, settings, models); other headers' results are not mixed.
        measure: everything that is measured on one object.
        on_object: called after every object.

    Raises:
        V3DError: no object is there, or `out` holds results of another header.
    """
    tune_malloc()
    ids = object_ids(source)
    file = ResultFile(out / "results.jsonl", header)
    missing = [name for name in ids if name not in file.done]
    for item in load_objects(source, missing):
        file.add(measure(item))
        if on_object:
            on_object(item.id, len(file.done & set(ids)), len(ids))
    chosen = set(ids)
    return make_report(title, [r for r in file.results if r.id in chosen], header | provenance(), out)
