"""The compiled forms give what the tensor forms give: products to the bit, short lists entry by entry."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from clearsight.errors import UsageError
from clearsight.ranking import Prepared, rank, screen
from clearsight.ranking.candidates import Part, part_products
from clearsight.ranking.fixed import Rows, listed_products, listed_scores, pair_products, to_scores
from clearsight.ranking.screen import GROUP, Shortlist
from clearsight.threads import edges_every, spread
from clearsight.types import Embeddings

CPU = torch.device("cpu")


def rows_of(random, count, width, normalize, scale=1.0):
    rows = scale * random.normal(size=(count, width)) * 10.0 ** random.integers(-3, 4, size=(count, 1))
    rows[random.integers(0, count)] = 0
    rows[random.integers(0, count, count // 3)] = rows[random.integers(0, count)]
    return Rows.of(rows.astype(np.float32), normalize=normalize, device=CPU)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("width", "listed"), [(1, 1), (3, 5), (37, 1), (64, 7), (511, 40), (1024, 3)])
def test_products_of_listed_pairs_are_equal_to_the_bit(normalize, width, listed):
    random = np.random.default_rng(width + listed)
    left, right = (rows_of(random, count, width, normalize) for count in (30, 50))
    at_B = torch.from_numpy(random.integers(0, 30, 90))
    rows_BP = torch.from_numpy(random.integers(0, 50, (90, listed)))
    exact_BP = listed_products(left, at_B, right, rows_BP)
    compiled_P = pair_products(left, at_B.repeat_interleave(listed), right, rows_BP.reshape(-1))
    assert torch.equal(compiled_P.view(exact_BP.shape), exact_BP)
    part = Part(torch.arange(50), right.raw_ND, right.length_N, None)
    part_P = part_products(part, rows_BP.reshape(-1), left, at_B.repeat_interleave(listed))
    assert torch.equal(part_P, compiled_P)
    assert exact_BP.abs().max() > 0
    scores_BP = to_scores(exact_BP, left, at_B, right.length_N[rows_BP])
    assert torch.equal(listed_scores(left, at_B, right, rows_BP), scores_BP)
    assert not (scores_BP == 0).logical_and(torch.signbit(scores_BP)).any()


def test_halves_are_rounded_to_even():
    # Over 2^26, 2^-27 is half a unit: 0.5, 1.5 and 2.5 become 0, 2 and 2.
    half = np.array([[1.0, 2.0**-27, 3 * 2.0**-27, -5 * 2.0**-27]], dtype=np.float32)
    rows = Rows(torch.from_numpy(half), torch.ones(1, dtype=torch.float64), True, CPU)
    nothing = torch.zeros(1, dtype=torch.int64)
    assert float(pair_products(rows, nothing, rows, nothing)) == 2.0**52 + 0 + 4 + 4


@pytest.mark.parametrize("work", [0, 1, 7, 100])
def test_work_is_spread_in_pieces_that_meet(work):
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            taken: list[tuple[int, int]] = []
            spread(lambda first, last: taken.append((first, last)), edges_every(work, 7))  # noqa: B023
        finally:
            torch.set_num_threads(threads)
        edges = sorted(taken)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
        assert sum(last - first for first, last in edges) == work


def test_an_exception_of_any_piece_is_raised():
    def work(first: int, last: int) -> None:
        if first == 14:
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        spread(work, edges_every(30, 7))


@pytest.mark.parametrize("near_limit", [1e9, 12])
@pytest.mark.parametrize("relevant", [0, 1, 3])
def test_a_short_list_is_the_same_by_one_pass_and_block_by_block(near_limit, relevant):
    random = np.random.default_rng(relevant)
    queries, size, listed = 20, 5 * GROUP - 9, 30
    thresholds_BT = torch.from_numpy(random.normal(1, 1, (queries, relevant)).astype(np.float32))
    thresholds_BT[::4, relevant - 1 :] = torch.inf
    both = [Shortlist(thresholds_BT, 0.02, listed, near_limit) for _ in range(2)]
    for part in range(6):
        products_BN = torch.full((queries, 5 * GROUP), -torch.inf)
        products_BN[:, :size] = torch.from_numpy(random.normal(size=(queries, size)).astype(np.float32))
        products_BN[0, 5:] = -torch.inf  # left out
        rows_N = torch.arange(size) + part * size
        both[0]._scan(products_BN, rows_N)
        both[1]._add_groups(products_BN, rows_N)
    scanned, grouped = both
    assert torch.equal(scanned.values_BM, grouped.values_BM)
    there_BM = scanned.values_BM > -torch.inf
    assert torch.equal(scanned.rows_BM[there_BM], grouped.rows_BM[there_BM])
    assert torch.equal(scanned.given_up_B, grouped.given_up_B)
    open_B = ~scanned.given_up_B
    assert torch.equal(scanned.above_BT[open_B], grouped.above_BT[open_B])
    near = [sorted(zip(*(part_S.tolist() for part_S in one.near()), strict=True)) for one in both]
    assert near[0] == near[1]
    assert bool(near[0]) == (relevant > 0 and bool(open_B.any()))
    assert bool(scanned.given_up_B.any()) == (near_limit == 12 and relevant > 0)


@pytest.mark.parametrize("k", [5, 300])
def test_a_ranking_is_the_same_whichever_fills_its_lists(monkeypatch, k):
    random = np.random.default_rng(k)
    left, right = random.normal(size=(40, 24)), random.normal(size=(5000, 24))
    queries = Embeddings.of([f"q{i}" for i in range(40)], left)
    candidates = Embeddings.of([f"c{i}" for i in range(5000)], right[random.integers(0, 5000, 5000)])
    relevance = {f"q{i}": {f"c{j}": 1 for j in range(i % 4)} for i in range(40)}
    found = []
    for longest in (0, 10_000):
        monkeypatch.setattr(screen, "SCANNED", longest)
        found.append(rank(queries, candidates, k, relevance=relevance))
    for name in ("rows_QK", "scores_QK", "tied_out_Q", "above_R", "equal_R"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name), err_msg=name)


@pytest.mark.parametrize("normalize", [True, False])
def test_prepared_candidates_are_ranked_as_they_are_at_once(normalize):
    random = np.random.default_rng(3)
    candidates = Embeddings.of([f"c{i}" for i in range(700)], random.normal(size=(700, 9)))
    prepared = Prepared(candidates, normalize=normalize)
    for seed in range(2):
        rows = np.random.default_rng(seed).normal(size=(12, 9))
        queries = Embeddings.of([f"q{i}" for i in range(12)], rows)
        asked = {"relevance": {"q1": {"c2": 1}}, "excluded": {"q0": ["c1"]}, "pools": {"q3": ["c5", "c6"]}}
        once = rank(queries, candidates, 4, normalize=normalize, **asked)
        again = prepared.rank(queries, 4, **asked)
        for name in ("rows_QK", "scores_QK", "tied_out_Q", "above_R", "equal_R", "pool_size_Q"):
            np.testing.assert_array_equal(getattr(once, name), getattr(again, name), err_msg=name)
    with pytest.raises(UsageError):
        prepared.rank(queries, 0)


def test_lengths_of_prepared_candidates_are_computed_once(monkeypatch):
    from clearsight.ranking import rank as room

    opened = []
    inner = room.__globals__["open_candidates"]
    monkeypatch.setitem(
        room.__globals__, "open_candidates", lambda *a, **b: opened.append(1) or inner(*a, **b)
    )
    rows = Embeddings.of(["a", "b"], np.eye(2))
    prepared = Prepared(rows)
    assert not opened
    for _ in range(3):
        prepared.rank(rows, 1)
    assert opened == [1]
