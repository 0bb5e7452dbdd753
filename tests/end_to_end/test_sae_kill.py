"""kill -9 at any moment of a training: what comes out in the end has the bits of an uninterrupted one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from clearsight.sae import ArrayStream, Every, SaeConfig, TrainConfig, load_checkpoint, train_sae

STEPS = 400
CONFIG = TrainConfig(SaeConfig(48, 192, k=6), batch=32, steps=STEPS)
EVERY = 7


def stream() -> ArrayStream:
    rows = np.random.default_rng(0).standard_normal((1500, 48)).astype(np.float32)
    return ArrayStream(rows, epochs=20, seed=4)


class Reports:
    """Prints what is safe, at once."""

    def start(self, total: int | None, label: str) -> None:
        print("ready", flush=True)

    def advance(self, n: int = 1) -> None:
        print(n, flush=True)

    def close(self) -> None:
        pass


def train(folder: Path) -> None:
    train_sae(stream(), CONFIG, folder=folder, progress=Reports(), every=Every(None, EVERY))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_and_resumed_is_bit_equal(tmp_path: Path) -> None:
    rng = np.random.default_rng()  # a new moment every time: the law holds at all of them
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += "import pathlib, test_sae_kill; test_sae_kill.train(pathlib.Path(sys.argv[1]))"
    stops: list[int] = []
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as trainer:
            assert trainer.stdout is not None
            assert trainer.stdout.readline() == "ready\n"
            told = sum(int(trainer.stdout.readline()) for _ in range(rng.integers(2, 20)))
            time.sleep(rng.uniform(0, 0.02))
            trainer.send_signal(signal.SIGKILL)
            told += sum(int(line) for line in trainer.stdout.read().splitlines())
        stops.append(load_checkpoint(tmp_path).state.step)
        assert stops[-1] - told in (0, EVERY), "at most one checkpoint was not reported yet"
    assert stops[-1] < STEPS, "it was killed too late to show anything"
    resumed = train_sae(stream(), CONFIG, folder=tmp_path)
    whole = train_sae(stream(), CONFIG)
    assert resumed.history is not None
    assert len(resumed.history.loss_S) == STEPS
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), f"{name} differs after kills at {stops}"
