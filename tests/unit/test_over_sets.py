"""Means over sets: each set counts once; intervals and tests are stratified by set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clearsight.errors import DataError
from clearsight.metrics import mean_over_sets, paired_test, paired_test_over_sets
from clearsight.types import Score


def scored(values, measure="hit_rate@1") -> Score:
    values_Q = np.asarray(values, dtype=np.float64)
    judged = values_Q[np.isfinite(values_Q)]
    mean = float(judged.mean())
    return Score(measure, values_Q, mean, mean, mean, mean, mean, len(judged), 0.0, 0.1)


def test_a_set_counts_once_however_many_queries_it_has() -> None:
    small, large = scored([1.0, 1.0]), scored([0.0] * 98)
    mean = mean_over_sets([small, large])
    assert mean.mean == 0.5
    assert mean.judged == 100
    assert mean.chance == pytest.approx(0.1)


def test_queries_without_judgement_are_left_out() -> None:
    assert mean_over_sets([scored([1.0, np.nan]), scored([0.0, 0.0])]).mean == 0.5


def test_the_interval_is_that_of_the_sum_of_independent_means() -> None:
    random = np.random.default_rng(0)
    sets = [scored(random.random(50) < p) for p in (0.2, 0.5, 0.9)]
    mean = mean_over_sets(sets, resamples=20_000)
    error = np.sqrt(sum(s.values_Q.var() / len(s.values_Q) for s in sets)) / len(sets)
    assert mean.low == pytest.approx(mean.mean - 1.96 * error, abs=0.01)
    assert mean.high == pytest.approx(mean.mean + 1.96 * error, abs=0.01)


def test_sets_of_different_measures_name_them_all() -> None:
    both = mean_over_sets([scored([1.0], "hit_rate@5"), scored([0.0], "hit_rate@10")])
    assert both.measure == "hit_rate@5 or hit_rate@10"


def test_one_set_gives_the_plain_test() -> None:
    random = np.random.default_rng(1)
    a, b = scored(random.random(200)), scored(random.random(200))
    one, plain = paired_test_over_sets([a], [b]), paired_test(a, b)
    assert one.difference == pytest.approx(plain.difference)
    assert one.p_value == pytest.approx(plain.p_value, abs=0.02)
    assert (one.low, one.high) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_the_exact_test_weighs_queries_by_their_set() -> None:
    # One query of a set of one outweighs two of a set of four: by hand, over the 8 sign patterns.
    a = [scored([1.0]), scored([1.0, 1.0, 0.0, 0.0])]
    b = [scored([0.0]), scored([0.0, 0.0, 0.0, 0.0])]
    weights = np.array([1 / 2, 1 / 8, 1 / 8])
    signs = np.array([[(i >> j) & 1 for j in range(3)] for i in range(8)]) * 2 - 1
    by_hand = float((np.abs(signs @ weights) >= weights.sum() - 1e-12).mean())
    test = paired_test_over_sets(a, b)
    assert test.difference == pytest.approx(0.75)
    assert test.p_value == by_hand


def test_a_true_difference_is_found_and_none_is_not() -> None:
    random = np.random.default_rng(2)
    base = [scored(random.random(300) < 0.3) for _ in range(4)]
    better = [replace(s, values_Q=np.maximum(s.values_Q, random.random(300) < 0.2)) for s in base]
    same = [scored(random.random(300) < 0.3) for _ in range(4)]
    assert paired_test_over_sets(better, base).p_value < 0.001
    assert paired_test_over_sets(same, base).p_value > 0.01


def test_sets_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="1 sets cannot be paired with 2"):
        paired_test_over_sets([scored([1.0])], [scored([1.0]), scored([0.0])])
    with pytest.raises(DataError, match="There is no set"):
        mean_over_sets([])
