"""ReAlign, fit and transform, against the textbook script and against its floor.

    python benchmarks/bench_realign.py --rows 100000 --width 2048 --rounds 10 --save

* ours: `ShrinkageZCA(preset="release").fit(rows).transform(rows)` on float32 rows.
* textbook: the equations as one writes them first: all rows in float64, normalised, centred, X^T X, a float64
  singular value decomposition of the shrunk covariance, X W. The vectors of both are compared in every run.
* floor: what no implementation of these equations can leave out on this machine: one float64 product X^T X
  (by numpy, which makes it a symmetric update), one float64 eigendecomposition, one float32 product X W, on
  rows that are already normalised, centred and in the right dtype.

The three are interleaved in every round; ratios are medians over rounds of the ratio within a round. Extra
memory is the peak that numpy allocates during fit and transform beyond input and output, in a run of its own.
One JSON line on standard output.
"""

from __future__ import annotations

import argparse
import tracemalloc

import numpy as np
from harness import interleave, line, ratio, report
from numpy.typing import NDArray

from clearsight.repair import ShrinkageZCA

Single = NDArray[np.float32]


def main() -> None:
    flags = parse_flags()
    rows_ND = draw(flags.rows, flags.width, flags.seed)
    ready = prepare_floor(rows_ND)
    contenders = {
        "clearsight": lambda: ours(rows_ND),
        "textbook": lambda: textbook(rows_ND),
        "floor": lambda: floor(*ready),
    }
    difference = largest_difference(ours(rows_ND), textbook(rows_ND))
    seconds = interleave(contenders, flags.rounds, warmup=0)
    extra = extra_bytes(rows_ND)
    report(
        line(
            "realign",
            peers=("scipy",),
            n=flags.rows,
            d=flags.width,
            seconds=seconds,
            speedup=ratio(seconds, "textbook", "clearsight"),
            over_floor=ratio(seconds, "clearsight", "floor"),
            peak_extra_bytes=extra,
            extra_matrices=extra / (8 * flags.width**2),
            largest_difference=difference,
        ),
        save=flags.save,
    )


def ours(rows_ND: Single) -> Single:
    out_ND: Single = ShrinkageZCA(preset="release").fit(rows_ND).transform(rows_ND)
    return out_ND


def textbook(rows_ND: Single) -> NDArray[np.float64]:
    x = rows_ND.astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    mean = x.mean(axis=0)
    centred = x - mean
    covariance = centred.T @ centred / (len(x) - 1)
    width = x.shape[1]
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / width * np.eye(width)
    u, s, vt = np.linalg.svd(shrunk)
    out: NDArray[np.float64] = centred @ (u @ np.diag((s + 1e-5) ** -0.5) @ vt)
    return out


def prepare_floor(rows_ND: Single) -> tuple[NDArray[np.float64], Single]:
    x = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    x -= x.mean(axis=0)
    return x.astype(np.float64), x


def floor(double_ND: NDArray[np.float64], single_ND: Single) -> Single:
    covariance = double_ND.T @ double_ND
    _, vectors = np.linalg.eigh(covariance)
    out: Single = single_ND @ vectors.astype(np.float32)
    return out


def largest_difference(one: Single, other: NDArray[np.float64]) -> float:
    """Between L2-normalised rows, over a sample."""
    a, b = one[:2000].astype(np.float64), other[:2000]
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    return float(np.abs(a - b).max())


def extra_bytes(rows_ND: Single) -> int:
    """Bytes beyond input and output at the peak of fit and transform, as Python's allocator sees them."""
    tracemalloc.start()
    out = ours(rows_ND)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return int(peak - out.nbytes)


def draw(rows: int, width: int, seed: int) -> Single:
    """Rows with a decaying spectrum and a common component, as embeddings have."""
    rng = np.random.default_rng(seed)
    out_ND = rng.standard_normal((rows, width), dtype=np.float32)
    out_ND *= np.geomspace(1, 0.02, width, dtype=np.float32)
    out_ND += 0.5 * rng.standard_normal(width, dtype=np.float32)
    return out_ND


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--save", action="store_true", help="append the line to benchmarks/results/realign.jsonl"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
