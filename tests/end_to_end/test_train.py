"""`clearsight train`: mined clusters to an adapter that is a model; killed with -9 it goes on."""

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

SETTINGS = [
    "--batch",
    "2",
    "--warmup",
    "1",
    "--rate",
    "2e-3",
    "--rank",
    "4",
    "--seed",
    "3",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mined")
    file = folder / "clusters.parquet"
    arguments = ["mine", "tiny", "--data", "world/t2i", "--n", "12", "--negatives", "2", "--pool", "2"]
    arguments += ["--out", str(file), "--cache", str(folder / "cache"), "--compare", "in_batch"]
    assert main(arguments) == 0
    return file


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "history.jsonl").read_text().splitlines()]


def test_from_clusters_to_a_model(clusters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from clearsight.models.encoder import Encoder

    out = tmp_path / "adapter"
    command = ["train", "tiny", "--clusters", str(clusters), "--out", str(out), *SETTINGS, "--steps", "3"]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["steps"], told["out"]) == (3, str(out))
    assert told["last"]["loss"] == losses(out)[-1]
    facts = json.loads((out / "clearsight.json").read_text())
    assert facts["encoder"] == {"prompt": "one_word", "pooling": "mean", "layer": -1}, "as they were mined"
    assert facts["clusters"]["strategy"] == "saha"
    assert Encoder.load(out).template.name == "one_word"
    assert main([*command[:-1], "4"]) == 2
    assert "steps: 3 before, 4 now" in capsys.readouterr().err


def test_an_estimate_writes_nothing(
    clusters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none"
    arguments = ["train", "tiny", "--clusters", str(clusters), "--out", str(out), *SETTINGS, "--steps", "400"]
    assert main([*arguments, "--estimate", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["estimate"]
    assert told["steps"] == 400
    assert told["hours"] == pytest.approx(told["step_seconds"] * 400 / 3600)
    assert told["tokens_per_second"] > 0
    assert told["peak_bytes"] > 10**7
    assert not out.exists()


def test_flags_go_before_recipes_and_these_before_clusters(clusters: Path) -> None:
    from clearsight.jobs.train import TrainConfig, settings_of

    manifest = {"prompt": "one_word", "pooling": "mean"}
    assert settings_of(TrainConfig("tiny"), manifest).prompt == "one_word"
    recipe = settings_of(TrainConfig("tiny", recipe="qwen2-vl-2b", batch=4, rate=1.0), manifest)
    assert (recipe.prompt, recipe.pooling, recipe.batch, recipe.rate) == ("hierarchical", "last", 4, 1.0)
    assert recipe.dora
    assert settings_of(TrainConfig("tiny"), {}).prompt == "hierarchical"


def test_bad_input(clusters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["train", "tiny", "--clusters", str(clusters), "--out", str(tmp_path / "out")]
    for more, code, words in (
        (["--recipe", "qwen2-vl-3b"], 2, "qwen2-vl-2b"),
        (["--rate", "0"], 2, "rate is 0"),
        (["--refresh", "0"], 2, "refresh is 0"),
        (["--data", "world/i2t"], 3, "which was not given"),
        (["--max-tokens", "9999"], 2, "reads 4096 tokens at most"),
    ):
        assert main([*start, *more]) == code, more
        assert words in capsys.readouterr().err
    assert main(["train", "tiny-contrastive", "--clusters", str(clusters), "--max-tokens", "64"]) == 2
    assert "not trained here" in capsys.readouterr().err
    assert main(["train", "tiny", "--clusters", str(tmp_path / "none.parquet")]) == 3


def test_clusters_are_mined_again_while_it_trains(clusters: Path, tmp_path: Path) -> None:
    arguments = ["train", "tiny", "--clusters", str(clusters), "--out", str(tmp_path / "out"), *SETTINGS]
    assert main([*arguments, "--steps", "2", "--refresh", "1"]) == 0
    assert len(losses(tmp_path / "out")) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_it_goes_on_with_the_same_losses(clusters: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clearsight", "train", "tiny", "--clusters", str(clusters), *SETTINGS]
    command += ["--steps", "24", "--save-every", "2", "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = 0
    for _ in range(2):
        trainer = subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL)
        while trainer.poll() is None:
            found = sorted(p.name for p in (killed / "checkpoints").glob("step-*"))
            if found and int(found[-1][5:]) >= done + 6:
                break
            time.sleep(0.05)
        assert trainer.poll() is None, "it ended before it could be killed"
        time.sleep(np.random.default_rng().uniform(0, 0.3))
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        done = int(sorted(p.name for p in (killed / "checkpoints").glob("step-*"))[-1][5:])
    subprocess.run([*command, str(killed)], check=True, stderr=subprocess.DEVNULL)
    subprocess.run([*command, str(whole)], check=True, stderr=subprocess.DEVNULL)
    assert 6 <= done < 24
    np.testing.assert_allclose(losses(killed), losses(whole), rtol=1e-4, atol=1e-7)
    assert [p.name for p in (killed / "checkpoints").iterdir()] == ["step-00000024"]
