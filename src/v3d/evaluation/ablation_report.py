"""What an ablation says: means beside paired differences to the base, and curves over numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from v3d.evaluation.differences import differences
from v3d.evaluation.plot import Point, plot, tile
from v3d.evaluation.report import ObjectResult, make_report, save_report
from v3d.evaluation.variants import Variant
from v3d.files import atomic

COLUMNS = {
    "orbits": (
        "psnr",
        "foreground_psnr",
        "mask_iou",
        "lpips-alex",
        "back.psnr",
        "consistency.iou",
        "mesh.iou",
        "seconds",
    ),
    "assets": (
        "splats.between.psnr",
        "splats.above.psnr",
        "mesh.between.psnr",
        "chamfer",
        "iou",
        "front_iou",
        "seconds",
    ),
}
"""The metrics of each half that tables show; the JSON has all."""

NOTE = (
    "In parentheses: the mean difference to the base over the same objects and seeds, and its 95 % interval"
    " (bootstrap over objects). An interval that excludes 0 is a difference that other objects would confirm."
)
_PLOTTED = 4


def make_ablation_report(
    halves: Mapping[str, tuple[Sequence[Variant[Any]], Sequence[ObjectResult]]],
    provenance: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Write `report.json`, `report.md` and, where a number is varied, `curves.png`; returns the report.

    Args:
        halves: "orbits" and "assets" -> the variants, and their scores by label for every object.
        provenance: settings, models, versions and machine, for the report.
        folder: of the files.
    """
    report: dict[str, Any] = {
        "title": "Ablation",
        "note": NOTE,
        "summary": {},
        "differences": {},
        "objects": [],
    }
    rows: list[list[Image.Image]] = []
    for half, (variants, results) in halves.items():
        part = make_report("", results, provenance)
        apart = differences(results, "base")
        for group, means in part["summary"].items():
            name = f"{half}, {group}"
            report["summary"][name] = {v.label: means[v.label] for v in variants if v.label in means}
            report["differences"][name] = {
                label: {metric: asdict(d) for metric, d in metrics.items()}
                for label, metrics in apart.get(group, {}).items()
            }
        report["provenance"] = part["provenance"]
        report["objects"] += part["objects"]
        rows += curves(half, variants, report)
    report["columns"] = sorted({metric for names in COLUMNS.values() for metric in names})
    save_report(report, folder)
    if rows:
        with atomic(folder / "curves.png") as temporary:
            tile(rows).save(temporary)
    return report


def curves(half: str, variants: Sequence[Variant[Any]], report: Mapping[str, Any]) -> list[list[Image.Image]]:
    """A row of pictures for each axis of numbers: metrics over it, and intervals of differences."""
    name = f"{half}, all objects"
    means, apart = report["summary"].get(name, {}), report["differences"].get(name, {})
    rows = []
    for axis in dict.fromkeys(v.axis for v in variants if _is_number(v.value)):
        chosen = [v for v in variants if v.axis in ("", axis) and v.label in means]
        metrics = [m for m in COLUMNS[half] if all(m in means[v.label] for v in chosen)][:_PLOTTED]
        row = []
        for metric in metrics:
            points = []
            for v in chosen:
                y = means[v.label][metric]
                d = apart.get(v.label, {}).get(metric, {"mean": 0.0, "low": 0.0, "high": 0.0})
                x = float(getattr(v.choice, axis))
                points.append(Point(x, y, y + d["low"] - d["mean"], y + d["high"] - d["mean"]))
            if points and all(p.y == p.y for p in points):
                row.append(plot(points, f"{metric} over {axis}"))
        if row:
            rows.append(row)
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
