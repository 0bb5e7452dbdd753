"""Training against others: sentence-transformers, transformers' own loss, one process for two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clearsight.models.load import load_model
from clearsight.models.prepare import collate
from clearsight.training import Training, TrainSettings, train
from clearsight.training.contrast import info_nce, negatives
from clearsight.training.processes import Processes
from clearsight.training.said import Saying, said_loss, to_say
from clearsight.types import Item
from small.clusters import cluster_rows, spare_task

WORKER = Path(__file__).with_name("training_worker.py")


def test_info_nce_is_multiple_negatives_ranking_loss() -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    queries, positives, hard = (torch.randn(6, 8) for _ in range(3))
    theirs: Any = MultipleNegativesRankingLoss(model=torch.nn.Identity(), scale=50.0)
    wanted = theirs.compute_loss_from_embeddings([queries, positives, hard], None)
    codes = torch.arange(12)
    pair = torch.cat([torch.arange(6), torch.full((6,), -1)])
    mask = negatives(torch.arange(6), codes[:6], codes, pair)
    ours = info_nce(queries, torch.cat([positives, hard]), torch.arange(6), mask, 50.0)
    torch.testing.assert_close(ours, wanted)


def test_the_next_token_loss_is_transformers() -> None:
    loaded = load_model("tiny", head=True)
    saying = Saying(loaded, max_tokens=200, image_size=None)
    task = spare_task(3, seed=1)
    said = []
    for query, positive in zip(task.queries, task.candidates, strict=True):
        found = to_say(query, positive)
        assert found is not None
        one = saying(*found, query.image)  # type: ignore[arg-type]
        assert one is not None
        said.append(one)
    with torch.no_grad():
        ours = said_loss(loaded, said)
        theirs = 0.0
        for one in said:
            inputs = collate([one.prepared], loaded).inputs
            labels = inputs["input_ids"].clone()
            labels[:, : one.start] = -100
            theirs += float(loaded.model(**inputs, labels=labels).loss) * one.targets
    assert float(ours) == pytest.approx(theirs, rel=1e-4)
    words = [loaded.tokenizer.decode(one.prepared.ids_L[one.start : -1]) for one in said]
    assert words == [item.text for item in task.candidates], "the text itself is what is said"
    assert all(one.prepared.ids_L[-1] == loaded.tokenizer.convert_tokens_to_ids("<|im_end|>") for one in said)


def test_which_side_is_said() -> None:
    text, picture = Item("t", text="words", instruction="find"), Item("p", image=b"")
    both = Item("b", text="what is it?", image=b"")
    assert to_say(picture, text) == (picture, "words")
    assert to_say(both, text) == (both, "words")
    assert to_say(text, picture) == (picture, "words")
    assert to_say(picture, picture) is None
    assert to_say(text, Item("u", text="more")) == (text, "more")


def test_the_next_token_loss_is_mixed_in(tmp_path: Path) -> None:
    task = spare_task(6, seed=2, style="short")
    clusters = cluster_rows(task, [3, 3])
    settings = TrainSettings(prompt="one_word", pooling="mean", batch=2, steps=1, dropout=0.0, rank=4)
    found = {}
    for weight in (0.0, 0.5, 1.0):
        one = Training(
            "tiny",
            clusters,
            {task.name: task},
            TrainSettings(**{**vars(settings), "caption_weight": weight}),
            Processes("cpu"),
        )
        losses = one._stepper()(next(iter(one._feeding().steps(0))), one.log_scale.exp())
        found[weight] = losses, {n: w.grad.clone() for n, w in one.lora.weights.items() if w.grad is not None}
    assert found[0.0][0].said == 0
    assert found[0.5][0].said == pytest.approx(found[1.0][0].said, rel=1e-5)
    for name, gradient in found[1.0][1].items():
        halfway = (found[0.0][1][name] + gradient) / 2
        torch.testing.assert_close(found[0.5][1][name], halfway, atol=1e-5, rtol=1e-4)


def run_processes(count: int, out: Path) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    command = [sys.executable, str(WORKER), str(out)]
    workers = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    results = []
    for worker in workers:
        told, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors[-3000:]
        results.append(json.loads(told.splitlines()[-1]))
    return results


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """Clusters of 4, 1, 3 and 1 pairs, three to a step: the second process has fewer pairs, and now none."""
    both = run_processes(2, tmp_path / "two")
    (single,) = run_processes(1, tmp_path / "one")
    assert [one["count"] for one in both] == [2, 2]
    for one in both:
        np.testing.assert_allclose(one["losses"], single["losses"], rtol=1e-4, atol=1e-6)
        assert one["sum"] == pytest.approx(single["sum"], rel=1e-4)


def test_training_teaches(tmp_path: Path) -> None:
    """Twenty steps on one batch: the loss of its pairs falls far below chance."""
    task = spare_task(8, seed=4)
    settings = TrainSettings(
        prompt="one_word", pooling="mean", batch=1, steps=20, warmup=2, rate=3e-3, rank=4, dropout=0.0
    )
    done = train(
        "tiny", cluster_rows(task, [8]), {task.name: task}, settings, tmp_path, processes=Processes("cpu")
    )
    assert done.history[-1].loss < 0.5 * done.history[0].loss
