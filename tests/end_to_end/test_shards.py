"""Processes embed parts of one pool into one store, one is killed or interrupted: together they make what one
makes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clearsight.cli import main
from clearsight.data import load_vectors
from clearsight.errors import UsageError
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


def command(place: Path, *flags: str) -> list[str]:
    task = ["evaluate", "tiny", "--task", "world/i2t,world/t2i", "--n", "24"]
    return [*task, "--repairs", "base,realign", "--cache", str(place / "cache"), "--json", *flags]


def embedded_anew(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of items that pass the model from here on."""
    from clearsight.models import call

    names: list[str] = []
    inner = call.Call._windows

    def windows(self, work, *rest):
        names.extend(item.id for item in work.values())
        return inner(self, work, *rest)

    monkeypatch.setattr(call.Call, "_windows", windows)
    return names


def test_parts_of_a_task_by_two_processes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = [
        subprocess.Popen(
            [sys.executable, "-m", "clearsight", *command(tmp_path, "--shard", f"{number}/2")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2)
    ]
    told = [part.communicate() for part in parts]
    assert [part.returncode for part in parts] == [0, 0], told
    assert sum(json.loads(out)["embedded"] for out, _ in told) == 4 * 24
    assert all(json.loads(out)["run"] is None for out, _ in told)
    assert "without --shard" in " ".join(told[0][1].split())

    anew = embedded_anew(monkeypatch)
    assert main(command(tmp_path, "--out", str(tmp_path / "run"))) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert anew == [], "the parts left something out"
    assert [(row["task"], row["repair"]) for row in rows] == [
        (task, repair) for task in ("world/i2t", "world/t2i") for repair in ("base", "ReAlign")
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to one process")
def test_an_interrupted_evaluation_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = command(tmp_path, "--out", str(tmp_path / "run"))
    process = subprocess.Popen(
        [sys.executable, "-m", "clearsight", *flags],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    manifest = tmp_path / "run" / "manifest.json"
    while process.poll() is None and not manifest.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130, told
    assert "goes on from there" in told
    assert json.loads(manifest.read_text())["status"] == "interrupted"
    assert main(flags) == 0
    assert json.loads(manifest.read_text())["status"] == "complete"


def test_parts_of_a_file_of_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "items.jsonl", tmp_path / "vectors.parquet"
    file.write_text("".join(json.dumps({"id": item.id, "text": item.text}) + "\n" for item in pool()[:30]))
    flags = ["embed", "tiny", str(file), "--out", str(out), "--cache", str(tmp_path / "cache"), "--json"]
    assert main([*flags, "--shard", "2/3"]) == 0
    assert json.loads(capfd.readouterr().out) == {"out": None, "items": 10, "skipped": []}
    assert not out.exists()
    anew = embedded_anew(monkeypatch)
    assert main(flags) == 0
    assert len(anew) == 20
    assert load_vectors(out).ids == tuple(item.id for item in pool()[:30])
    assert main([*flags, "--shard", "4/3"]) == UsageError.exit_code
    assert "no shard 4 of 3" in capfd.readouterr().err
    assert main(["evaluate", "--vectors", str(tmp_path), "--shard", "1/2"]) == UsageError.exit_code
