"""What every benchmark here shares: interleaved rounds, ratios by round, JSON lines with their origin."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clearsight.run import environment

RESULTS = Path(__file__).parent / "results"


def interleave(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Wall seconds of every contender in every round; the order turns by one each round.

    Machines drift: a ratio is only fair between neighbours in time.
    """
    names = list(contenders)
    for _ in range(warmup):
        for name in names:
            contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            start = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], above: str, below: str) -> dict[str, float]:
    """Median, least and greatest of seconds[above] / seconds[below], round by round."""
    ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def peak_memory(work: Callable[[], Any]) -> int:
    """Bytes by which resident memory grew at most while `work` ran (sampled every 2 ms, from outside)."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096

    before = highest = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    highest = max(highest, resident())
    done.set()
    watcher.join()
    return highest - before


def line(name: str, *, peers: tuple[str, ...] = (), **facts: Any) -> dict[str, Any]:
    """One result with its origin: commit, machine, date, versions of ours and of the peers."""
    origin = environment()
    return {
        "name": name,
        **facts,
        "peers": {peer: version(peer) for peer in peers},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "origin": origin,
    }


def report(result: Mapping[str, Any], *, save: bool) -> None:
    """Print the line; with `save`, append it to results/NAME.jsonl."""
    text = json.dumps(result, sort_keys=False)
    print(text, flush=True)
    if save:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{result['name']}.jsonl").open("a") as file:
            file.write(text + "\n")
