"""`rank` against its definition, written as plainly as possible, over blocks, pools, exclusions and ties."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearsight.ranking import rank
from clearsight.types import Ranking
from ranking_forms import embeddings

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is not a fault."""


@dataclass
class Case:
    queries: np.ndarray
    candidates: np.ndarray
    k: int
    normalize: bool
    pools: dict[int, list[int]] = field(default_factory=dict)
    excluded: dict[int, list[int]] = field(default_factory=dict)
    relevant: dict[int, list[int]] = field(default_factory=dict)

    def ranked(self, block: tuple[int, int], counted: bool = True) -> Ranking:
        return rank(
            embeddings(self.queries, "q"),
            embeddings(self.candidates, "c"),
            self.k,
            relevance={f"q{q}": {f"c{c}": 1.0 for c in rows} for q, rows in self.relevant.items()}
            if counted
            else None,
            pools={f"q{q}": [f"c{c}" for c in rows] for q, rows in self.pools.items()},
            excluded={f"q{q}": [f"c{c}" for c in rows] for q, rows in self.excluded.items()},
            normalize=self.normalize,
            block=block,
        )


def fixed_point(rows, normalize):
    """Rows of length at most 1 in multiples of 2^-26, and what they were divided by, in Python floats."""
    length = np.sqrt((rows.astype(np.float64) ** 2).sum(1))
    if not normalize:
        length = np.array([2.0 ** (np.floor(np.log2(v)) + 1) if v > 0 else 1.0 for v in length])
    length = np.where(length > 0, length, 1.0)
    return np.round(rows * (2.0**26 / length)[:, None]) / 2.0**26, length


def scores_of(case):
    (left, left_length), (right, right_length) = (
        fixed_point(rows, case.normalize) for rows in (case.queries, case.candidates)
    )
    scores = np.array([[float(np.sum(q * c)) for c in right] for q in left])
    if not case.normalize:
        scores = scores * left_length[:, None] * right_length
    return scores.astype(np.float32).tolist()


def check(case, scores, ranking):
    pairs = zip(ranking.relevant_query_R, ranking.relevant_row_R, strict=True)
    counts = dict(
        zip(pairs, zip(ranking.above_R, ranking.equal_R, ranking.relevant_score_R, strict=True), strict=True)
    )
    expected = {}
    for q in range(len(case.queries)):
        pool = set(case.pools.get(q, range(len(case.candidates)))) - set(case.excluded.get(q, []))
        order = sorted(pool, key=lambda c: (-scores[q][c], c))
        top = order[: case.k]
        listed = [c for c in ranking.rows_QK[q].tolist() if c >= 0]
        assert listed == top
        assert ranking.scores_QK[q, : len(top)].tolist() == [scores[q][c] for c in top]
        assert np.isneginf(ranking.scores_QK[q, len(top) :]).all()
        assert ranking.pool_size_Q[q] == len(pool)
        assert ranking.tied_out_Q[q] == sum(scores[q][c] == scores[q][top[-1]] for c in order[len(top) :])
        for c in set(case.relevant.get(q, [])) & pool:
            above = sum(scores[q][other] > scores[q][c] for other in pool)
            equal = sum(scores[q][other] == scores[q][c] for other in pool) - 1
            expected[q, c] = (above, equal, scores[q][c])
    if ranking.counted:
        assert counts == expected


@st.composite
def cases(draw):
    """Small whole numbers and copies of rows: nearly everything ties with something."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    queries, candidates, width = (draw(st.integers(1, most)) for most in (20, 40, 5))
    rows = random.integers(-2, 3, (candidates, width)) * random.choice(
        [1.0, 1e-3, 3.7, 1e10], (candidates, 1)
    )
    rows = rows[random.integers(0, candidates, candidates)]

    def some(share, most):
        chosen = np.flatnonzero(random.random(queries) < share).tolist()
        return {
            q: random.choice(candidates, random.integers(0, most + 1), replace=False).tolist() for q in chosen
        }

    pools = some(0.4, candidates)
    if draw(st.booleans()):  # a pool that many share
        shared = random.choice(candidates, max(1, candidates // 2), replace=False).tolist()
        pools.update(dict.fromkeys(range(queries // 2), shared))
    return Case(
        random.integers(-2, 3, (queries, width)).astype(np.float32),
        rows.astype(np.float32),
        draw(st.integers(1, 12)),
        draw(st.booleans()),
        pools,
        some(0.3, min(3, candidates)),
        some(0.8, candidates),
    )


@settings(PATIENT, max_examples=60)
@given(cases(), st.tuples(st.integers(1, 9), st.integers(1, 17)), st.booleans())
def test_equals_its_definition(case, block, counted):
    check(case, scores_of(case), case.ranked(block, counted))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6, 0.0])
def test_equals_its_definition_on_many_candidates(normalize, counted, spread):
    """Long enough for the float32 screen; from well spread to collapsed, with copies and one long row."""
    random = np.random.default_rng(7)
    queries, candidates, width = 12, 900, 400
    common = random.normal(size=width)
    rows = common + spread * random.normal(size=(candidates, width))
    rows[500:560] = rows[:60]
    rows[700] *= 50
    case = Case(
        (common + spread * random.normal(size=(queries, width))).astype(np.float32),
        rows.astype(np.float32),
        5,
        normalize,
        excluded={0: [1, 2, 3], 3: list(range(890))},
        relevant={
            q: random.choice(candidates, 1 + 5 * (q % 7), replace=False).tolist() for q in range(queries)
        },
    )
    scores = scores_of(case)
    for block in ((5, 256), (100, 4096)):
        check(case, scores, case.ranked(block, counted))
