"""From Generator to Embedder, figure 4: maps of queries and their targets, by prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clearsight.jobs.papers.base import EMBEDDER, PUBLISHED, Cell, Published, Redone, scored_cell
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.drawings import maps
from clearsight.jobs.papers.settings import not_there, row_name, tasks_at_hand

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clearsight.types import Embeddings, Task

DATASETS = {
    "ImageNet-R": ("mmeb/ImageNet-R",),
    "MSCOCO i2t": ("mmeb/MSCOCO_i2t", "coco/i2t", "mbeir/mscoco_task3"),
}
# The release's notebook draws three: nothing, representation prompts on both sides, all of it.
PROMPTS = {
    "no prompt": "no_prompt",
    "representation prompts": "controlled_qd",
    "hierarchical": "hierarchical",
}
NONE = "no prompt"


def redo(bench: Bench) -> Redone:
    from clearsight.jobs.trials import scored, tested
    from clearsight.metrics.maps import UMAP_LEAST_DISTANCE, UMAP_NEIGHBOURS, embed_map

    tasks, absent = tasks_at_hand(bench, DATASETS)
    cells: list[Cell] = []
    figures: dict[str, Figure] = {}
    notes: list[str] = []
    for model in bench.models:
        name = TABLE.label_of(model)
        for data, whole in tasks.items():
            views, none = {}, None
            for label, prompt in PROMPTS.items():
                task, queries, candidates = bench.sides(bench.encoder(model, prompt, "last"), whole)
                pairs_P2, shown = positives(task, queries, candidates)
                placed = embed_map(np.concatenate([queries.rows_ND, shown.rows_ND]), method="umap")
                views[label] = placed.points_N2, len(queries), pairs_P2
                notes += [f"{data}, {label}: {placed.note}"] if placed.note else []
                measure = task.measures[0]
                scores = {measure: scored(task, queries, candidates)[measure]}
                none = none or scores
                test = None if none is scores else tested(scores, none)[measure]
                against = None if test is None else (row_name(name, NONE), test)
                cells.append(
                    scored_cell(TABLE, row_name(name, label), data, scores[measure], against=against)
                )
            figures[f"map-{len(figures) + 1}"] = maps(views, ("query", "target"))
    differs = [
        f"UMAP with {UMAP_NEIGHBOURS} neighbours and a least distance of {UMAP_LEAST_DISTANCE}, over rows "
        "scaled to length 1. A map has no numbers; the table gives the task's measure under each prompt.",
        *dict.fromkeys(notes),
        *not_there(absent),
    ]
    return Redone(tuple(cells), tuple(differs), figures)


def positives(
    task: Task, queries: Embeddings, candidates: Embeddings
) -> tuple[NDArray[np.int64], Embeddings]:
    """The candidates that are relevant to a query, and the pairs (P, 2) as rows of queries and of these."""
    query_row = {name: row for row, name in enumerate(queries.ids)}
    candidate_row = {name: row for row, name in enumerate(candidates.ids)}
    found = [
        (query_row[query], candidate_row[candidate])
        for query, grades in task.relevance.items()
        for candidate, grade in grades.items()
        if grade > 0 and query in query_row and candidate in candidate_row
    ]
    pairs_P2 = np.array(found, np.int64).reshape(-1, 2)
    kept, place_P = np.unique(pairs_P2[:, 1], return_inverse=True)
    return np.column_stack([pairs_P2[:, 0], place_P]).astype(np.int64), candidates.take(kept)


TABLE = PUBLISHED.add(
    "embedder-figure-4",
    Published(
        name="embedder-figure-4",
        title="Maps of queries and their targets, by prompt",
        paper=EMBEDDER,
        place="Figure 4, section IV-C",
        models={"Qwen2-VL-2B": "Qwen/Qwen2-VL-2B-Instruct"},
        data=tuple(DATASETS.values()),
        numbers={},
        missing="the model (unless it says otherwise the paper's analyses use Qwen2-VL-2B)",
        redo=redo,
    ),
)
