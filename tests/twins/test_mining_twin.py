"""SaHa beside a straight transcription of the algorithm: dictionaries, sets, one query at a time."""

from __future__ import annotations

import numpy as np
import pytest

from clearsight.mining import mine_pairs
from clearsight.mining.cosines import measured
from clearsight.mining.found import name_clusters
from clearsight.mining.pairs import TrainingPairs
from clearsight.mining.saha import PAPER, RELEASE, WHOLE, saha
from clearsight.mining.search import ExactSearch
from clearsight.mining.strategies import Mining
from clearsight.types import Embeddings


def cosines(left, right):
    """Exact ones, rounded once."""
    left_LD, right_RD = (measured(rows).fixed(slice(None)).numpy() for rows in (left, right))
    return (left_LD @ right_RD.T * 2.0**-52).astype(np.float32)


class Straight:
    """The algorithm as it is printed, with what this project adds: own positives out, ties by row."""

    def __init__(
        self, query_rows, candidate_rows, positives, content, negatives, pool, release, sort=True, whole=False
    ):
        self.to_candidates = cosines(query_rows, candidate_rows)
        self.to_queries = cosines(query_rows, query_rows)
        self.first = {key: min(c for c, k in enumerate(content) if k == key) for key in content}
        self.content, self.positives = content, positives
        self.k, self.m, self.release, self.sort, self.whole = negatives, pool, release, sort, whole
        self.owners: dict[object, set[int]] = {}
        for query, own in enumerate(positives):
            for candidate in own:
                self.owners.setdefault(content[candidate], set()).add(query)
        self.used: set[int] = set()

    def couple(self, queries, phase):
        reused = self.used if phase == 1 else set()
        for query in queries:
            if query in self.used:
                continue
            size = self.k * self.m * (2 if self.release else 1)
            firsts = sorted(self.first.values())
            pool = sorted(firsts, key=lambda c: (-self.to_candidates[query, c], c))[:size]
            own = {self.content[c] for c in self.positives[query]}
            adjacent: dict[int, int] = {}
            for candidate in pool:
                key = self.content[candidate]
                if key in own or key not in self.owners:
                    continue
                if self.release and len(adjacent) == self.k * self.m * phase:
                    break
                owners = self.owners[key] - (reused if self.release else set())
                if not owners:
                    continue
                owner = min(owners, key=lambda o: (-self.to_queries[query, o], o))
                if owner in reused or owner in adjacent:
                    continue
                adjacent[owner] = next(c for c in self.positives[owner] if self.content[c] == key)
            if not adjacent or (self.whole and phase == 1 and len(adjacent) < self.k):
                continue
            by_similarity = sorted(adjacent, key=lambda o: (self.to_queries[query, o], o))
            chosen = (by_similarity if self.sort else list(adjacent))[: self.k]
            chosen = [o for o in by_similarity if o in chosen]
            self.used |= {query, *chosen}
            if phase == 2:
                reused |= set(chosen)
            pairs = [(query, self.positives[query][0], np.float32(1))]
            yield [*pairs, *((o, adjacent[o], self.to_queries[query, o]) for o in chosen)], phase

    def run(self):
        everyone = [q for q, own in enumerate(self.positives) if own]
        first = list(self.couple(everyone, 1))
        left = [q for q in everyone if q not in self.used]
        second = list(self.couple(left, 2))
        return [*first, *second], [q for q in everyone if q not in self.used]


