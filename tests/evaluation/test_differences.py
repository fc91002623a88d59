from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from v3d.evaluation.differences import differences, paired_difference
from v3d.evaluation.report import ObjectResult


def test_the_interval_is_that_of_the_mean_of_differences():
    g = np.random.default_rng(1)
    base = g.normal(20, 5, 400)  # objects differ by far more than the conditions do
    values = base + g.normal(0.3, 1.0, 400)
    d = paired_difference(values, base)
    assert d is not None and d.n == 400
    assert d.mean == pytest.approx(np.mean(values - base))
    exact = stats.ttest_rel(values, base).confidence_interval(0.95)
    assert d.low == pytest.approx(exact.low, abs=0.01) and d.high == pytest.approx(exact.high, abs=0.01)
    assert paired_difference(values, base) == d  # the same seed, the same interval


def test_the_interval_holds_the_truth_as_often_as_it_says():
    g = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        d = paired_difference(g.normal(1.0, 1.0, 30), np.zeros(30), confidence=0.9)
        assert d is not None
        held += d.low <= 1.0 <= d.high
    assert 0.82 < held / 200 < 0.96


def test_pairs_that_are_not_finite_are_left_out():
    d = paired_difference([1.0, math.nan, math.inf, 3.0, 2.0], [0.0, 0.0, 0.0, math.nan, 1.0])
    assert d is not None and (d.n, d.mean, d.low, d.high) == (2, 1.0, 1.0, 1.0)
    assert paired_difference([1.0, math.nan], [0.0, 0.0]) is None


def test_only_objects_that_have_both_are_compared():
    results = [
        ObjectResult("a", "", True, {"base": {"psnr": 10.0}, "new": {"psnr": 11.0}}),
        ObjectResult("b", "", False, {"base": {"psnr": 20.0}, "new": {"psnr": 24.0}}),
        ObjectResult("c", "", False, {"base": {"psnr": 90.0}}, {"new": "failed"}),
        ObjectResult("d", "", False, {"new": {"psnr": 0.0}}, {"base": "failed"}),
        ObjectResult("e", "", False, {"base": {"psnr": 20.0}, "new": {"psnr": 26.0}}),
    ]
    found = differences(results, "base")
    every, made = found["all objects"]["new"]["psnr"], found["made objects"]["new"]["psnr"]
    assert (every.n, every.mean) == (3, pytest.approx(11 / 3)) and (made.n, made.mean) == (2, 5)
    assert "real scans" not in found  # one object says nothing of the spread
