"""Pools of a million: metadata, ranking from disk, measures; each in its own process, floor and peer beside.

`metadata`: M-BEIR's files to a checked `Task` (first time, and again from the parsed table); floor: pyarrow's
parser alone; peer: `datasets`. `ranking`: candidates read from the store while queries are ranked; floor: one
pass of the matrix product over rows in memory (torch), and reading the same bytes raw; peer: faiss-cpu over
blocks of a memory map. `measures`: one ranking scored; peer: pytrec_eval.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import line, ratio, report

MODES = ("metadata", "ranking", "measures")


# ---- metadata -------------------------------------------------------------------------------------------


POOL = Path("cand_pool/local/mbeir_webqa_task2_cand_pool.jsonl")


def write_release(folder: Path, sizes: dict[str, int]) -> None:
    """A set of M-BEIR: half of its candidates images with texts, half texts; queries of words."""

    def lines(path: Path, rows) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("w") as file:
            file.writelines(row + "\n" for row in rows)

    def candidate(i: int) -> str:
        row = {
            "did": f"2:{i}",
            "txt": f"A caption of about a dozen words that describes picture number {i}.",
            "img_path": f"mbeir_images/folder{i % 997:03d}/picture_{i:08d}.jpg" if i % 2 else None,
            "modality": "image,text" if i % 2 else "text",
            "src_content": None,
        }
        return json.dumps(row)

    def query(i: int) -> str:
        row = {"qid": f"2:{i}", "query_txt": "x", "query_img_path": None, "query_modality": "text"}
        return json.dumps(row)

    name = "mbeir_webqa_task2_test"
    count = sizes["candidates"]
    lines(POOL, map(candidate, range(count)))
    lines(Path(f"query/test/{name}.jsonl"), map(query, range(sizes["queries"])))
    judged = (f"2:{i} 0 2:{(i * 7919) % count} 1 2" for i in range(sizes["queries"]))
    lines(Path(f"qrels/test/{name}_qrels.txt"), judged)
    instruction = "text\timage,text\twebqa\t2\tFind a page.\n"
    lines(Path("instructions/query_instructions.tsv"), ["header", instruction])
    first = folder / "mbeir_images/folder001/picture_00000001.jpg"
    first.parent.mkdir(parents=True, exist_ok=True)
    first.touch()


def schema():
    import pyarrow as pa

    return pa.schema({name: pa.string() for name in ("did", "txt", "img_path", "modality")})


def metadata(folder: Path, cache: Path, sizes: dict[str, int]) -> None:
    from clearsight.data import load_task

    os.environ["CLEARSIGHT_CACHE"] = str(cache)
    task = load_task("mbeir/webqa_task2", data=folder)
    assert len(task.candidates) == sizes["candidates"]
    assert len(task.relevance) == sizes["queries"]


def metadata_first(folder: Path, sizes: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        metadata(folder, Path(cache), sizes)


def metadata_again(folder: Path, sizes: dict[str, int]) -> None:
    metadata(folder, folder / "parsed", sizes)


def metadata_floor(folder: Path, sizes: dict[str, int]) -> None:
    import pyarrow.json

    options = pyarrow.json.ParseOptions(explicit_schema=schema(), unexpected_field_behavior="ignore")
    assert len(pyarrow.json.read_json(folder / POOL, parse_options=options)) == sizes["candidates"]


def metadata_datasets(folder: Path, sizes: dict[str, int]) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("did", "txt", "img_path", "modality", "src_content")}
    )
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        loaded = datasets.load_dataset(
            "json", data_files=str(folder / POOL), split="train", features=features, cache_dir=cache
        )
        assert len(loaded) == sizes["candidates"]
        assert len(set(loaded["did"])) == len(loaded)


# ---- ranking --------------------------------------------------------------------------------------------


def sides(sizes: dict[str, int]):
    """Queries near one candidate each, as in a task that can be solved."""
    random = np.random.default_rng(1)
    at = random.choice(sizes["candidates"], sizes["queries"], replace=False)
    return at, random.standard_normal((sizes["queries"], sizes["width"]), dtype=np.float32)


def block_of(start: int, size: int, width: int) -> np.ndarray:
    return np.random.default_rng((2, start)).standard_normal((size, width), dtype=np.float32)


BLOCK = 4096


def write_vectors(folder: Path, sizes: dict[str, int]) -> None:
    from clearsight.store import VectorTable

    at, noise = sides(sizes)
    store = VectorTable.open(folder / "store", {"model": "scale"})
    width = sizes["width"]
    raw = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (sizes["candidates"], width))
    queries = noise.copy()
    for start in range(0, sizes["candidates"], BLOCK):
        rows = block_of(start, min(BLOCK, sizes["candidates"] - start), width)
        names = [f"c{i}" for i in range(start, start + len(rows))]
        store.add(names, names, rows)
        raw[start : start + len(rows)] = rows
        here = np.flatnonzero((at >= start) & (at < start + len(rows)))
        queries[here] = 0.2 * rows[at[here] - start] + noise[here]
    raw.flush()
    np.save(folder / "queries.npy", queries)


def ranking_ours(folder: Path, sizes: dict[str, int]) -> None:
    from clearsight.metrics import score
    from clearsight.ranking import rank
    from clearsight.store import StoredRows, VectorTable, digests
    from clearsight.types import Embeddings

    names = [f"c{i}" for i in range(sizes["candidates"])]
    store = VectorTable.open(folder / "store", {"model": "scale"})
    kinds = np.zeros(len(names), np.uint8)
    source = StoredRows(store, digests(names), names, side="candidate", modality_N=kinds)
    del names
    rows = np.load(folder / "queries.npy")
    queries = Embeddings.of([f"q{i}" for i in range(len(rows))], rows, side="query")
    at, _ = sides(sizes)
    relevance = {f"q{i}": {f"c{row}": 1.0} for i, row in enumerate(at.tolist())}
    ranking = rank(queries, source, 10, relevance=relevance)
    assert score(ranking, measures=("hit_rate@10",))["hit_rate@10"].mean > 0.5


def ranking_sgemm(folder: Path, sizes: dict[str, int]) -> None:
    """One pass of the product, in the blocks that suit it; the rows of one block stand for all."""
    import torch

    queries = torch.from_numpy(np.load(folder / "queries.npy"))
    rows = torch.from_numpy(block_of(0, BLOCK, sizes["width"]))
    out = torch.empty(1024, BLOCK)
    for start in range(0, sizes["candidates"], BLOCK):
        size = min(BLOCK, sizes["candidates"] - start)
        for first in range(0, len(queries), 1024):
            part = queries[first : first + 1024]
            torch.mm(part, rows[:size].T, out=out[: len(part), :size])


def ranking_read(folder: Path, sizes: dict[str, int]) -> None:
    buffer = np.empty((BLOCK, sizes["width"]), np.float32)
    with (folder / "rows.npy").open("rb", buffering=0) as file:
        while file.readinto(memoryview(buffer).cast("B")):
            pass


def ranking_faiss(folder: Path, sizes: dict[str, int]) -> None:
    """IndexFlatIP over blocks of normalised rows, best lists merged."""
    import faiss

    queries = np.load(folder / "queries.npy")
    faiss.normalize_L2(queries)
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    heap = faiss.ResultHeap(len(queries), 10, keep_max=True)
    for start in range(0, len(rows), 1 << 15):
        block = np.array(rows[start : start + (1 << 15)])
        faiss.normalize_L2(block)
        index = faiss.IndexFlatIP(block.shape[1])
        index.add(block)
        scores, found = index.search(queries, 10)
        heap.add_result(scores, found + start)
    heap.finalize()


# ---- measures -------------------------------------------------------------------------------------------

MEASURES = ("hit_rate@1", "hit_rate@5", "hit_rate@10", "recall@10", "mrr@10", "ndcg@10", "map@10")


def ranked(sizes: dict[str, int]):
    """A ranking of `queries` with three relevant candidates each, without ranking anything."""
    from clearsight.types import Ranking

    queries, kept = sizes["queries"], 100
    random = np.random.default_rng(3)
    rows = np.argsort(random.random((queries, 4 * kept)), axis=1)[:, :kept]
    place = np.sort(np.argsort(random.random((queries, kept)), axis=1)[:, :3], axis=1)
    relevant = np.take_along_axis(rows, place, axis=1)
    order = np.argsort(relevant, axis=1)
    relevant, place = np.take_along_axis(relevant, order, 1), np.take_along_axis(place, order, 1)
    scores = np.linspace(1, 0, kept, dtype=np.float32)[None].repeat(queries, axis=0)
    ids = tuple(f"c{i}" for i in range(4 * kept))
    relevance = {f"q{q}": {ids[c]: 1.0 for c in row} for q, row in enumerate(relevant.tolist())}
    nothing = np.zeros(queries, np.int64)
    return (
        Ranking(
            tuple(relevance),
            ids,
            rows,
            scores,
            nothing + len(ids),
            nothing,
            np.repeat(np.arange(queries), 3),
            relevant.ravel(),
            place.ravel(),
            np.zeros(3 * queries, np.int64),
            np.take_along_axis(scores, place, 1).ravel(),
            True,
        ),
        relevance,
    )


def measures_ours(folder: Path, sizes: dict[str, int]) -> Callable[[], Any]:
    from clearsight.metrics import score

    ranking, relevance = ranked(sizes)
    return lambda: score(ranking, relevance, MEASURES)


def measures_pytrec(folder: Path, sizes: dict[str, int]) -> Callable[[], Any]:
    import pytrec_eval

    ranking, relevance = ranked(sizes)
    qrels = {query: {name: int(grade) for name, grade in row.items()} for query, row in relevance.items()}

    def work() -> Any:
        run = {
            query: {ranking.candidate_ids[c]: s for c, s in zip(rows, scores, strict=True)}
            for query, rows, scores in zip(
                ranking.query_ids, ranking.rows_QK.tolist(), ranking.scores_QK.tolist(), strict=True
            )
        }
        asked = {"success.1,5,10", "recall.10", "recip_rank", "ndcg_cut.10", "map_cut.10"}
        return pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run)

    return work


# ---- processes ------------------------------------------------------------------------------------------

WORK = {
    "metadata": {
        "first": metadata_first,
        "again": metadata_again,
        "pyarrow": metadata_floor,
        "datasets": metadata_datasets,
    },
    "ranking": {"ours": ranking_ours, "sgemm": ranking_sgemm, "read": ranking_read, "faiss": ranking_faiss},
    "measures": {"ours": measures_ours, "pytrec_eval": measures_pytrec},
}
PREPARE = {"metadata": write_release, "ranking": write_vectors, "measures": lambda folder, sizes: None}
PEERS = {
    "metadata": ("pyarrow", "datasets"),
    "ranking": ("faiss-cpu", "pylance"),
    "measures": ("pytrec_eval-terrier",),
}
IMPORTS = {
    "metadata": "clearsight.data",
    "ranking": "clearsight.ranking",
    "measures": "clearsight.metrics",
}


def work(mode: str, name: str, folder: Path, sizes: dict[str, int]) -> None:
    """In a process of its own: seconds without imports, and the most memory the process ever held."""
    __import__(IMPORTS[mode])
    given = WORK[mode][name]
    run = given(folder, sizes) if mode == "measures" else partial(given, folder, sizes)
    imported = most_held()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": most_held(), "imported": imported}))


def most_held() -> int:
    """Bytes this process held at most (`ru_maxrss` would carry over what its parent held)."""
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith("VmHWM")).split()[1]) * 1024


def measure(mode: str, folder: Path, sizes: dict[str, int], rounds: int, *, save: bool) -> None:
    PREPARE[mode](folder, sizes)
    names = list(WORK[mode])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peak: dict[str, int] = dict.fromkeys(names, 0)
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            command = [sys.executable, __file__, mode, "--work", name, "--folder", str(folder)]
            command += [f"--{what}={size}" for what, size in sizes.items()]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            seconds[name].append(found["seconds"])
            peak[name] = max(peak[name], found["peak"])
    first = names[0]
    ratios = {name: ratio(seconds, first, name) for name in names[1:]}
    result = line(
        "scale", peers=PEERS[mode], mode=mode, sizes=sizes, seconds=seconds, ratio=ratios, peak_bytes=peak
    )
    report(result, save=save)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=None, help="10,000; for measures 100,000")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; they stay there")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help="append to results/scale.jsonl")
    options = parser.parse_args()
    queries = options.queries or (100_000 if options.mode == "measures" else 10_000)
    sizes = {"queries": queries, "candidates": options.candidates, "width": options.width}
    if options.work:
        work(options.mode, options.work, options.folder, sizes)
    elif options.folder:
        measure(options.mode, options.folder, sizes, options.rounds, save=options.save)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(options.mode, Path(folder), sizes, options.rounds, save=options.save)


if __name__ == "__main__":
    main()