def random_data(seed, queries, candidates, *, several=False, owners=1, width=6, repeats=False):
    rng = np.random.default_rng(seed)
    query_rows = rng.standard_normal((queries, width)).astype(np.float32)
    candidate_rows = rng.standard_normal((candidates, width)).astype(np.float32)
    if repeats:  # equal rows, so that cosines tie
        query_rows = query_rows[rng.integers(0, queries // 3, queries)]
        candidate_rows = candidate_rows[rng.integers(0, candidates // 3, candidates)]
    taken = [
        rng.integers(0, max(1, candidates // owners), 1 + (several and rng.integers(0, 3)))
        for _ in range(queries)
    ]
    positives = [list(dict.fromkeys(one.tolist())) for one in taken]
    positives[rng.integers(queries)] = []
    content = (
        rng.integers(0, max(2, candidates // 2), candidates).tolist() if repeats else list(range(candidates))
    )
    return query_rows, candidate_rows, positives, content


def ours(query_rows, candidate_rows, positives, content, negatives, pool, variant, block, dataset="set"):
    query_P = np.repeat(np.arange(len(positives)), [len(own) for own in positives])
    candidate_P = np.array([c for own in positives for c in own], dtype=np.int64)
    first = {}
    first_C = np.array([first.setdefault(key, row) for row, key in enumerate(content)])
    pairs = TrainingPairs.of_rows(
        dataset,
        [f"q{i}" for i in range(len(query_rows))],
        [f"c{i}" for i in range(len(candidate_rows))],
        query_P,
        candidate_P,
        first_C=first_C,
    )
    queries = Embeddings.of(pairs.query_ids, query_rows, side="query")
    candidates = Embeddings.of(pairs.candidate_ids, candidate_rows).take(pairs.distinct)
    found = saha(pairs, queries, ExactSearch(candidates), negatives, pool, variant=variant, block=block)
    return found, name_clusters([(pairs, found)])


CASES = {
    "one owner each": {"queries": 60, "candidates": 60},
    "several owners": {"queries": 80, "candidates": 60, "owners": 8},
    "several positives": {"queries": 50, "candidates": 40, "several": True, "owners": 2},
    "candidates nobody owns": {"queries": 30, "candidates": 100},
    "ties and equal contents": {"queries": 60, "candidates": 60, "several": True, "repeats": True},
    "few queries": {"queries": 7, "candidates": 9},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("variant", "dataset"),
    [(PAPER, "set"), (WHOLE, "set"), (RELEASE, "set"), (RELEASE, "mmeb_train/ImageNet_1K_diverse")],
    ids=["paper", "whole", "release", "release, classification"],
)
def test_clusters_are_those_of_the_algorithm(case, variant, dataset):
    release = variant is RELEASE
    for seed in range(3):
        data = random_data(seed, **CASES[case])
        for negatives, pool, block in ((3, 2, 1000), (7, 4, 8)):
            straight = Straight(
                *data,
                negatives,
                pool,
                release,
                sort=not (release and "ImageNet" in dataset),
                whole=variant is WHOLE,
            )
            wanted, left = straight.run()
            found, clusters = ours(*data, negatives, pool, variant, block, dataset)
            got = [[(m.query, m.positive, np.float32(m.similarity)) for m in one] for one in clusters]
            assert got == [[(f"q{q}", f"c{c}", s) for q, c, s in one] for one, _ in wanted]
            assert found.phase_G.tolist() == [phase for _, phase in wanted]
            assert list(found.left_over) == left


def test_the_paths_meet_phase_two_and_left_over_queries():
    """The cases above would prove little if nothing ever got that far."""
    phases, left = set(), 0
    for case in CASES.values():
        found, _ = ours(*random_data(0, **case), 3, 2, PAPER, 1000)
        phases |= set(found.phase_G.tolist())
        left += len(found.left_over)
    assert phases == {1, 2}
    assert left


def test_no_query_is_searched_twice():
    searched = []

    class Counted(ExactSearch):
        def nearest(self, queries, depth):
            searched.extend(queries.ids)
            return super().nearest(queries, depth)

    rng = np.random.default_rng(0)
    names, rows = [f"q{i}" for i in range(300)], np.arange(300)
    pairs = TrainingPairs.of_rows("set", names, [f"c{i}" for i in rows], rows, rows)
    sides = [rng.standard_normal((300, 8)).astype(np.float32) for _ in range(2)]
    queries = Embeddings.of(names, sides[0], side="query")
    found = saha(
        pairs, queries, Counted(Embeddings.of(pairs.candidate_ids, sides[1])), variant=WHOLE, block=32
    )
    assert (found.phase_G == 2).any()
    assert len(searched) == len(set(searched)) < 300


@pytest.mark.parametrize("beta", [None, 0.02])
def test_hard_negatives_are_the_nearest_that_may_be(beta):
    for seed in range(6):
        query_rows, candidate_rows, positives, content = random_data(
            seed, 40, 60, several=True, repeats=seed % 2 == 0
        )
        first = {}
        first_C = np.array([first.setdefault(key, row) for row, key in enumerate(content)])
        pairs = TrainingPairs.of_rows(
            "set",
            [f"q{i}" for i in range(40)],
            [f"c{i}" for i in range(60)],
            np.repeat(np.arange(40), [len(own) for own in positives]),
            np.array([c for own in positives for c in own], dtype=np.int64),
            first_C=first_C,
        )
        score = cosines(query_rows, candidate_rows[pairs.distinct])
        candidates = Embeddings.of([f"c{i}" for i in pairs.distinct], candidate_rows[pairs.distinct])
        mining = Mining(
            pairs,
            Embeddings.of(pairs.query_ids, query_rows, side="query"),
            candidates,
            lambda candidates=candidates: ExactSearch(candidates),
            negatives=5,
            beta=beta or 0.0,
        )
        found = mine_pairs("hard" if beta is None else "hard_beta", mining)
        clusters = name_clusters([(pairs, found)])
        wanted = []
        for query, own in enumerate(positives):
            if not own:
                continue
            banned = {content[c] for c in own}
            top = score[query, np.searchsorted(pairs.distinct, first_C[own[0]])]
            ceiling = np.inf if beta is None else top + np.float32(beta)
            free = [
                place
                for place in np.lexsort((np.arange(len(pairs.distinct)), -score[query]))
                if content[pairs.distinct[place]] not in banned and score[query, place] <= ceiling
            ][:5]
            if free:
                tail = [(None, f"c{pairs.distinct[p]}", score[query, p]) for p in reversed(free)]
                wanted.append([(f"q{query}", f"c{own[0]}", np.float32(1)), *tail])
        assert [[(m.query, m.positive, np.float32(m.similarity)) for m in one] for one in clusters] == wanted
