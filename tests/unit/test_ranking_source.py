"""Ranking rows that are read block by block gives what ranking them in memory gives, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearsight.errors import DataError
from clearsight.names import Names
from clearsight.ranking import candidates as side
from clearsight.ranking import rank
from clearsight.types import Embeddings, RowSource
from ranking_forms import embeddings, same

PATIENT = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


class Elsewhere:
    """Rows that are not an `Embeddings`, and a note of what was read at once."""

    def __init__(self, rows: np.ndarray) -> None:
        self.inside = embeddings(rows, "c")
        self.ids = Names.of(self.inside.ids)
        self.width, self.origin = self.inside.width, self.inside.origin
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.inside)

    def take(self, index: np.ndarray) -> Embeddings:
        self.reads.append(len(index))
        assert len(np.unique(index)) == len(index)
        return self.inside.take(index)


@settings(PATIENT, max_examples=25)
@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(2, 40), st.integers(40, 700)),
    st.booleans(),
    st.sampled_from([1.0, 1e-3, 1e-6, 0.0]),
    st.integers(1, 30),
)
def test_read_from_elsewhere_it_is_the_same_to_the_bit(seed, block, normalize, spread, k):
    random = np.random.default_rng(seed)
    rows = (random.normal(size=37) + spread * random.normal(size=(400, 37)))[random.integers(0, 400, 700)]
    queries = embeddings(random.normal(size=(50, 37)), "q")

    def some(share, most):
        return {
            f"q{q}": [f"c{c}" for c in random.choice(700, random.integers(0, most), replace=False)]
            for q in np.flatnonzero(random.random(50) < share)
        }

    shared = [f"c{c}" for c in random.choice(700, 500, replace=False)]
    options = {
        "relevance": {q: dict.fromkeys(names, 1.0) for q, names in some(0.8, 9).items()},
        "pools": some(0.3, 60) | {f"q{q}": shared for q in range(20)},
        "excluded": some(0.5, 30),
        "normalize": normalize,
    }
    options = {name: value for name, value in options.items() if name == "normalize" or value}
    expected = rank(queries, embeddings(rows, "c"), k, **options)
    same(expected, rank(queries, Elsewhere(rows), k, block=block, **options))


def test_a_list_longer_than_one_reading(monkeypatch):
    monkeypatch.setattr(side, "LISTED_ROWS", 7)
    monkeypatch.setattr(side, "LISTED_PAIRS", 40)
    random = np.random.default_rng(1)
    rows, queries = random.normal(size=(600, 9)), embeddings(random.normal(size=(30, 9)), "q")
    pools = {f"q{i}": [f"c{c}" for c in random.choice(600, 20 + i, replace=False)] for i in range(0, 30, 2)}
    relevance = {f"q{i}": {f"c{i * 3}": 1.0} for i in range(30)}
    same(
        rank(queries, embeddings(rows, "c"), 5, pools=pools, relevance=relevance),
        rank(queries, Elsewhere(rows), 5, pools=pools, relevance=relevance, block=(4, 50)),
    )


def test_no_more_is_read_at_once_than_a_block_and_one_reading_serves_many_blocks_of_queries():
    random = np.random.default_rng(2)
    source = Elsewhere(random.normal(size=(3000, 16)))
    assert isinstance(source, RowSource)
    rank(embeddings(random.normal(size=(64, 16)), "q"), source, 10, block=(8, 128))
    assert max(source.reads) <= side.LISTED_ROWS
    screened = [size for size in source.reads if size <= 128]
    assert len(screened) == -(-3000 // 128)


def test_what_a_source_breaks_is_said():
    random = np.random.default_rng(3)
    rows, queries = random.normal(size=(500, 4)), embeddings(random.normal(size=(3, 4)), "q")
    short = Elsewhere(rows)
    short.take = lambda index: short.inside.take(index[1:])
    with pytest.raises(DataError, match="gave 499 rows"):
        rank(queries, short)
    broken = Elsewhere(rows)
    broken.inside.rows_ND[7, 0] = np.nan
    with pytest.raises(DataError, match=r"NaN or infinity.*c7"):
        rank(queries, broken)
    with pytest.raises(DataError, match=r"unknown candidate.*nobody"):
        rank(queries, Elsewhere(rows), relevance={"q0": {"nobody": 1}})
