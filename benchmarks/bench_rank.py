"""Exact ranking beside faiss-cpu's IndexFlatIP: same vectors, same K, same threads, same answers.

`rank` is what `clearsight.rank` does from rows to a Ranking, lengths and tie counts included; `counted` adds
the counts around one relevant candidate of each query; `gemm` is the matrix product alone, in blocks, the
floor of both.
"""

from __future__ import annotations

import argparse
import ctypes

import faiss
import numpy as np
import torch
from harness import interleave, line, peak_memory, ratio, report

from clearsight.ranking import rank
from clearsight.types import Embeddings


def unit_rows(count: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def product_alone(left: np.ndarray, right: np.ndarray, block: tuple[int, int] = (1024, 4096)) -> None:
    queries, candidates = torch.from_numpy(left), torch.from_numpy(right)
    products = torch.empty(block)
    for i in range(0, len(queries), block[0]):
        part = queries[i : i + block[0]]
        for j in range(0, len(candidates), block[1]):
            other = candidates[j : j + block[1]]
            torch.mm(part, other.T, out=products[: len(part), : len(other)])


def extra_memory(work) -> int:
    """Growth of resident memory while `work` runs, once what earlier calls freed is given back."""
    ctypes.CDLL(None).malloc_trim(0)
    return peak_memory(work)


def check_equal(ranking, scores, rows, width: int) -> None:
    """faiss rounds, so its order may differ from ours only where scores are within that rounding."""
    margin = 2 * width * 2.0**-24
    assert np.abs(ranking.scores_QK - scores).max() <= margin
    gap = np.abs(np.diff(ranking.scores_QK, axis=1))
    clear = np.ones(rows.shape, dtype=bool)
    clear[:, 1:] &= gap > 2 * margin
    clear[:, :-1] &= gap > 2 * margin
    clear[:, -1] = False  # its rival may lie beyond the list
    assert (ranking.rows_QK[clear] == rows[clear]).all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--save", action="store_true", help="append to results/rank.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)

    left, right = (
        unit_rows(options.queries, options.width, 0),
        unit_rows(options.candidates, options.width, 1),
    )
    queries = Embeddings.of([f"q{i}" for i in range(len(left))], left, side="query")
    candidates = Embeddings.of([f"c{i}" for i in range(len(right))], right)
    relevance = {f"q{i}": {f"c{i % len(right)}": 1.0} for i in range(len(left))}
    index = faiss.IndexFlatIP(options.width)
    index.add(right)

    contenders = {
        "rank": lambda: rank(queries, candidates, options.k),
        "counted": lambda: rank(queries, candidates, options.k, relevance=relevance),
        "faiss": lambda: index.search(left, options.k),
        "gemm": lambda: product_alone(left, right),
    }
    scores, rows = index.search(left, options.k)
    check_equal(contenders["rank"](), scores, rows, options.width)
    seconds = interleave(contenders, options.rounds)
    report(
        line(
            "rank",
            sizes={
                name: getattr(options, name) for name in ("queries", "candidates", "width", "k", "threads")
            },
            peers=("faiss-cpu",),
            seconds=seconds,
            ratio=ratio(seconds, "rank", "faiss"),
            ratio_counted=ratio(seconds, "counted", "faiss"),
            ratio_to_floor=ratio(seconds, "rank", "gemm"),
            ratio_faiss_to_floor=ratio(seconds, "faiss", "gemm"),
            extra_bytes={name: extra_memory(work) for name, work in contenders.items()},
        ),
        save=options.save,
    )


if __name__ == "__main__":
    main()
