"""Generative Giants, figure 3: the cumulative energy of concepts by rank."""

from __future__ import annotations

from clearsight.jobs.papers.base import GIANTS, NOT_AT_HAND, PUBLISHED, Cell, Published, Redone
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.concepts import COCO, MODELS, SENTENCES, profiled
from clearsight.jobs.papers.drawings import lines


def redo(bench: Bench) -> Redone:
    from clearsight.concepts import energy_curve

    cells, curves = [], {}
    for one in profiled(bench):
        curve = energy_curve(one.profile.energy_C)
        inside = curve.rank_X > 0  # drawn over a logarithm
        curves[one.label] = curve.rank_X[inside], 100 * curve.share_X[inside]
        note = f"of {one.profile.concepts} concepts"
        cells += [
            Cell(one.label, "energy of the top 1%", 100 * curve.top_share, note=note),
            Cell(one.label, "Gini x 100", 100 * curve.gini, note=note),
        ]
    return Redone(
        tuple(cells),
        (
            *SENTENCES,
            f"The figure's curves are {NOT_AT_HAND} as numbers; ours stand alone.",
            "A share of energy is no mean over queries: it has no interval.",
        ),
        {"energy": lines(curves, "concepts, the strongest first", "energy, %", log_x=True)},
    )


TABLE = PUBLISHED.add(
    "giants-figure-3",
    Published(
        name="giants-figure-3",
        title="The cumulative energy of concepts by rank",
        paper=GIANTS,
        place="Figure 3, section 3.3",
        models=MODELS,
        data=(COCO,),
        numbers={},
        missing="the curves",
        redo=redo,
    ),
)
