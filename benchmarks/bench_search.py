"""Search over a million rows: a store's exact and approximate search beside faiss and plain LanceDB.

Rows are drawn around topics whose directions matter ever less, as those of embeddings do. One store of ours
holds both spaces: raw vectors (--raw wide) and repaired ones (--repaired wide, the width of self-alignment);
each peer holds one. Every way runs in processes of its own, in rounds whose order turns: a fresh process
opens what was built, answers a first query (`cold`: from the start of Python to the answer, files in the
page cache), then single queries, then batches of 32. A way with an effort (probes, efSearch) is given the
least that reaches the wanted recall@10 on queries of their own; the others are used as they come. `floor` is
one pass of the product over all rows in memory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import line, report
from search_peers import BLOCK, WAYS, Way, rows_of

TOP, BATCH = 10, 32
ASKED, TUNED = 320, 96
SPACES = ("repaired", "raw")


def write_rows(folder: Path, rows: int, widths: dict[str, int]) -> None:
    """SPACE.npy, queries_SPACE.npy and the numbers of their exact best, truth_SPACE.npy."""
    for seed, (space, width) in enumerate(widths.items()):
        random = np.random.default_rng((7, seed))
        scale_D = np.sqrt(1 / (4 + np.arange(width, dtype=np.float32)))
        topics = random.standard_normal((max(8, rows // 500), width), dtype=np.float32)

        def drawn(count: int, random=random, topics=topics, scale_D=scale_D) -> np.ndarray:
            at = random.integers(0, len(topics), count)
            noise = random.standard_normal((count, topics.shape[1]), dtype=np.float32)
            made = (topics[at] + 0.8 * noise) * scale_D
            return made / np.linalg.norm(made, axis=1, keepdims=True)

        queries = drawn(ASKED + TUNED)
        best = np.full((len(queries), TOP), -1, np.int64)
        score = np.full((len(queries), TOP), -np.inf, np.float32)
        out = np.lib.format.open_memmap(folder / f"{space}.npy", "w+", np.float32, (rows, width))
        for start in range(0, rows, BLOCK):
            part = drawn(min(BLOCK, rows - start))
            out[start : start + len(part)] = part
            all_scores = np.concatenate([score, queries @ part.T], axis=1)
            number = np.broadcast_to(start + np.arange(len(part)), (len(queries), len(part)))
            numbers = np.concatenate([best, number], axis=1)
            keep = np.argpartition(-all_scores, TOP, axis=1)[:, :TOP]
            best, score = np.take_along_axis(numbers, keep, 1), np.take_along_axis(all_scores, keep, 1)
        out.flush()
        np.save(folder / f"queries_{space}.npy", queries)
        np.save(folder / f"truth_{space}.npy", best)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the exact best that was found."""
    hits = [len(set(one.tolist()) & set(best.tolist())) for one, best in zip(found, truth, strict=True)]
    return sum(hits) / truth.size


# ---- in a process of its own ----------------------------------------------------------------------------


