"""From Generator to Embedder, figure 1: attention that system and user tokens are paid, each, by layer."""

from __future__ import annotations

import numpy as np

from clearsight.jobs.papers.base import EMBEDDER, NOT_AT_HAND, PUBLISHED, Cell, Published, Redone
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.drawings import lines
from clearsight.jobs.papers.settings import row_name

PICTURES = ("mmeb/ImageNet-R", "mmeb/OK-VQA", "mbeir/oven_task8", "coco/i2t", "world/composed")
"""Queries with an image; the paper does not say whose they are, the release shows three photographs."""
ITEMS = 32


def redo(bench: Bench) -> Redone:
    from clearsight.models.attention import TYPES, attention_efficiency

    task = bench.task(bench.tasks or PICTURES)
    items = [item for item in task.queries if item.image is not None][: bench.n or ITEMS]
    cells, curves = [], {}
    for model in bench.models:
        label = TABLE.label_of(model)
        encoder = bench.encoder(model, "hierarchical", "last")
        found = attention_efficiency(encoder, items, "query", progress=bench.progress)
        layers = np.arange(1, found.layers + 1)
        for place, kind in enumerate(TYPES):
            row = row_name(label, kind)
            curves[row] = layers, found.paper_KT[:, place]
            note = f"layer {found.release_layer + 1} of {found.layers}, {len(items)} items"
            cells += [
                Cell(row, "epsilon", float(found.release_T[place]), note=note),
                Cell(row, "corrected", float(found.corrected_KT[found.release_layer, place]), note=note),
            ]
    return Redone(
        tuple(cells),
        (
            f"The figure's values are {NOT_AT_HAND}, and so are its items: these are queries of {task.name}.",
            "epsilon is equation 1. It mixes what a model attends to with where a type stands: early tokens "
            "are seen by more rows, and the first draws attention that means nothing. 'corrected' compares "
            "with rows that look at all they can see alike, the first token set apart: 1 is indifference.",
            "A mean over layers' attention is no mean over queries: it has no interval.",
        ),
        {"attention": lines(curves, "layer", "attention a token")},
    )


TABLE = PUBLISHED.add(
    "embedder-figure-1",
    Published(
        name="embedder-figure-1",
        title="Attention that system and user tokens are paid, each, by layer",
        paper=EMBEDDER,
        place="Figure 1 and equation 1, section III-B",
        models={"Qwen2-VL-2B": "Qwen/Qwen2-VL-2B-Instruct"},
        data=(PICTURES,),
        numbers={},
        missing="the values, and which items they are of",
        redo=redo,
        unit="",
    ),
)
