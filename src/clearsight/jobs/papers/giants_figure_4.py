"""Generative Giants, figure 4: image tokens, or prompt tokens, left out of the mean."""

from __future__ import annotations

from clearsight.jobs.papers.base import GIANTS, NOT_AT_HAND, PUBLISHED, Cell, Published, Redone, scored_cell
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.drawings import bars
from clearsight.jobs.papers.settings import not_there, row_name, tasks_at_hand

DATASETS = {
    "CIRR": ("mbeir/cirr_task7", "cirr/val"),
    "OVEN": ("mbeir/oven_task8",),
}
CUTS = (1, 5, 10)
NAMES = {"mean": "Base", "mean_no_image": "w/o image", "mean_no_prompt": "w/o prompt"}


def redo(bench: Bench) -> Redone:
    """One forward pass a side for all three means; the paper's rows mask both sides, ours the queries too."""
    from clearsight.jobs.masking import ablate_tokens

    tasks, absent = tasks_at_hand(bench, DATASETS, [f"hit_rate@{k}" for k in CUTS])
    cells: list[Cell] = []
    for model in bench.models:
        name = TABLE.label_of(model)
        for data, task in tasks.items():
            found = ablate_tokens(bench.encoder(model, "one_word", "mean"), task, progress=bench.progress)
            bench.skipped += list(found.skipped.items())
            for row in found.rows:
                only = ", queries only" if row.masked == "queries" else ""
                for measure, score in row.scores.items():
                    test = row.against_base.get(measure)
                    cells.append(
                        scored_cell(
                            TABLE,
                            row_name(name, NAMES[row.pooling] + only),
                            f"{data} R@{measure.partition('@')[2]}",
                            score,
                            against=None if test is None else (row_name(name, NAMES["mean"]), test),
                        )
                    )
    differs = [
        f"The figure's values are {NOT_AT_HAND}; ours stand alone.",
        "Ours masks the queries alone as well: where candidates are images, the paper's row measures what is "
        "left of them, the template.",
        "The prompt is what the template adds to the content; the item's own text stays.",
        *not_there(absent),
    ]
    return Redone(tuple(cells), tuple(differs), {"masking": bars(cells, "leaving tokens out")})


TABLE = PUBLISHED.add(
    "giants-figure-4",
    Published(
        name="giants-figure-4",
        title="Image tokens, or prompt tokens, left out of the mean",
        paper=GIANTS,
        place="Figure 4, section 3.3: subsets of 3,000 queries",
        models={
            "Qwen2-VL-7B": "Qwen/Qwen2-VL-7B-Instruct",
            "Qwen3-VL-8B": "Qwen/Qwen3-VL-8B-Instruct",
            "PaliGemma2-3B": "google/paligemma2-3b-mix-224",
            "Chameleon-7B": "facebook/chameleon-7b",
        },
        data=tuple(DATASETS.values()),
        numbers={},
        missing="the bars' values, and which models they are of",
        redo=redo,
        queries=3000,
    ),
)
