"""SaHa over 100,000 pairs beside the straight way: one anchor at a time, every candidate scored and sorted.

Vectors lie around random topics, as those of a data set do, and every query has one positive. Both ways
search only anchors that no cluster has taken yet. `search_of_the_release` is the search alone as the authors'
code does it: a flat index of faiss, asked for one query at a time. The straight ways run on a few anchors of
every block, between the blocks, so that all see the same machine; their time is the mean of the sample times
the anchors they would search. The floor is the float32 product of every anchor that has to be searched (those
of phase 1) with all candidates, measured the same way on a part of them. With `--search approximate` an index
of faiss is searched instead; its building counts, its recall is told, and which share of the clusters is to
the last member as the exact search makes it. `slope` is the exponent between neighbouring sizes, `projected`
the time of 829,000 pairs in one data set (MMEB-train has 20 sets, mined apart, the largest of 123,000).
"""

from __future__ import annotations

import argparse
import itertools
import math
import resource
import time

import faiss
import numpy as np
import torch
from harness import line, peak_memory, report

from clearsight.mining import ApproximateSearch, ExactSearch, TrainingPairs, saha
from clearsight.mining.found import Found
from clearsight.mining.search import Search
from clearsight.types import Embeddings

MMEB_TRAIN = 829_000
SIZES = ("width", "negatives", "pool", "threads", "search")


