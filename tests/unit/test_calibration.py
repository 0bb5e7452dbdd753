"""Bias and calibration against scikit-learn, scipy, and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from clearsight.errors import DataError, UsageError
from clearsight.metrics.calibration import order_swap, position_bias, reliability, yes_bias

QUICK = settings(deadline=None, max_examples=60)


def judgements(seed, count, levels=0):
    """(scores, labels); `levels` makes scores coarse, so that many are equal."""
    random = np.random.default_rng(seed)
    scores = random.beta(0.6, 0.6, count)
    if levels:
        scores = np.round(scores * levels) / levels
    return scores, (random.random(count) < scores**2).astype(int)


@QUICK
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([0, 4, 50]), st.integers(1, 15))
def test_the_curve_is_scikit_learns(seed, count, levels, bins):
    scores, labels = judgements(seed, count, levels)
    got = reliability(scores, labels, bins=bins, resamples=2)
    share, mean = calibration_curve(labels, scores, n_bins=bins, strategy="quantile")
    np.testing.assert_allclose(got.relevant_B, share, atol=1e-12)
    np.testing.assert_allclose(got.score_B, mean, atol=1e-12)
    assert got.count_B.sum() == got.judgements == count
    assert got.brier.value == pytest.approx(brier_score_loss(labels, scores, pos_label=1))
    assert got.base_rate == pytest.approx(labels.mean())


@QUICK
@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.integers(1, 12))
def test_the_error_is_that_of_plain_loops(seed, count, bins):
    scores, labels = judgements(seed, count, 20)
    edges = np.percentile(scores, np.linspace(0, 1, bins + 1) * 100)
    total = 0.0
    for b in range(bins):
        members = [
            i
            for i, score in enumerate(scores)
            if (score > edges[b] or (b == 0 and score >= edges[0])) and score <= edges[b + 1]
        ]
        if members:
            gap = sum(labels[i] for i in members) / len(members) - sum(scores[i] for i in members) / len(
                members
            )
            total += len(members) / count * abs(gap)
    assert reliability(scores, labels, bins=bins, resamples=2).ece.value == pytest.approx(total, abs=1e-12)


def test_bins_hold_equal_counts_and_equal_scores_share_one():
    scores, labels = judgements(1, 1000)
    assert reliability(scores, labels, resamples=2).count_B.tolist() == [100] * 10
    constant = reliability(np.full(40, 0.25), np.arange(40) % 4 == 0, resamples=50)
    assert constant.count_B.tolist() == [40]
    assert constant.ece.value == 0
    assert constant.brier.value == pytest.approx(0.25 * 0.75)


def test_intervals_hold_what_they_estimate():
    """Calibrated scores in many samples: the error's interval and the Brier score's hold the truth."""
    inside = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        scores = random.random(400)
        labels = random.random(400) < scores
        got = reliability(scores, labels, resamples=200, seed=seed)
        assert got.ece.low <= got.ece.high
        inside += got.brier.low <= 1 / 6 <= got.brier.high
        assert got.ece.low < 0.08
        assert got.ece_floor == pytest.approx(got.ece.value, abs=0.06)
    assert inside >= 34
    wrong = reliability(np.full(500, 0.9), np.arange(500) % 2, resamples=200)
    assert wrong.ece.low < 0.4 < wrong.ece.high
    assert wrong.ece.value == pytest.approx(0.4)
    # One bin of 500 with a true share of 0.9: the mean absolute error of a binomial share.
    assert wrong.ece_floor == pytest.approx(np.sqrt(2 / np.pi * 0.9 * 0.1 / 500), rel=0.2)


def test_the_interval_of_a_share_is_wilsons():
    got = reliability(np.full(37, 0.5), np.arange(37) < 5, resamples=2)
    want = scipy.stats.binomtest(5, 37).proportion_ci(method="wilson")
    assert got.low_B[0] == pytest.approx(want.low)
    assert got.high_B[0] == pytest.approx(want.high)


@QUICK
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_position_bias_is_scipys(seed, options):
    chosen = np.random.default_rng(seed).integers(0, options, 30 * options)
    got = position_bias(chosen, options)
    want = scipy.stats.chisquare(np.bincount(chosen, minlength=options))
    assert got.chi_square == pytest.approx(want.statistic)
    assert got.p_value == pytest.approx(want.pvalue)
    assert not got.simulated
    np.testing.assert_allclose(got.expected_P, 30)
    assert got.offered_P.tolist() == [len(chosen)] * options


def test_few_answers_are_simulated():
    """Eight answers, all for the first of four: the exact chance is 4 / 4^8 for all at one position."""
    got = position_bias([0] * 8, 4, resamples=200_000)
    assert got.simulated
    assert got.p_value == pytest.approx(4 / 4**8, rel=0.5)
    fair = position_bias([0, 1, 2, 3], 4)
    assert fair.p_value == 1
    assert position_bias([0, 0, 0], 1).p_value == 1


def test_options_may_differ_in_number():
    """Two answers over two options and one over three: 1/2 + 1/2 + 1/3, ..., 1/3."""
    got = position_bias([0, 1, 2], [2, 2, 3])
    np.testing.assert_allclose(got.expected_P, [4 / 3, 4 / 3, 1 / 3])
    assert got.offered_P.tolist() == [3, 3, 1]
    assert got.answers == 3
    random = np.random.default_rng(0)
    sizes = random.integers(2, 6, 4000)
    fair = position_bias(random.integers(0, sizes), sizes, resamples=500)
    biased = position_bias(
        np.minimum(random.integers(0, sizes), random.integers(0, sizes)), sizes, resamples=500
    )
    assert fair.p_value > 0.05
    assert biased.p_value < 0.01


def test_yes_bias():
    got = yes_bias([0.9, 0.5, 0.2, 0.8])
    assert got.mean.value == pytest.approx(0.6)
    assert got.above_half.value == 0.5
    assert got.above_half.low <= 0.5 <= got.above_half.high
    assert got.judgements == 4


def test_order_swap():
    got = order_swap([0.9, 0.4, 0.6, 0.5], [0.8, 0.6, 0.4, 0.7])
    assert got.flipped.value == 0.75
    assert got.difference.value == pytest.approx((0.1 + 0.2 + 0.2 + 0.2) / 4)
    assert got.shift.value == pytest.approx((0.1 - 0.2 + 0.2 - 0.2) / 4)
    same = order_swap([0.3, 0.9], [0.3, 0.9])
    assert (same.flipped.value, same.difference.value, same.shift.value) == (0, 0, 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: yes_bias([]),
        lambda: yes_bias([0.2, np.nan]),
        lambda: yes_bias([1.2]),
        lambda: order_swap([0.1, 0.2], [0.1]),
        lambda: reliability([0.1, 0.2], [1]),
        lambda: reliability([0.1, 0.2], [1, 0.5]),
        lambda: position_bias([], 4),
        lambda: position_bias([4], 4),
        lambda: position_bias([-1], 4),
    ],
)
def test_what_cannot_be_measured_is_refused(call):
    with pytest.raises(DataError):
        call()


def test_no_bins_are_refused():
    with pytest.raises(UsageError, match="0 bins"):
        reliability([0.5], [1], bins=0)
