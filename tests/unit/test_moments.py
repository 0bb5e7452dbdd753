"""Moments: the same whatever the blocks, equal to numpy, shrinkage equal to scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.covariance import oas as sklearn_oas

from clearsight.errors import DataError
from clearsight.moments import Moments, ledoit_wolf, oas


def draw(count: int, width: int, shift: float, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, width)) @ rng.standard_normal(
        (width, width)
    ) + shift * rng.standard_normal(width)


def relative(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(2, 200),
    width=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    shift=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_blocks_do_not_matter(count: int, width: int, cuts: list[int], shift: float, seed: int) -> None:
    rows_ND = draw(count, width, shift, seed)
    blocks = np.split(rows_ND, sorted(min(cut, count) for cut in cuts))
    streamed, merged = Moments(), Moments(width)
    for block in blocks:
        streamed.update(block)
        merged.merge(Moments().update(block))
    whole = Moments().update(rows_ND)
    for one in (streamed, merged):
        assert one.count == count
        assert relative(one.mean_D, whole.mean_D) < 1e-10
        assert relative(one.covariance_DD, whole.covariance_DD) < 1e-10
        assert ledoit_wolf(one) == pytest.approx(ledoit_wolf(whole), abs=1e-9)
    assert relative(whole.covariance_DD, np.cov(rows_ND.T).reshape(width, width)) < 1e-10


def test_a_mean_a_million_times_the_spread_keeps_ten_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearsight.moments.BLOCK_VALUES", 20 * 1000)
    rows_ND = draw(6007, 20, 0.0)
    shifted_ND = rows_ND + 2.0**20  # exact in float64 up to the rows' last bits
    exact = np.cov((shifted_ND - 2.0**20).T)
    by_rows = Moments()
    for block in np.array_split(shifted_ND, 50):
        by_rows.update(block)
    assert relative(Moments().update(shifted_ND).covariance_DD, exact) < 1e-10
    assert relative(by_rows.covariance_DD, exact) < 1e-10


def test_float32_rows_are_summed_in_float64() -> None:
    rows_ND = (draw(5000, 8, 0.0) + 1000).astype(np.float32)
    assert relative(Moments().update(rows_ND).covariance_DD, np.cov(rows_ND.astype(np.float64).T)) < 1e-12


@pytest.mark.parametrize("shift", [0.0, 100.0])
@pytest.mark.parametrize(("count", "width"), [(500, 20), (30, 60), (100, 1), (2, 3)])
def test_shrinkage_is_scikit_learns(count: int, width: int, shift: float) -> None:
    rows_ND = draw(count, width, shift)
    moments = Moments()
    for block in np.array_split(rows_ND, min(count, 7)):
        moments.update(block)
    assert ledoit_wolf(moments) == pytest.approx(ledoit_wolf_shrinkage(rows_ND), rel=1e-9)
    assert oas(moments) == pytest.approx(sklearn_oas(rows_ND)[1], rel=1e-9)


def test_weights_count_rows() -> None:
    rows_ND, weights_N = draw(40, 6, 10.0), np.random.default_rng(1).integers(0, 4, 40)
    repeated = Moments().update(np.repeat(rows_ND, weights_N, axis=0))
    weighted = Moments().update(rows_ND[:13], weights_N[:13]).update(rows_ND[13:], weights_N[13:])
    assert weighted.count == pytest.approx(repeated.count)
    assert relative(weighted.mean_D, repeated.mean_D) < 1e-12
    assert relative(weighted.covariance_DD, repeated.covariance_DD) < 1e-12
    assert relative(weighted.third_D, repeated.third_D) < 1e-9
    assert weighted.fourth == pytest.approx(repeated.fourth, rel=1e-12)


def test_rows_are_left_as_they_were_unless_given_away() -> None:
    rows_ND = draw(50, 6, 1.0)
    before = rows_ND.copy()
    kept = Moments().update(rows_ND)
    assert np.array_equal(rows_ND, before)
    given = Moments().update(rows_ND, overwrite=True)
    assert np.array_equal(given.covariance_DD, kept.covariance_DD)


def test_a_copy_and_a_part_stand_alone() -> None:
    rows_ND = draw(50, 6, 1.0)
    moments = Moments().update(rows_ND[:30])
    copy, part = moments.copy(), moments.part(slice(2, 5))
    moments.update(rows_ND[30:])
    assert relative(copy.covariance_DD, np.cov(rows_ND[:30].T)) < 1e-12
    assert relative(part.covariance_DD, np.cov(rows_ND[:30, 2:5].T)) < 1e-12


def test_what_cannot_be_used_is_refused() -> None:
    moments = Moments().update(draw(1, 3, 0.0))
    for ask in (lambda: moments.covariance_DD, lambda: ledoit_wolf(moments), lambda: oas(moments)):
        with pytest.raises(DataError, match="two rows"):
            ask()
    with pytest.raises(DataError, match="width 3"):
        moments.update(draw(2, 4, 0.0))
    with pytest.raises(DataError, match="merged"):
        moments.merge(Moments().update(draw(2, 4, 0.0)))
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="NaN or infinity"):
            Moments().update(np.array([[0.0, bad], [1.0, 1.0]]))
    assert moments.merge(Moments()).count == 1
