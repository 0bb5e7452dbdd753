"""Laws of `rank`: ties to the bit, independence of blocks, pools, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearsight.errors import DataError, UsageError
from clearsight.ranking import rank
from clearsight.ranking.best import FEW_THRESHOLDS, count, from_keys, to_keys
from clearsight.ranking.passes import Screened
from ranking_forms import embeddings, same

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is not a fault."""


@settings(PATIENT, max_examples=12)
@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(3, 40), st.integers(40, 700)),
    st.booleans(),
    st.sampled_from([1.0, 1e-2, 1e-5]),
)
def test_copies_tie_to_the_bit_in_any_block(seed, block, normalize, spread):
    random = np.random.default_rng(seed)
    rows = random.normal(size=37) + spread * random.normal(size=(600, 37))
    copies = random.integers(0, 600, 600)
    queries, candidates = embeddings(random.normal(size=(23, 37)), "q"), embeddings(rows[copies], "c")
    relevance = {f"q{i}": {f"c{i}": 1, f"c{2 * i + 100}": 1} for i in range(23)}
    options = {"relevance": relevance, "normalize": normalize}
    ranking = rank(queries, candidates, 600, **options)
    score_of_row = np.empty((23, 600), np.float32)
    np.put_along_axis(score_of_row, ranking.rows_QK, ranking.scores_QK, axis=1)
    for original in np.unique(copies):
        assert (np.ptp(score_of_row[:, copies == original], axis=1) == 0).all()
    same(ranking, rank(queries, candidates, 600, block=block, **options))
    same(rank(queries, candidates, 7, **options), rank(queries, candidates, 7, block=block, **options))


def test_a_score_is_the_cosine():
    random = np.random.default_rng(0)
    left, right = (
        random.normal(size=(9, 33)).astype(np.float32),
        random.normal(size=(50, 33)).astype(np.float32),
    )
    ranking = rank(embeddings(left, "q"), embeddings(right * 1e6, "c"), 50)
    cosine = (left / np.linalg.norm(left, axis=1)[:, None]) @ (
        right / np.linalg.norm(right, axis=1)[:, None]
    ).T
    np.testing.assert_allclose(ranking.scores_QK, np.sort(cosine, axis=1)[:, ::-1], atol=3e-7)


def test_an_inner_product_keeps_its_relative_precision_beside_a_long_row():
    rows = np.random.default_rng(0).normal(size=(30, 8))
    rows[0] *= 1e12
    ranking = rank(embeddings(rows[1:3], "q"), embeddings(rows, "c"), 30, normalize=False)
    expected = np.take_along_axis(rows[1:3] @ rows.T, ranking.rows_QK, axis=1)
    np.testing.assert_allclose(ranking.scores_QK, expected, rtol=1e-5)


def test_a_collapsed_encoder_ranks_by_row_and_says_so():
    ranking = rank(
        embeddings(np.ones((3, 5)), "q"), embeddings(np.ones((300, 5)), "c"), 4, relevance={"q1": {"c9": 1}}
    )
    assert ranking.rows_QK.tolist() == [[0, 1, 2, 3]] * 3
    assert ranking.tied_out_Q.tolist() == [296] * 3
    assert (ranking.above_R.tolist(), ranking.equal_R.tolist()) == ([0], [299])


def test_a_zero_vector_has_cosine_zero_with_everything():
    rows = np.array([[0, 0], [1, 0], [-1, 0], [0, -1]])
    ranking = rank(embeddings([[0, 0], [0, 1]], "q"), embeddings(rows, "c"), 4)
    assert ranking.scores_QK.tolist() == [[0, 0, 0, 0], [0, 0, 0, -1]]
    assert ranking.rows_QK.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_one_query_one_candidate_and_k_beyond():
    ranking = rank(embeddings([[2, 0]], "q"), embeddings([[3, 0]], "c"), 10, relevance={"q0": {"c0": 1}})
    assert ranking.rows_QK.tolist() == [[0]]
    assert ranking.scores_QK.tolist() == [[1.0]]
    assert ranking.counted
    assert ranking.equal_R.tolist() == [0]


def test_pools_and_exclusions_and_absent_places():
    rows = np.eye(4)
    ranking = rank(
        embeddings(rows[:3], "q"),
        embeddings(rows, "c"),
        3,
        relevance={"q0": {"c0": 1, "c3": 1}, "q1": {"c1": 1}, "q2": {"c2": 1, "c0": 0}},
        pools={"q0": ["c3", "c1", "c3"], "q2": []},
        excluded={"q1": ["c1"]},
    )
    assert ranking.rows_QK.tolist() == [[1, 3, -1], [0, 2, 3], [-1, -1, -1]]
    assert np.isneginf(ranking.scores_QK[ranking.rows_QK < 0]).all()
    assert ranking.pool_size_Q.tolist() == [2, 3, 0]
    assert list(zip(ranking.relevant_query_R, ranking.relevant_row_R, strict=True)) == [(0, 3)]


