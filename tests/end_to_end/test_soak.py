"""Processes that add, delete, refit and search one index, killed again and again: nothing is lost or wrong.

CLEARSIGHT_SOAK_SECONDS sets how long the marked test takes (300), CLEARSIGHT_SOAK_SEED repeats one.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import pytest

import soaking

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL, no fork")

SHORT, LONG = 5.0, 300.0


def soak(folder: Path, seconds: float) -> dict[str, int]:
    """Let workers work and die, then look at what is left."""
    seed = int(os.environ.get("CLEARSIGHT_SOAK_SEED", random.SystemRandom().randrange(2**32)))
    print(f"CLEARSIGHT_SOAK_SEED={seed}")  # shown where the test fails
    draw = random.Random(seed)
    index, errors = folder / "index", folder / "errors"
    soaking.make_index(index)
    near = draw.random() < 0.5
    slots = {"a": "writer", "b": "writer", "c": "writer", "r": "refitter", "s": "searcher", "t": "searcher"}
    nursery = soaking.Nursery(errors)
    end = time.monotonic() + seconds

    def start(name: str) -> int:
        told = {"role": slots[name], "name": name, "folder": str(index), "near": near}
        return nursery.ask(**told, seed=draw.randrange(2**32), end=end)

    kills = 0
    try:
        running = {name: start(name) for name in slots}
        while time.monotonic() < end:
            time.sleep(10 ** draw.uniform(-2.0, 0.6))
            name = draw.choice([one for one in slots if one != "t"])  # one reader lives through it all
            if time.monotonic() >= end:
                break
            died = nursery.ask(kill=running[name])
            assert died == -9 or time.monotonic() >= end, f"{name} ended by itself: {errors.read_text()}"
            running[name] = start(name)
            kills += 1
        ends = {name: nursery.ask(wait=number) for name, number in running.items()}
        assert not any(ends.values()), f"{ends}: {errors.read_text()}"
    finally:
        nursery.close()
    writes = soaking.history(folder / f"{name}.journal" for name, role in slots.items() if role == "writer")
    searches = sum(soaking.check_answers(folder / f"{name}.journal", writes) for name in ("s", "t"))
    acknowledged = sum(one.sure for known in writes.values() for one in known[1:])
    rows = soaking.check_rows(index, writes)
    refits = sum("refitted" in line for line in soaking.lines_of(folder / "r.journal"))
    told = {
        "kills": kills,
        "acknowledged": acknowledged,
        "rows": rows,
        "searches": searches,
        "refits": refits,
    }
    print(told)
    return told


def test_short(tmp_path: Path) -> None:
    told = soak(tmp_path, SHORT)
    assert told["acknowledged"] > 0


@pytest.mark.slow
def test_long(tmp_path: Path) -> None:
    told = soak(tmp_path, float(os.environ.get("CLEARSIGHT_SOAK_SECONDS", LONG)))
    assert told["kills"] > 5
    assert told["searches"] > 5
    assert told["acknowledged"] > 20


def test_what_an_id_may_hold() -> None:
    """The law that the soak is judged by: the last that was acknowledged, or what nobody lived to tell."""
    first, gone = soaking.Write(None, 0, 0, True), soaking.Write(None, 50, 60, True)
    one, two = soaking.Write("one", 10, 20, True), soaking.Write("two", 30, 40, True)
    assert soaking.possible([first], 5, 5) == {None}
    assert soaking.possible([first, one], 25, 25) == {"one"}
    assert soaking.possible([first, one], 5, 15) == {None, "one"}
    assert soaking.possible([first, one, two], 45, 45) == {"two"}
    assert soaking.possible([first, one, two], 25, 35) == {"one", "two"}
    assert soaking.possible([first, one, two, gone], 70, 70) == {None}
    overlapping = soaking.Write("both", 35, 45, True)
    assert soaking.possible([first, two, overlapping], 70, 70) == {"two", "both"}
    killed = soaking.Write("killed", 35, 48, False)
    assert soaking.possible([first, one, two, killed], 70, 70) == {"two", "killed"}
    assert soaking.possible([first, two, killed, gone], 70, 70) == {None}
