"""Generative Giants, table 3: the last token's state against the mean over all tokens."""

from __future__ import annotations

from clearsight.jobs.papers.base import GIANTS, PUBLISHED, Published, Redone
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.settings import Column, Setting, measured_cells, not_there, tasks_at_hand

DATASETS = {
    "MSCOCO": ("coco/i2t", "mbeir/mscoco_task3"),
    "NIGHTS": ("mbeir/nights_task4", "nights/test_retrieval"),
    "CIRR": ("mbeir/cirr_task7", "cirr/val"),
}
CUTS = (1, 5, 10)
# Appendix C, table 3.
_PRINTED = {
    "Qwen2-VL-7B-Instruct, Last token": (0.20, 2.65, 3.81, 1.89, 3.64, 5.88, 0.54, 1.49, 3.23),
    "Qwen2-VL-7B-Instruct, Mean pooling": (2.71, 8.48, 13.22, 7.55, 22.80, 39.11, 1.41, 6.09, 9.47),
    "Qwen3-VL-8B-Instruct, Last token": (0.34, 2.49, 3.86, 1.05, 2.96, 5.75, 0.49, 1.35, 3.38),
    "Qwen3-VL-8B-Instruct, Mean pooling": (2.76, 7.36, 11.28, 6.46, 20.14, 36.42, 1.01, 4.46, 17.03),
    "Paligemma2-3B-Mix-224, Last token": (1.63, 3.23, 5.81, 1.29, 4.26, 8.42, 0.43, 1.84, 4.16),
    "Paligemma2-3B-Mix-224, Mean pooling": (5.94, 14.22, 19.25, 8.96, 24.67, 44.79, 1.13, 9.06, 13.74),
}
COLUMNS = tuple(Column(f"{data} R@{k}", (data,), f"hit_rate@{k}") for data in DATASETS for k in CUTS)


def settings() -> tuple[Setting, ...]:
    """The release's wordings, read at either place."""
    return (
        Setting("Last token", "one_word", "last"),
        Setting("Mean pooling", "one_word", "mean", against="Last token"),
    )


def redo(bench: Bench) -> Redone:
    tasks, absent = tasks_at_hand(bench, DATASETS, [f"hit_rate@{k}" for k in CUTS])
    cells = measured_cells(bench, settings(), tasks, COLUMNS)
    differs = [
        "The paper's R@k is a hit rate; ours counts ties at their expected place.",
        "The paper does not say how many queries and candidates stand behind these numbers.",
        "The paper prints NIGHTS as image to text; it is image to image.",
    ]
    return Redone(tuple(cells), (*differs, *not_there(absent)))


TABLE = PUBLISHED.add(
    "giants-table-3",
    Published(
        name="giants-table-3",
        title="The last token's state against the mean over all tokens",
        paper=GIANTS,
        place="Table 3, appendix C",
        models={
            "Qwen2-VL-7B-Instruct": "Qwen/Qwen2-VL-7B-Instruct",
            "Qwen3-VL-8B-Instruct": "Qwen/Qwen3-VL-8B-Instruct",
            "Paligemma2-3B-Mix-224": "google/paligemma2-3b-mix-224",
        },
        data=tuple(DATASETS.values()),
        numbers={
            row: dict(zip([column.label for column in COLUMNS], values, strict=True))
            for row, values in _PRINTED.items()
        },
        redo=redo,
    ),
)
