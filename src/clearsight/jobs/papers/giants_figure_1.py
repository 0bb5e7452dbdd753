"""Generative Giants, figure 1: generative models beside CLIP on CIRR."""

from __future__ import annotations

from clearsight.jobs.papers.base import GIANTS, NOT_AT_HAND, PUBLISHED, Published, Redone
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.drawings import bars
from clearsight.jobs.papers.settings import Column, Setting, measured_cells

CIRR = ("mbeir/cirr_task7", "cirr/val")
CUTS = (1, 5, 10)
COLUMNS = tuple(Column(f"R@{k}", ("CIRR",), f"hit_rate@{k}") for k in CUTS)


def settings() -> tuple[Setting, ...]:
    """As the paper embeds everywhere unless it says otherwise: the mean over all tokens."""
    return (Setting("", "one_word", "mean"),)


def redo(bench: Bench) -> Redone:
    tasks = {"CIRR": bench.task(CIRR, [f"hit_rate@{k}" for k in CUTS])}
    cells = measured_cells(bench, settings(), tasks, COLUMNS)
    return Redone(
        tuple(cells),
        (
            f"The figure's values are {NOT_AT_HAND}; ours stand alone.",
            "A contrastive model's image and text features are added to one query vector; the paper does not "
            "say how it combines them.",
        ),
        {"performance": bars(cells, "CIRR")},
    )


TABLE = PUBLISHED.add(
    "giants-figure-1",
    Published(
        name="giants-figure-1",
        title="Generative models beside CLIP on CIRR",
        paper=GIANTS,
        place="Figure 1, introduction",
        models={
            "CLIP": "openai/clip-vit-base-patch32",
            "SigLIP2": "google/siglip2-base-patch16-512",
            "Qwen2-VL-7B": "Qwen/Qwen2-VL-7B-Instruct",
            "Qwen3-VL-8B": "Qwen/Qwen3-VL-8B-Instruct",
            "PaliGemma2-3B": "google/paligemma2-3b-mix-224",
            "Chameleon-7B": "facebook/chameleon-7b",
        },
        data=(CIRR,),
        numbers={},
        missing="the bars' values",
        redo=redo,
    ),
)
