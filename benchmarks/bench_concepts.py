"""The concept profile at the paper's size, and beside the dense way at a size where that one fits.

`large`: random codes, every concept equally likely (no tile of the bridge is empty: the worst case);
seconds and growth of resident memory of each part, one run each. `beside`: the formulas as printed, with
dense codes and whole C x C matrices in float32, interleaved with ours; the answers are compared first.
"""

from __future__ import annotations

import argparse
import ctypes
import time

import numpy as np
import torch
from harness import interleave, line, peak_memory, ratio, report
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from clearsight.concepts import attribution, bridge, profile_codes


def random_codes(rows: int, concepts: int, active: int, seed: int) -> csr_array:
    rng = np.random.default_rng(seed)
    # Sorted draws plus 0, 1, 2, ...: distinct and ascending in every row.
    index = np.sort(rng.integers(0, concepts - active + 1, (rows, active), dtype=np.int32), axis=1)
    index += np.arange(active, dtype=np.int32)
    value = rng.exponential(size=rows * active).astype(np.float32)
    start = np.arange(0, rows * active + 1, active, dtype=np.int32)
    return csr_array((value, index.ravel(), start), shape=(rows, concepts))


def directions(concepts: int, width: int) -> np.ndarray:
    rows = np.random.default_rng(7).standard_normal((concepts, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def dense_profile(image: np.ndarray, text: np.ndarray, dictionary: np.ndarray) -> dict[str, np.ndarray]:
    """Energy, modality, attribution and bridge as the paper writes them; M once, B whole."""
    gram = dictionary @ dictionary.T
    e_image, e_text = image.mean(0), text.mean(0)
    influence = (image * (text @ gram) + text * (image @ gram)).mean(0)
    matrix = (image.T @ text) / len(image) * gram
    size = np.abs(matrix)
    return {
        "energy": np.concatenate([image, text]).mean(0),
        "modality": e_text / np.maximum(e_image + e_text, 1e-30),
        "attribution": influence,
        "abs": size.sum(0) + size.sum(1),
        "max": np.maximum(size.max(0), size.max(1)),
        "offdiag": size.sum(0) + size.sum(1) - 2 * size.diagonal(),
        "sum": matrix.sum(0) + matrix.sum(1),
    }


def measured(work) -> dict[str, float]:
    """Seconds, and growth of resident memory once what earlier work freed is given back."""
    ctypes.CDLL(None).malloc_trim(0)
    seconds: list[float] = []

    def timed() -> None:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)

    grown = peak_memory(timed)
    return {"seconds": seconds[0], "extra_bytes": grown}


def large(options: argparse.Namespace) -> None:
    image, text = (random_codes(options.pairs, options.concepts, options.k, seed) for seed in (0, 1))
    dictionary = directions(options.concepts, options.width)
    pairs = np.repeat(np.arange(options.pairs)[:, None], 2, axis=1)
    warm = [codes[:2] for codes in (image, text)]  # compiled before the clock runs
    attribution(*warm, dictionary[:, :8].copy())
    bridge(*warm, dictionary[:, :8].copy())
    parts = {
        "energy, modality": lambda: profile_codes(image, text, dictionary),
        "energy, modality, attribution": lambda: profile_codes(
            image, text, dictionary, pairs, with_bridge=False
        ),
        "bridge": lambda: bridge(image, text, dictionary),
    }
    result = {name: measured(work) for name, work in parts.items()}
    start = time.perf_counter()
    tile = dictionary[:2048] @ dictionary[2048:4096].T
    floor = (time.perf_counter() - start) / tile.size * options.concepts**2 / 2
    sizes = {name: getattr(options, name) for name in ("concepts", "width", "pairs", "k", "threads")}
    input_bytes = dictionary.nbytes + 2 * (image.data.nbytes + image.indices.nbytes)
    report(
        line("concepts_large", sizes=sizes, parts=result, gram_floor_seconds=floor, input_bytes=input_bytes),
        save=options.save,
    )


def beside(options: argparse.Namespace) -> None:
    image, text = (random_codes(options.pairs, options.concepts, options.k, seed) for seed in (0, 1))
    dictionary = directions(options.concepts, options.width)
    pairs = np.repeat(np.arange(options.pairs)[:, None], 2, axis=1)
    full = [codes.toarray() for codes in (image, text)]

    def ours():
        return profile_codes(image, text, dictionary, pairs)

    def dense():
        return dense_profile(*full, dictionary)

    found, twin = ours(), dense()
    scale = np.abs(twin["abs"]).max()
    assert np.allclose(found.energy_C, twin["energy"], rtol=1e-4)
    assert np.abs(found.influence_C() - twin["attribution"]).max() < 1e-4 * scale
    for name in ("abs", "max", "offdiag", "sum"):
        assert np.abs(found.bridge_C(name) - twin[name]).max() < 1e-4 * scale
    seconds = interleave({"ours": ours, "dense": dense}, options.rounds)
    sizes = {name: getattr(options, name) for name in ("concepts", "width", "pairs", "k", "threads")}
    report(
        line(
            "concepts_beside",
            sizes=sizes,
            seconds=seconds,
            ratio=ratio(seconds, "dense", "ours"),
            extra_bytes={"ours": measured(ours)["extra_bytes"], "dense": measured(dense)["extra_bytes"]},
            dense_input_bytes=sum(part.nbytes for part in full),
        ),
        save=options.save,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("large", "beside"))
    parser.add_argument("--concepts", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--k", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="append to results/concepts_PART.jsonl")
    options = parser.parse_args()
    sizes = {"large": (32768, 3584, 100_000, 50), "beside": (2048, 1024, 10_000, 32)}[options.part]
    for name, size in zip(("concepts", "width", "pairs", "k"), sizes, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, size)
    with threadpool_limits(options.threads):
        {"large": large, "beside": beside}[options.part](options)


if __name__ == "__main__":
    main()