def held(what: str = "VmRSS") -> int:
    """Bytes this process holds now, or held at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith(what)).split()[1]) * 1024


def build(way: Way, folder: Path, space: str) -> dict[str, Any]:
    for module in way.imports:
        importlib.import_module(module)
    before, used = held(), time.process_time()
    assert way.build is not None
    seconds = way.build(folder, space)
    return {
        "seconds": {name: round(one, 2) for name, one in seconds.items()},
        "cpu": round(time.process_time() - used, 1),
        "bytes": held("VmHWM") - before,
    }


def tune(way: Way, folder: Path, space: str, wanted: float) -> dict[str, Any]:
    queries, truth = (np.load(folder / f"{name}_{space}.npy")[ASKED:] for name in ("queries", "truth"))
    effort, reached = 0, 0.0
    for effort in way.efforts:
        reached = recall(way.opened(folder, space, effort)(queries, TOP), truth)
        if reached >= wanted:
            break
    return {"effort": effort, "recall": reached}


def ask(way: Way, folder: Path, space: str, effort: int | None, limit: float, start: float) -> dict[str, Any]:
    queries = np.load(folder / f"queries_{space}.npy")[:ASKED]
    truth = np.load(folder / f"truth_{space}.npy")[:ASKED]
    for module in way.imports:
        importlib.import_module(module)
    before = held()
    answer = way.opened(folder, space, effort)
    answer(queries[:1], TOP)
    cold = time.time() - start
    used = time.process_time()
    single, found = timed(answer, queries, 1, limit)
    used = (time.process_time() - used) / (len(single) + 1)
    batches, _ = timed(answer, queries, BATCH, limit)
    return {
        "cold": cold,
        "single": single,
        "cpu": used,
        "batch": batches,
        "recall": recall(found, truth[: len(found)]),
        "bytes": held("VmHWM") - before,
    }


def timed(answer: Any, queries: np.ndarray, size: int, limit: float) -> tuple[list[float], np.ndarray]:
    """Seconds of each call, as many as the queries or the limit allow; the first is not counted."""
    seconds: list[float] = []
    found = []
    end = time.perf_counter() + limit
    answer(queries[:size], TOP)
    for first in range(0, len(queries) - size + 1, size):
        began = time.perf_counter()
        found.append(answer(queries[first : first + size], TOP))
        seconds.append(time.perf_counter() - began)
        if time.perf_counter() > end:
            break
    return seconds, np.concatenate(found)


# ---- all of them ----------------------------------------------------------------------------------------


def call(verb: str, name: str, folder: Path, space: str, **options: Any) -> dict[str, Any]:
    began = time.time()
    command = [sys.executable, __file__, "--work", verb, "--way", name, "--folder", str(folder)]
    command += ["--space", space, "--start", str(began)]
    command += [f"--{what}={value}" for what, value in options.items() if value is not None]
    calm = {
        **os.environ,
        "OMP_WAIT_POLICY": "passive",
    }  # threads that spin starve each other on a busy machine
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=calm)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(verb, name, space, f"{time.time() - began:.1f} s", file=sys.stderr, flush=True)
    return answer


def on_disk(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum((Path(root) / name).stat().st_size for root, _, names in os.walk(path) for name in names)


def disk_of(way: Way, folder: Path, space: str) -> int:
    places = [folder / way.files, folder / f"{way.files}_{space}", folder / f"{way.files}_{space}.faiss"]
    return sum(on_disk(place) for place in places if way.files and place.exists())


def measure(options: argparse.Namespace, folder: Path) -> None:
    widths = {"raw": options.raw, "repaired": options.repaired}
    if not (folder / "truth_repaired.npy").exists():
        write_rows(folder, options.rows, widths)
    names = [name for name in WAYS if name not in options.without]
    built: dict[str, Any] = {}
    for space in options.spaces:
        for name in names:
            note = folder / f"built_{name}_{'both' if name == 'ours' else space}.json"
            if WAYS[name].build is not None and not note.exists():
                note.write_text(json.dumps(call("build", name, folder, space)))
            if note.exists():
                built[f"{name} {space}"] = json.loads(note.read_text())
    for space in options.spaces:
        effort = {
            name: call("tune", name, folder, space, recall=options.recall)["effort"]
            for name in names
            if WAYS[name].efforts
        }
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(options.rounds):
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                rounds[name].append(
                    call("ask", name, folder, space, effort=effort.get(name), limit=options.limit)
                )
        found = {name: told(rounds[name]) for name in names}
        for name, one in found.items():
            way = WAYS[name]
            one |= {"effort": effort.get(name), "disk": disk_of(way, folder, space)}
            one |= {"build": built.get(f"{way.of or name} {space}")}
        rows, width = rows_of(folder, space).shape
        result = line(
            "search",
            peers=("faiss-cpu", "lancedb", "pylance"),
            space=space,
            sizes={"rows": rows, "width": width, "top": TOP},
            rounds=options.rounds,
            wanted_recall=options.recall,
            found=found,
        )
        report(result, save=options.save)


def told(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds over all calls of all rounds, and by round; of all threads together (`cpu`, which a busy
    machine changes least); a query's share of a batch; recall, seconds from cold, bytes."""
    single = np.concatenate([one["single"] for one in rounds]) * 1e3
    batch = np.concatenate([one["batch"] for one in rounds]) * 1e3 / BATCH
    return {
        "p50": round(float(np.percentile(single, 50)), 3),
        "p95": round(float(np.percentile(single, 95)), 3),
        "p50_by_round": [round(float(np.median(one["single"])) * 1e3, 3) for one in rounds],
        "cpu": round(statistics.median(one["cpu"] for one in rounds) * 1e3, 3),
        "batch_p50": round(float(np.percentile(batch, 50)), 3),
        "calls": len(single),
        "recall": round(statistics.mean(one["recall"] for one in rounds), 4),
        "cold": round(statistics.median(one["cold"] for one in rounds), 2),
        "bytes": max(one["bytes"] for one in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--raw", type=int, default=1024, help="width of raw vectors")
    parser.add_argument("--repaired", type=int, default=100, help="width of repaired vectors")
    parser.add_argument("--spaces", nargs="*", default=list(SPACES), choices=SPACES)
    parser.add_argument("--without", nargs="*", default=[], choices=list(WAYS), help="leave these ways out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recall", type=float, default=0.98, help="that ways with an effort are given")
    parser.add_argument(
        "--limit", type=float, default=8.0, help="seconds for single queries, and for batches"
    )
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; they stay there")
    for name in ("--work", "--way", "--space"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--effort", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help="append to results/search.jsonl")
    options = parser.parse_args()
    if options.work:
        way, folder, space = WAYS[options.way], options.folder, options.space
        if options.work == "build":
            answer = build(way, folder, space)
        elif options.work == "tune":
            answer = tune(way, folder, space, options.recall)
        else:
            answer = ask(way, folder, space, options.effort, options.limit, options.start)
        print(json.dumps(answer))
    elif options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options, options.folder)
    else:
        with tempfile.TemporaryDirectory() as name:
            measure(options, Path(name))


if __name__ == "__main__":
    main()
