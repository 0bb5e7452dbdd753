"""Lance stores under kill -9, a disk that fills, and writers that wait: old or new, never half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clearsight.errors import DataError
from clearsight.store import open_store
from clearsight.store.columns import matrix, vector_column
from clearsight.store.lock import writer_lock

D, CHUNK = 16, 20

COMMON = f"""
import sys
import lance
import numpy as np
import pyarrow as pa
from clearsight.store import lance as lance_store, open_store
from clearsight.store.columns import vector_column
lance_store.SMALL_FILES = 4
def rows(ids, value):
    raw = np.full((len(ids), {D}), value, np.float32)
    raw = vector_column(raw)
    columns = {{"id": ids, "key": ids, "modality": ["text"] * len(ids), "raw": raw, "vector": raw}}
    return pa.table({{**columns, "meta_round": [value] * len(ids)}})
store = open_store(sys.argv[1], {D}, create=True)
start = int(sys.argv[2])
print("ready", flush=True)
"""
# Every round adds a chunk and writes the row "again" anew, in one call; then it reports.
ADDER = f"""
for at in range(start, start + 10_000):
    store.add(rows([f"{{at}}-{{i}}" for i in range({CHUNK})] + ["again"], float(at + 1)))
    print(at, flush=True)
"""
REWRITER = """
for at in range(start, start + 10_000):
    store.rewrite(f"{at:06}", lambda batch: np.full((len(batch), 8), at, np.float32))
    print(at, flush=True)
"""


def run_and_kill(script: str, address: Path, start: int, delay: float) -> int:
    """Where the writer was when it was killed: one past the last round that it reported."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMON + script, str(address), str(start)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        lines = writer.stdout.read().splitlines()
    return int(lines[-1]) + 1 if lines else start


def contents(address: Path, *columns: str) -> pa.Table:
    view = open_store(str(address)).view()
    batches = list(view.read(columns))
    return pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in columns})


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_while_adding(tmp_path: Path) -> None:
    address, start = tmp_path / "items.lance", 0
    random = np.random.default_rng()  # a new moment every time: the law holds at all of them
    for _ in range(3):
        reported = run_and_kill(ADDER, address, start, float(10 ** random.uniform(-2, -0.2)))
        table = contents(address, "id", "meta_round", "raw", "vector")
        ids = table.column("id").to_pylist()
        assert len(set(ids)) == len(ids), "a row is there twice"
        rounds = {int(name.split("-")[0]) for name in ids if name != "again"}
        start = max(rounds, default=-1) + 1
        assert start in (reported, reported + 1), "at most one round was unreported"
        assert set(ids) == {f"{at}-{i}" for at in range(start) for i in range(CHUNK)} | (
            {"again"} if start else set()
        )
        expected = [start if name == "again" else int(name.split("-")[0]) + 1 for name in ids]
        assert table.column("meta_round").to_pylist() == expected
        for column in ("raw", "vector") if ids else ():
            rows_ND = matrix(table.column(column).combine_chunks())
            assert (rows_ND == np.array(expected)[:, None]).all(), "a row is there in part"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_while_rewriting(tmp_path: Path) -> None:
    address = tmp_path / "items.lance"
    store = open_store(str(address), D, create=True)
    for first in range(0, 60, 20):
        ids = [str(i) for i in range(first, first + 20)]
        raw = vector_column(np.ones((20, D), np.float32))
        store.add(pa.table({"id": ids, "key": ids, "modality": ["text"] * 20, "raw": raw, "vector": raw}))
    random, start = np.random.default_rng(), 1
    for _ in range(3):
        before = store.view()
        reported = run_and_kill(REWRITER, address, start, float(10 ** random.uniform(-2, -0.3)))
        view = store.view()
        last = int(view.repair or 0)
        assert last in (reported - 1, reported)
        table = contents(address, "id", "vector")
        assert sorted(table.column("id").to_pylist(), key=int) == [str(i) for i in range(60)]
        value = last if last else 1
        assert (matrix(table.column("vector").combine_chunks()) == value).all(), "a rewrite is there in part"
        assert sum(len(batch) for batch in before.read(("vector",))) == 60  # opened before, still readable
        start = last + 1


# The limit stands for a disk that is full: a write beyond it fails as one does there.
FILLER = """
import resource
from clearsight.errors import DataError
store.add(rows([str(i) for i in range(100)], 1.0))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for name, change in [("add", lambda: store.add(rows([str(i) for i in range(50, 3000)], 2.0))),
                     ("rewrite", lambda: store.rewrite("1", lambda b: np.ones((len(b), 400), np.float32)))]:
    try:
        change()
    except DataError as error:
        print(name, error, flush=True)
store.add(rows(["small"], 3.0))
print("added", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_a_disk_that_fills(tmp_path: Path) -> None:
    address = tmp_path / "items.lance"
    done = subprocess.run(
        [sys.executable, "-c", COMMON + FILLER, str(address), "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "ready"
    assert lines[1].startswith("add The table cannot be written")
    assert lines[2].startswith("rewrite The table cannot be written")
    assert "what was committed before stays" in lines[1]
    assert lines[3] == "added"
    table = contents(address, "id", "meta_round", "vector")
    expected = {str(i): 1.0 for i in range(100)} | {"small": 3.0}
    found = dict(zip(table.column("id").to_pylist(), table.column("meta_round").to_pylist(), strict=True))
    assert found == expected
    assert (matrix(table.column("vector").combine_chunks())[:, 0] == list(found.values())).all()


HOLDER = """
import sys, time
from clearsight.store.lock import writer_lock
with writer_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_second_writer_waits_and_then_says_who_is_first(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(DataError, match=f"being written by process {holder.pid}"),
            writer_lock(tmp_path, wait=0.1),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with writer_lock(tmp_path, wait=5), writer_lock(tmp_path, wait=0):  # one thread may take it twice
            assert int((tmp_path / ".writer").read_text()) == os.getpid()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"), writer_lock(tmp_path / "file"):
        pass
    with pytest.raises(DataError):
        open_store(str(tmp_path / "file" / "items.lance"), 4, create=True)