def vectors(count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Queries and their positives."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((max(1, count // 64), width), dtype=np.float32)
    queries = topics[rng.integers(0, len(topics), count)]
    queries += rng.standard_normal((count, width), dtype=np.float32)
    candidates = queries + rng.standard_normal((count, width), dtype=np.float32)
    for rows in (queries, candidates):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return queries, candidates


def straight(
    query: int, queries: np.ndarray, candidates: np.ndarray, owners: dict, used: set, k: int, m: int
):
    """One anchor as the algorithm is printed: score all, sort all, look up owners and sort them."""
    nearest = np.argsort(-(candidates @ queries[query]), kind="stable")[: m * k]
    adjacent = []
    for candidate in nearest.tolist():
        own = owners[candidate]
        if query in own:
            continue
        owner = own[0] if len(own) == 1 else max(own, key=lambda o: queries[query] @ queries[o])
        if owner not in used:
            adjacent.append((float(queries[query] @ queries[owner]), owner))
    return [owner for _, owner in sorted(adjacent)[:k]]


class Interrupted:
    """The search, with other ways on a few anchors of each block in between, on their own clocks."""

    def __init__(self, search: Search, sample: int, ways, candidates: np.ndarray) -> None:
        self._search, self._sample, self._ways = search, sample, ways
        self._candidates = torch.from_numpy(candidates)
        self.facts, self.sampled, self.searched = search.facts, 0, 0
        self.seconds = dict.fromkeys((*ways, "product"), 0.0)
        self.multiplied = 0

    def nearest(self, queries: Embeddings, depth: int):
        chosen = [int(name[1:]) for name in queries.ids[:: max(1, len(queries) // self._sample)]]
        for name, way in self._ways.items():
            begun = time.perf_counter()
            for query in chosen[: self._sample]:
                way(query)
            self.seconds[name] += time.perf_counter() - begun
        self.sampled += len(chosen[: self._sample])
        self._product(torch.from_numpy(queries.rows_ND))
        self.searched += len(queries)
        return self._search.nearest(queries, depth)

    def _product(self, left_BD: torch.Tensor) -> None:
        """The block's product with the next few of the candidates."""
        step = min(PRODUCT, len(self._candidates))
        start = self.multiplied // step % (len(self._candidates) // step) * step
        part = self._candidates[start : start + step]
        begun = time.perf_counter()
        for block in torch.split(left_BD, 1024):
            torch.mm(block, part.T)
        self.seconds["product"] += time.perf_counter() - begun
        self.multiplied += len(left_BD) * step


PRODUCT = 8192
"""Candidates of a product that the floor is measured on."""


def members(found: Found) -> list[tuple[int, ...]]:
    return [tuple(part.tolist()) for part in np.split(found.query_M, np.cumsum(found.size_G)[:-1])]


def measure(count: int, options: argparse.Namespace) -> dict:
    left, right = vectors(count, options.width)
    everyone = np.arange(count)
    pairs = TrainingPairs.of_rows(
        "bench", [f"q{i}" for i in range(count)], [f"c{i}" for i in range(count)], everyone, everyone
    )
    queries = Embeddings.of(pairs.query_ids, left, side="query")
    candidates = Embeddings.of(pairs.candidate_ids, right)
    owners = {i: [i] for i in range(count)}
    k, m = options.negatives, options.pool
    index = faiss.IndexFlatIP(options.width)
    index.add(right)
    ways = {
        "straight": lambda query: straight(query, left, right, owners, set(), k, m),
        "search_of_the_release": lambda query: index.search(left[query : query + 1], 2 * m * k),
    }
    took: dict = {}

    def work() -> None:
        begun = time.perf_counter()
        inner = ExactSearch(candidates) if options.search == "exact" else ApproximateSearch(candidates)
        took["built"] = time.perf_counter() - begun
        search = took["search"] = Interrupted(inner, options.sample, ways, right)
        took["found"] = saha(pairs, queries, search, k, m)
        took["seconds"] = time.perf_counter() - begun - sum(search.seconds.values())

    grown = peak_memory(work)
    found, search = took["found"], took["search"]
    first = int((found.phase_G == 1).sum())
    waiting = count - int(found.size_G[found.phase_G == 1].sum())
    second = int((found.phase_G == 2).sum()) + len(found.left_over)
    anchors = first + waiting + second
    each = {name: search.seconds[name] / search.sampled for name in ways}
    floor = search.seconds["product"] / search.multiplied * (first + waiting) * count
    agree = {}
    if options.search != "exact":
        wanted = set(members(saha(pairs, queries, ExactSearch(candidates), k, m)))
        agree = {"same_clusters": round(float(np.mean([one in wanted for one in members(found)])), 4)}
    return {
        "pairs": count,
        "seconds": round(took["seconds"], 2),
        "seconds_built": round(took["built"], 2),
        "anchors": anchors,
        "searched": search.searched,
        "clusters": len(found.size_G),
        "left_over": len(found.left_over),
        "search": {**search.facts, **agree},
        "sample": search.sampled,
        "seconds_each": {name: round(one, 5) for name, one in each.items()},
        "seconds_scaled": {name: round(one * anchors, 1) for name, one in each.items()},
        "seconds_floor": round(floor, 2),
        "over_floor": round(took["seconds"] / floor, 2),
        "ratio": {name: round(one * anchors / took["seconds"], 1) for name, one in each.items()},
        "ratio_of_the_floor": round(each["straight"] * anchors / floor, 1),
        "extra_bytes": grown,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="25000,50000,100000", help="pairs, ascending")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument("--pool", type=int, default=4)
    parser.add_argument("--search", choices=("exact", "approximate"), default="exact")
    parser.add_argument("--sample", type=int, default=8, help="anchors of each block taken the straight way")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", action="store_true", help="append to results/mine.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    warm = argparse.Namespace(**{**vars(options), "width": 64})
    measure(2000, warm)  # compiles
    rows = [measure(int(size), options) for size in options.sizes.split(",")]
    slopes = [
        math.log(b["seconds"] / a["seconds"]) / math.log(b["pairs"] / a["pairs"])
        for a, b in itertools.pairwise(rows)
    ]
    last = rows[-1]
    projected = last["seconds"] * (MMEB_TRAIN / last["pairs"]) ** (slopes[-1] if slopes else 2.0)
    report(
        line(
            "mine",
            sizes={name: getattr(options, name) for name in SIZES},
            peers=("faiss-cpu",),
            rows=rows,
            slope=[round(slope, 2) for slope in slopes],
            projected={"pairs": MMEB_TRAIN, "seconds": round(projected)},
        ),
        save=options.save,
    )


if __name__ == "__main__":
    main()
