"""Laws of the repairs over arrays."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

from clearsight.errors import DataError, UsageError
from clearsight.repair import Affine, Centre, Chain, RemoveSubspace, RemoveTopComponents, ShrinkageZCA
from clearsight.repair.affine import unit_rows
from clearsight.repair.subspace import leading_directions

Array = NDArray[np.float64]
REPAIRS = [
    Centre(),
    ShrinkageZCA(),
    ShrinkageZCA(preset="release"),
    ShrinkageZCA("oas"),
    RemoveTopComponents(2),
    RemoveSubspace(np.eye(12)[:3]),
    Chain([RemoveSubspace(np.eye(12)[:3]), ShrinkageZCA()]),
]


def draw(count: int = 40, width: int = 12, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, width)) * np.geomspace(1, 0.1, width) + 0.5


@pytest.mark.parametrize("repair", REPAIRS, ids=repr)
class TestEveryRepair:
    def test_one_row_alone_is_that_row_among_others(self, repair: ShrinkageZCA) -> None:
        rows = draw()
        fitted = repair.fit(rows)
        together = fitted.transform(rows)
        alone = np.concatenate([fitted.transform(rows[i : i + 1]) for i in range(len(rows))])
        assert np.allclose(alone, together, rtol=0, atol=1e-12 * np.abs(together).max())

    @pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e4, 1e30])
    def test_the_scale_of_a_row_does_not_matter(self, repair: ShrinkageZCA, scale: float) -> None:
        rows = draw().astype(np.float32)
        plain = repair.fit(rows).transform(rows)
        scaled = repair.fit(rows * np.float32(scale)).transform(rows * np.float32(scale))
        assert np.allclose(scaled, plain, rtol=0, atol=1e-4 * np.abs(plain).max())

    def test_float32_in_float32_out_from_float64_statistics(self, repair: ShrinkageZCA) -> None:
        rows = draw(300)
        exact = repair.fit(rows).transform(rows)
        single = repair.fit(rows.astype(np.float32)).transform(rows.astype(np.float32))
        assert single.dtype == np.float32
        assert np.allclose(single, exact, rtol=0, atol=2e-5 * np.abs(exact).max())

    def test_bad_rows_are_refused(self, repair: ShrinkageZCA) -> None:
        rows = draw()
        for bad in (np.nan, np.inf):
            broken = rows.copy()
            broken[3, 2] = bad
            with pytest.raises(ValueError, match=r"NaN|infinity"):
                repair.fit(broken)
            with pytest.raises(ValueError, match=r"NaN|infinity"):
                repair.fit(rows).transform(broken)
        with pytest.raises(ValueError, match="features"):
            repair.fit(rows).transform(rows[:, :5])

    def test_duplicates_constant_dimensions_and_zero_rows_give_finite_rows(
        self, repair: ShrinkageZCA
    ) -> None:
        rows = np.repeat(draw(8), 5, axis=0)
        rows[:, 4] = 0.0
        rows[:, 5] = 3.0
        rows[0] = 0.0
        assert np.isfinite(repair.fit(rows).transform(rows)).all()

    def test_it_can_be_pickled(self, repair: ShrinkageZCA) -> None:
        rows = draw()
        fitted = repair.fit(rows)
        assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(rows), fitted.transform(rows))


@pytest.mark.parametrize("repair", [Centre(), ShrinkageZCA(), RemoveTopComponents()], ids=repr)
def test_one_row_cannot_be_fitted(repair: ShrinkageZCA) -> None:
    with pytest.raises(ValueError, match="1 sample"):
        repair.fit(draw(1))


def test_a_stream_of_single_rows() -> None:
    rows = draw(30)
    stream = ShrinkageZCA().partial_fit(rows[:1])
    with pytest.raises(DataError, match="at least two rows"):
        stream.transform(rows)
    for i in range(1, 30):
        stream.partial_fit(rows[i : i + 1])
    assert np.allclose(stream.transform(rows), ShrinkageZCA().fit(rows).transform(rows), atol=1e-10)
    assert np.allclose(stream.mean_, Centre().fit(rows).mean_, atol=1e-14)


def test_rows_without_variance_are_only_centred() -> None:
    rows = np.outer(np.arange(1.0, 9.0), draw(1)[0])
    fitted = ShrinkageZCA().fit(rows)
    assert np.abs(fitted.transform(rows)).max() < 1e-12
    other = draw(3, seed=1)
    assert np.allclose(fitted.transform(other), unit_rows(other) - fitted.mean_)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 20), st.floats(0, 1), st.integers(0, 50))
def test_whitened_rows_have_the_shrunk_variances(count: int, width: int, a: float, seed: int) -> None:
    """The covariance of y is C (S + e)^-1, with eigenvalues s / ((1 - a) s + a t + e t)."""
    rows = draw(count, width, seed)
    before = np.linalg.eigvalsh(np.cov(unit_rows(rows).T).reshape(width, width))
    after = np.cov(ShrinkageZCA(a).fit_transform(rows).T).reshape(width, width)
    mean = before.sum() / width
    if mean < 1e-20:
        return
    expected = before / ((1 - a) * before + (a + 1e-6) * mean)
    assert np.allclose(
        np.sort(np.linalg.eigvalsh(after)), np.sort(expected), atol=1e-7 * max(1, expected.max())
    )


def test_full_shrinkage_is_centring_up_to_scale() -> None:
    rows = draw()
    assert np.allclose(
        unit_rows(ShrinkageZCA(1.0).fit_transform(rows)), unit_rows(Centre().fit_transform(rows)), atol=1e-12
    )


def test_no_floor_is_the_pseudo_inverse() -> None:
    rows = draw(6)
    white = ShrinkageZCA(0.0, eps=0.0).fit_transform(rows)
    values = np.linalg.eigvalsh(np.cov(white.T))
    assert np.allclose(values[-5:], 1, atol=1e-9)
    assert np.allclose(values[:-5], 0, atol=1e-9)


def test_settings_that_do_not_fit_are_refused() -> None:
    rows = draw()
    with pytest.raises(UsageError, match="release"):
        ShrinkageZCA(preset="relase").fit(rows)
    for bad in (-0.1, 1.5, "oracle"):
        with pytest.raises(UsageError, match="shrinkage"):
            ShrinkageZCA(bad).fit(rows)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="energy"):
        RemoveSubspace(energy=1.5).fit(rows)
    with pytest.raises(UsageError, match="width 12"):
        RemoveSubspace(np.eye(5)).fit(rows)
    with pytest.raises(UsageError, match="components"):
        RemoveTopComponents(-1).fit(rows)
    with pytest.raises(UsageError, match="at least one"):
        Chain([]).fit(rows)
    with pytest.raises(UsageError, match="affine"):
        Affine(np.eye(3), np.zeros(2))
    with pytest.raises(NotFittedError):
        _ = ShrinkageZCA().affine_


def test_removed_directions_are_gone_and_the_rest_is_untouched() -> None:
    directions, rows = draw(3, seed=1), draw()
    fitted = RemoveSubspace(directions, energy=1.0).fit(rows)
    out = fitted.transform(rows)
    assert np.abs(out @ directions.T).max() < 1e-12
    assert np.allclose(fitted.transform(out), unit_rows(out), atol=1e-12)
    orthogonal = np.linalg.svd(directions)[2][3:]
    assert np.allclose(out @ orthogonal.T, unit_rows(rows) @ orthogonal.T, atol=1e-12)


def test_energy_takes_the_smallest_rank() -> None:
    directions = np.diag([10.0, 3.0, 1.0, 0.0])
    for energy, rank in ((0.0, 0), (0.5, 1), (100 / 110, 1), (0.95, 2), (0.995, 3), (1.0, 3)):
        basis, share = leading_directions(directions, energy=energy)
        assert len(basis) == rank
        assert share >= energy - 1e-12
    assert leading_directions(np.zeros((2, 4)))[0].shape == (0, 4)


def test_a_chain_fits_each_step_on_what_the_one_before_gives() -> None:
    rows = draw()
    first = RemoveTopComponents(1).fit(rows)
    second = ShrinkageZCA(normalize_input=False).fit(first.transform(rows))
    assert np.allclose(
        Chain([RemoveTopComponents(1), ShrinkageZCA()]).fit_transform(rows),
        second.transform(first.transform(rows)),
    )
    between = Chain([RemoveTopComponents(1), ShrinkageZCA()], normalize_between=True).fit(rows)
    third = ShrinkageZCA().fit(first.transform(rows))
    assert np.allclose(between.transform(rows), third.transform(first.transform(rows)))
    with pytest.raises(UsageError, match="affine"):
        _ = between.affine_


def test_affine_maps_compose() -> None:
    rng = np.random.default_rng(0)
    one, two = (Affine(rng.standard_normal((4, 4)), rng.standard_normal(4)) for _ in range(2))
    rows = draw(5, 4)
    assert np.allclose(one.compose(two).apply(rows), two.apply(one.apply(rows)))
