"""Rows that are read in blocks are repaired as those in memory are, and have one value each."""

from __future__ import annotations

import numpy as np
import pytest

from clearsight.errors import DataError, UsageError
from clearsight.ranking import rank
from clearsight.repair import Centre, PerGroup, RemoveTopComponents, ShrinkageZCA, fit_repair, streamed
from clearsight.types import Embeddings, RowSource


class Elsewhere:
    """Rows that are not an `Embeddings`."""

    def __init__(self, inside: Embeddings) -> None:
        self.inside, self.ids = inside, inside.ids
        self.width, self.origin = inside.width, inside.origin

    def __len__(self) -> int:
        return len(self.inside)

    def take(self, index):
        return self.inside.take(index)


def rows(count=700, width=12, prefix="c", side="candidate"):
    random = np.random.default_rng(count)
    values = 3 + random.normal(size=(count, width)) @ random.normal(size=(width, width))
    kinds = [("text", "image")[i % 2] for i in range(count)]
    return Embeddings.of([f"{prefix}{i}" for i in range(count)], values, side=side, modality=kinds)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(streamed, "FIT_ROWS", 100)
    monkeypatch.setattr(streamed, "TILE_ROWS", 64)


@pytest.mark.parametrize("estimator", [Centre(), ShrinkageZCA(0.3), ShrinkageZCA("ledoit_wolf")])
@pytest.mark.parametrize("by", ["side", "modality", "joint"])
def test_fitted_and_applied_in_blocks_it_is_the_same_repair(estimator, by):
    inside, queries = rows(), rows(90, prefix="q", side="query")
    here = PerGroup(estimator, by).fit(queries, inside)
    there = PerGroup(estimator, by).fit(queries, Elsewhere(inside))
    for group, repair in here.repairs_.items():
        expected, found = repair.affine_, there.repairs_[group].affine_
        np.testing.assert_allclose(found.matrix_DE, expected.matrix_DE, atol=1e-8)
        np.testing.assert_allclose(found.offset_E, expected.offset_E, atol=1e-8)
    lazy = here.transform(Elsewhere(inside))
    assert isinstance(lazy, RowSource)
    whole = here.transform(inside)
    taken = lazy.take(np.arange(700))
    np.testing.assert_allclose(taken.rows_ND, whole.rows_ND, atol=1e-5)
    assert (taken.ids, lazy.width) == (whole.ids, whole.width)
    assert taken.modality_N.tolist() == whole.modality_N.tolist()
    assert dict(lazy.origin) == dict(whole.origin)


@pytest.mark.parametrize("count", [700, 40])
def test_recentred_in_blocks_it_is_recentred_as_a_whole(count):
    fitted = PerGroup(ShrinkageZCA(0.3), "joint").fit(rows())
    inside = rows(count).with_rows(rows(count).rows_ND + 2)
    here, lazy = fitted.transform(inside, recentre=True), fitted.transform(Elsewhere(inside), recentre=True)
    taken = lazy.take(np.arange(count))
    np.testing.assert_allclose(taken.rows_ND, here.rows_ND, atol=1e-5)
    assert dict(lazy.origin) == dict(here.origin)
    moved = abs(taken.rows_ND.mean(axis=0)).max() < 1e-5
    assert moved == (count == 700), "twenty rows of a kind keep the stored mean"
    backwards = lazy.take(np.arange(count)[::-1])
    assert np.array_equal(backwards.rows_ND[::-1], taken.rows_ND)
    assert backwards.ids == taken.ids[::-1]
    assert backwards.modality_N.tolist() == taken.modality_N.tolist()[::-1]


def test_a_row_has_the_same_bits_whatever_it_is_taken_with():
    inside = rows(1000, 33)
    lazy = PerGroup(ShrinkageZCA()).fit(inside).transform(Elsewhere(inside))
    everything = lazy.take(np.arange(1000)).rows_ND
    random = np.random.default_rng(0)
    for size in (1, 5, 64, 300):
        index = random.choice(1000, size, replace=False)
        assert np.array_equal(lazy.take(index).rows_ND, everything[index])


def test_ranked_on_the_way_it_is_the_ranking_of_the_repaired_rows():
    inside, queries = rows(900, 20), rows(40, 20, prefix="q", side="query")
    fitted = fit_repair(ShrinkageZCA(), queries, Elsewhere(inside))
    lazy, asked = fitted.transform(Elsewhere(inside)), fitted.transform(queries)
    relevance = {f"q{i}": {f"c{i}": 1.0, f"c{i + 400}": 1.0} for i in range(40)}
    expected = rank(asked, lazy.take(np.arange(900)), 7, relevance=relevance)
    for block in ((16, 100), (64, 512)):
        found = rank(asked, lazy, 7, relevance=relevance, block=block)
        for name in ("rows_QK", "scores_QK", "above_R", "equal_R", "relevant_score_R"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))


def test_refusals():
    inside = rows(50)
    with pytest.raises(UsageError, match="needs all rows at once"):
        PerGroup(RemoveTopComponents(2)).fit(Elsewhere(inside))
    with pytest.raises(DataError, match="same direction"):
        PerGroup(Centre()).fit(Elsewhere(inside.with_rows(np.ones((50, 3)))))
    with pytest.raises(DataError, match="on 1 row"):
        PerGroup(Centre()).fit(Elsewhere(inside.take([0])))
    with pytest.raises(DataError, match="not one space"):
        PerGroup(Centre()).fit(Elsewhere(inside), Elsewhere(rows(10, 5)))
    fitted = PerGroup(Centre()).fit(inside)
    with pytest.raises(DataError, match="width 5 do not fit"):
        fitted.transform(Elsewhere(rows(10, 5)))
