"""Paired differences: the same objects under two conditions, with a bootstrap interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from v3d.evaluation.report import GROUPS, ObjectResult

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """Mean over `n` objects of (value - value of the base), and its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    n: int


def paired_difference(
    values: Sequence[float], base: Sequence[float], *, seed: int = 0, confidence: float = 0.95
) -> Difference | None:
    """Percentile bootstrap over objects of the mean difference; pairs that are not finite are left out.

    Objects differ far more from each other than conditions do, so differences are taken object by object, and
    whole pairs are resampled. None where fewer than two pairs are left: one says nothing of its spread.
    """
    d = np.asarray(values, np.float64) - np.asarray(base, np.float64)
    d = d[np.isfinite(d)]
    if len(d) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(d), size=(RESAMPLES, len(d)))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(d[draws].mean(1), [tail, 100 - tail])
    return Difference(float(d.mean()), float(low), float(high), len(d))


def differences(results: Sequence[ObjectResult], base: str) -> dict[str, dict[str, dict[str, Difference]]]:
    """Group -> method -> metric -> difference to the method `base`, over objects where both were measured."""
    found: dict[str, dict[str, dict[str, Difference]]] = {}
    for group, scan in GROUPS.items():
        chosen = [r for r in results if (scan is None or r.real_scan == scan) and base in r.scores]
        for method in dict.fromkeys(m for r in chosen for m in r.scores if m != base):
            pairs = [(r.scores[method], r.scores[base]) for r in chosen if method in r.scores]
            for metric in dict.fromkeys(k for scores, _ in pairs for k in scores):
                difference = paired_difference(
                    [scores.get(metric, math.nan) for scores, _ in pairs],
                    [scores.get(metric, math.nan) for _, scores in pairs],
                )
                if difference is not None:
                    found.setdefault(group, {}).setdefault(method, {})[metric] = difference
    return found
