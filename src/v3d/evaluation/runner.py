"""What the evaluations of objects share: one object after the other, results on disk, one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from v3d.errors import V3DError
from v3d.evaluation.report import ObjectResult, ResultFile, make_report, read_results
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
    *,
    shard: tuple[int, int] = (1, 1),
    look: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure every object of `source` that `out` has no result of yet; the report covers all that it has.

    Args:
        out: folder of `results.jsonl`, `report.json` and `report.md`.
        title: of the report.
        source: the test objects.
        header: what decides the numbers (protocol, settings, models); other headers' results are not mixed.
        measure: everything that is measured on one object.
        on_object: called after every object.
        shard: (i, n) measures part i, from 1 on, of n parts, in a file of its own beside the others'.
        look: of the report, see `v3d.evaluation.report.make_report`.

    Raises:
        V3DError: no object is there, there is no such part, or `out` holds results of another header.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise V3DError(f"There is no shard {part} of {parts}; give --shard 1 2 and --shard 2 2, for example.")
    tune_malloc()
    ids = object_ids(source)
    file = ResultFile(out / f"results{'' if parts == 1 else f'-{part}-of-{parts}'}.jsonl", header)
    done = _all_results(out, header)
    mine = ids[part - 1 :: parts]
    missing = [name for name in mine if name not in done]
    for i, item in enumerate(load_objects(source, missing)):
        file.add(measure(item))
        if on_object:
            on_object(item.id, len(mine) - len(missing) + i + 1, len(mine))
    done = _all_results(out, header)
    results = [done[name] for name in ids if name in done]
    return make_report(title, results, header | provenance(), out, look)


def _all_results(out: Path, header: dict[str, Any]) -> dict[str, ObjectResult]:
    """Name -> result of every object that a process has measured in the folder."""
    files = sorted(out.glob("results*.jsonl"))
    return {result.id: result for file in files for result in read_results(file, header)}
