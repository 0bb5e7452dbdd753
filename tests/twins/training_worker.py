"""One process of a training among several: prints its losses and the adapter's checksum as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(out: str) -> None:
    import torch

    from clearsight.training import TrainSettings, train
    from clearsight.training.processes import Processes
    from small.clusters import cluster_rows, spare_task

    torch.set_num_threads(1)
    task = spare_task(9, seed=3)
    clusters = cluster_rows(task, [4, 1, 3, 1], alone=1)
    settings = TrainSettings(
        prompt="one_word",
        pooling="mean",
        batch=3,
        steps=3,
        warmup=1,
        rate=2e-3,
        rank=4,
        dropout=0.0,
        caption_weight=0.3,
        token_budget=300,
    )
    processes = Processes("cpu")
    done = train("tiny", clusters, {task.name: task}, settings, out, processes=processes)
    losses = [[row.loss, row.said, row.norm, row.pairs, row.masked] for row in done.history]
    rows = done.encoder.embed(task.queries, "query").rows_ND
    print(
        json.dumps(
            {"rank": processes.rank, "count": processes.count, "losses": losses, "sum": float(rows.sum())}
        )
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1])
