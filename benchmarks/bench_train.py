"""Seconds of a training step and where they go, beside the floor: the same passes with nothing around them.

A GradCache step passes every token forward twice and backward once. Floor: those passes over the same chunks.
One chunk is the full batch: forward once, backward once. Sizes are for two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import interleave, line, ratio, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from clearsight.models.batching import fill_batches
from clearsight.training import Training, TrainSettings
from clearsight.training.checkpoint import FOLDER
from clearsight.training.processes import Processes
from small.clusters import cluster_rows, spare_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = spare_task(options.pairs)
    clusters = cluster_rows(task, [4] * (options.pairs // 4))
    facts: dict[str, Any] = {}
    for name, budget in (("chunks of 512 tokens", 512), ("one chunk", 10**6)):
        settings = TrainSettings(
            prompt="one_word", pooling="mean", batch=len(clusters), steps=10**6, token_budget=budget
        )
        training = Training("tiny", clusters, {task.name: task}, settings, Processes("cpu"))
        stepper, step = training._stepper(), next(iter(training._feeding().steps(0, 1)))
        training.loaded.model.train()
        prepared = [ready.prepared for ready in step.ready.values()]
        chunks = [
            [prepared[i] for i in batch]
            for batch in fill_batches([len(one.ids_L) for one in prepared], budget)
        ]

        def ours(stepper: Any = stepper, step: Any = step, training: Any = training) -> None:
            stepper(step, training.log_scale.exp())

        def floor(stepper: Any = stepper, chunks: Any = chunks) -> None:
            with torch.no_grad():
                for chunk in chunks[:-1]:
                    stepper.rows(chunk)
            for chunk in chunks:
                stepper.rows(chunk).sum().backward()

        seconds = interleave({"ours": ours, "floor": floor}, options.rounds)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            training.save(Path(folder))
            size = sum(p.stat().st_size for p in (Path(folder) / FOLDER).rglob("*") if p.is_file())
        facts[name] = {
            "chunks": len(chunks),
            "tokens": sum(len(one.ids_L) for one in prepared),
            "seconds": min(seconds["ours"]),
            "over the floor": ratio(seconds, "ours", "floor"),
            "checkpoint seconds": round(time.perf_counter() - began, 3),
            "checkpoint bytes": size,
        }
    report(line("train_step", pairs=options.pairs, threads=options.threads, **facts), save=options.save)


if __name__ == "__main__":
    main()
