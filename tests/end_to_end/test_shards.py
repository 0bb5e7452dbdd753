"""Two processes embed parts of one pool into one store, one is killed: together they make what one makes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clearsight.jobs.pools import embed_pool
from clearsight.models.encoder import Encoder
from clearsight.types import Item

POOL = """
from clearsight.types import Item
colours = ("red", "green", "blue", "white", "black", "yellow", "pink")
items = [Item(f"i{n}", text=f"{colours[n % 7]} ball number {n}") for n in range(240)]
"""

WORKER = f"""
import sys
{POOL}
from clearsight.jobs.pools import Shard, embed_part
from clearsight.models.encoder import Encoder
from clearsight.progress import Silent

class Loud(Silent):
    def advance(self, n=1):
        print(n, flush=True)

encoder = Encoder.load("tiny", cache=sys.argv[1], token_budget=256, commit_seconds=0.0)
print("ready", flush=True)
sys.stdin.readline()
embed_part(encoder, items, shard=Shard.parse(sys.argv[2]), slice_items=16, progress=Loud())
"""


def start(folder: Path, shard: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(folder), shard]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def pool() -> list[Item]:
    names: dict[str, list[Item]] = {}
    exec(POOL, names)
    return names["items"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_parts_of_killed_and_whole_processes_meet(tmp_path: Path) -> None:
    with start(tmp_path, "1/2") as first, start(tmp_path, "2/2") as second:
        assert first.stdout is not None
        assert second.stdout is not None
        assert (first.stdout.readline(), second.stdout.readline()) == ("ready\n", "ready\n")
        go(first)
        go(second)
        assert first.stdout.readline() == "16\n"
        assert first.stdout.readline() == "16\n"
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert second.stdout.read().split() == ["16"] * 7
    assert second.returncode == 0

    encoder = Encoder.load("tiny", cache=tmp_path)
    embedded: list[str] = []
    inner = Encoder.embed

    class Watched(Encoder):
        def embed(self, items, *arguments, **options):
            embedded.extend(item.id for item in items)
            return inner(self, items, *arguments, **options)

    watched = Watched(encoder.loaded, cache=tmp_path)
    source = embed_pool(watched, pool(), slice_items=16)
    second_part = {f"i{n}" for n in range(240) if n // 16 % 2 == 1}
    told_by_first = {f"i{n}" for n in (*range(16), *range(32, 48))}
    assert not (second_part | told_by_first) & set(embedded), "what was reported done is done again"
    assert len(embedded) < 240 - len(second_part) - len(told_by_first) + 1
    alone = Encoder(encoder.loaded).embed(pool())
    rows = source.take(np.arange(240))
    assert rows.ids == alone.ids
    np.testing.assert_allclose(rows.rows_ND, alone.rows_ND, atol=1e-5 * np.abs(alone.rows_ND).max())
