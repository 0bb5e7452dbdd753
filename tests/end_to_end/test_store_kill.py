"""kill -9 at any moment: what was reported done is there, what is there is right, and work goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clearsight.store import VectorTable

WIDTH, CHUNK = 64, 32

# Reports a chunk only after `add` has returned. Row i holds i everywhere, so that a torn row shows.
WRITER = f"""
import sys
import lance  # its import takes longer than most delays
import numpy as np
from clearsight.store import VectorTable, vectors
vectors.SMALL_FILES = 4  # merges are killed as well
store = VectorTable.open(sys.argv[1])
start = int(sys.argv[2])
print("ready", flush=True)
for at in range(start, start + 100_000, {CHUNK}):
    keys = [f"key {{i}}" for i in range(at, at + {CHUNK})]
    rows = np.repeat(np.arange(at, at + {CHUNK}, dtype=np.float32)[:, None], {WIDTH}, axis=1)
    store.add(keys, keys, rows)
    print(at, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_again_and_again(tmp_path: Path) -> None:
    rng = np.random.default_rng()  # a new moment every time: the law holds at all of them
    start = 0
    for _ in range(5):
        done = run_and_kill(tmp_path, start, float(10 ** rng.uniform(-3.5, -0.5)))
        store = VectorTable.open(tmp_path)
        reported = [f"key {i}" for at in done for i in range(at, at + CHUNK)]
        assert store.lookup(reported)[0].all(), "a row that was reported done is lost"
        everything = [f"key {i}" for i in range(start + len(reported) + 10 * CHUNK)]
        found, rows = store.lookup(everything)
        expected = np.flatnonzero(found).astype(np.float32)
        assert (rows == expected[:, None]).all(), "a row is wrong"
        assert rows.shape[1] in (0, WIDTH)
        chunks = found[: len(found) // CHUNK * CHUNK].reshape(-1, CHUNK)
        assert (chunks.all(axis=1) == chunks.any(axis=1)).all(), "an add is there in part"
        assert found.sum() - start in (len(reported), len(reported) + CHUNK), "at most one add was unreported"
        start = int(found.sum())
    store.add(["after"], ["after"], np.ones((1, WIDTH)))
    assert VectorTable.open(tmp_path).lookup(["after", "key 0"])[0].tolist() == [True, start > 0]


def run_and_kill(folder: Path, start: int, delay: float) -> list[int]:
    """The chunks that a writer had reported when it was killed, `delay` seconds after it began to write."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(start)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        lines = writer.stdout.read().splitlines()
    return [int(line) for line in lines if line]
