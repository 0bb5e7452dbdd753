"""Generative Giants, figure 2: the density of concepts' modality scores."""

from __future__ import annotations

import numpy as np

from clearsight.jobs.papers.base import GIANTS, NOT_AT_HAND, PUBLISHED, Cell, Published, Redone
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.concepts import COCO, MODELS, SENTENCES, profiled
from clearsight.jobs.papers.drawings import lines

SHOWN = ("CLIP", "SigLIP2", "Qwen3-VL-8B-Instruct", "Paligemma2-3B-Mix-224")
EDGE = 0.1
"""A concept is specific to a modality where its score is this near to 0 (image) or 1 (text)."""


def redo(bench: Bench) -> Redone:
    from clearsight.concepts import modality_density

    cells, curves = [], {}
    for one in profiled(bench):
        score_C = one.profile.modality_score_C
        score_C = score_C[np.isfinite(score_C)]
        density = modality_density(score_C)
        curves[one.label] = density.score_X, density.density_X
        shares = {
            "image-specific": score_C < EDGE,
            "between": (score_C >= EDGE) & (score_C <= 1 - EDGE),
            "text-specific": score_C > 1 - EDGE,
        }
        for column, chosen_C in shares.items():
            note = f"of {len(score_C)} concepts that fire"
            cells.append(Cell(one.label, column, 100 * float(chosen_C.mean()), note=note))
    return Redone(
        tuple(cells),
        (
            *SENTENCES,
            f"The figure's curves are {NOT_AT_HAND} as numbers; ours stand alone, and so do the shares.",
            "A share of concepts is no mean over queries: it has no interval.",
        ),
        {"modality": lines(curves, "modality score: 0 image, 1 text", "density")},
    )


TABLE = PUBLISHED.add(
    "giants-figure-2",
    Published(
        name="giants-figure-2",
        title="The density of concepts' modality scores",
        paper=GIANTS,
        place="Figure 2, section 3.2",
        models={label: MODELS[label] for label in SHOWN},
        data=(COCO,),
        numbers={},
        missing="the curves",
        redo=redo,
    ),
)