def test_relevance_of_other_queries_is_passed_over():
    queries, candidates = embeddings(np.eye(3), "q"), embeddings(np.eye(3), "c")
    relevance = {f"q{i}": {f"c{i}": 1} for i in range(3)}
    ranking = rank(queries.take([1]), candidates, relevance=relevance)
    assert ranking.relevant_row_R.tolist() == [1]
    assert not rank(queries, candidates).counted


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"k": 0}, UsageError, "k is 0"),
        ({"block": (0, 5)}, UsageError, "block"),
        ({"queries": embeddings(np.ones((0, 3)), "q")}, DataError, "no queries"),
        ({"candidates": embeddings(np.ones((0, 3)), "c")}, DataError, "no candidates"),
        ({"candidates": embeddings(np.ones((2, 4)), "c")}, DataError, "3 wide, candidates 4"),
        ({"relevance": {"q0": {"nobody": 1}}}, DataError, "unknown candidate.*nobody"),
        ({"relevance": {"x0": {"c0": 1}}}, DataError, "No query of relevance"),
        ({"relevance": {"q0": {"c0": float("nan")}}}, DataError, "grade of 'c0'"),
        ({"pools": {"q0": ["nobody"]}}, DataError, "unknown candidate.*nobody"),
        ({"excluded": {"q0": ["nobody"]}}, DataError, "unknown candidate.*nobody"),
        (
            {"normalize": False, "candidates": embeddings(np.full((1, 3), 3e38), "c")},
            DataError,
            "range of float32",
        ),
    ],
)
def test_refusals(change, error, says):
    given = {
        "queries": embeddings(np.full((2, 3), 2.0), "q"),
        "candidates": embeddings(np.ones((3, 3)), "c"),
        **change,
    }
    with pytest.raises(error, match=f"(?s){says}"):
        rank(**given)


def test_read_only_rows_are_ranked_in_silence():
    rows = np.eye(3, dtype=np.float32)
    rows.setflags(write=False)
    assert rank(embeddings(rows, "q"), embeddings(rows, "c"), 1).rows_QK.ravel().tolist() == [0, 1, 2]


@settings(PATIENT)
@given(
    st.lists(
        st.tuples(st.floats(width=32, allow_nan=False), st.integers(0, 2**32 - 2)), min_size=1, max_size=9
    )
)
def test_keys_order_by_score_then_row(entries):
    import torch

    scores, rows = torch.tensor([e[0] for e in entries]) + 0.0, torch.tensor([e[1] for e in entries])
    keys = to_keys(scores[None], rows)
    expected = sorted(range(len(entries)), key=lambda i: (-entries[i][0], entries[i][1]))
    ordered = keys[0].argsort(descending=True, stable=True).tolist()
    assert [entries[i] for i in ordered] == [entries[i] for i in expected]
    back_scores, back_rows = from_keys(keys)
    assert torch.equal(back_scores[0], scores)
    assert torch.equal(back_rows[0], torch.where(scores == -torch.inf, -1, rows))


def test_counting_by_comparison_and_by_sorting_agree():
    import torch

    random = torch.Generator().manual_seed(0)
    scores = torch.randint(-5, 6, (7, 200), generator=random).float()
    thresholds = torch.randint(-6, 7, (7, FEW_THRESHOLDS + 1), generator=random).float()
    thresholds[0, 3] = torch.inf
    together = count(scores, thresholds)
    for t in range(thresholds.shape[1]):
        above, equal = count(scores, thresholds[:, t : t + 1])
        assert torch.equal(together[0][:, t : t + 1], above)
        assert torch.equal(together[1][:, t : t + 1], equal)


def test_the_screen_decides_what_is_clear_and_leaves_what_is_not(monkeypatch):
    left_open = []
    close = Screened.close
    monkeypatch.setattr(Screened, "close", lambda one: left_open.append(close(one)) or left_open[-1])
    random = np.random.default_rng(0)
    rows, queries = random.normal(size=(2000, 16)), random.normal(size=(40, 16))
    relevance = {f"q{i}": {f"c{i}": 1} for i in range(40)}
    for candidates, share in ((rows, 0), (1 + 1e-7 * rows, 1), (np.tile(rows[:8], (250, 1)), 1)):
        left_open.clear()
        rank(embeddings(queries, "q"), embeddings(candidates, "c"), relevance=relevance)
        assert [len(left) / 40 for left, _ in left_open] == [share]
