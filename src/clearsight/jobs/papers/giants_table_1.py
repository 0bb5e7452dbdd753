"""Generative Giants, table 1: how far the top sets of concepts coincide."""

from __future__ import annotations

from clearsight.jobs.papers.base import GIANTS, PUBLISHED, Cell, Published, Redone
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.concepts import COCO, MODELS, SENTENCES, profiled

COLUMNS = {
    "J(energy, attribution)": "energy_attribution",
    "J(energy, bridge)": "energy_bridge",
    "J(attribution, bridge)": "attribution_bridge",
    "Triple overlap": "triple",
}
# Table 1, section 3.3.
_PRINTED = {
    "CLIP": (0.5674, 0.6831, 0.6126, 0.4796),
    "SigLIP2": (0.3948, 0.5775, 0.3783, 0.2915),
    "Qwen2-VL-7B-Instruct": (0.6494, 0.7957, 0.7146, 0.5989),
    "Qwen3-VL-8B-Instruct": (0.6610, 0.8547, 0.6700, 0.5486),
    "Paligemma2-3B-Mix-224": (0.7655, 0.8085, 0.7124, 0.6541),
    "Chameleon-7B": (0.6850, 0.8591, 0.7099, 0.5953),
}


def redo(bench: Bench) -> Redone:
    from clearsight.concepts import overlap

    cells = []
    for one in profiled(bench):
        found = overlap(one.profile)
        for column, name in COLUMNS.items():
            cells.append(
                Cell(
                    one.label,
                    column,
                    float(getattr(found, name)),
                    published=TABLE.number(one.label, column),
                    chance=found.expected_triple if name == "triple" else found.expected,
                    note=f"sets of {found.size} of {found.population} concepts",
                )
            )
    return Redone(
        tuple(cells),
        (
            *SENTENCES,
            "A Jaccard figure of two sets is no mean over queries: it has no interval; chance is what random "
            "sets of these sizes share.",
            "How a bridge matrix becomes one score a concept is not said; ours sums absolute values.",
        ),
    )


TABLE = PUBLISHED.add(
    "giants-table-1",
    Published(
        name="giants-table-1",
        title="How far the top sets of concepts coincide",
        paper=GIANTS,
        place="Table 1, section 3.3",
        models=MODELS,
        data=(COCO,),
        numbers={row: dict(zip(COLUMNS, values, strict=True)) for row, values in _PRINTED.items()},
        redo=redo,
        unit="",
    ),
)
