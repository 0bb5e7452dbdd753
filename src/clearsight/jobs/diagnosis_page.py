"""From what was measured to the values of the page.

Legend of shapes: C concepts, E examples of a concept, N images, M texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.jobs.diagnosis import overlaps
from clearsight.jobs.naming import items_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from clearsight.concepts.findings import Finding
    from clearsight.jobs.compare import Outcome
    from clearsight.jobs.examine import Examined
    from clearsight.report.diagnosis import (
        AttentionEfficiency,
        ConceptTable,
        DiagnosisData,
        EnergyCurve,
        Examples,
        MapView,
        MeasureRow,
        ModalityDensity,
        ModelDiagnosis,
        OverlapRow,
        RetrievalRow,
    )
    from clearsight.run import Run

EXAMPLES = 6
"""Pictures, and as many texts, that are kept for each concept at either end."""
MAP_ITEMS = 1000
"""Items of each modality on the map."""
CURVE_POINTS = 200
RECONSTRUCTION = ("rows", "nmse", "explained_variance", "cosine", "l0", "shrinkage", "dead")


def page_of(
    run: Run, examined: Sequence[Examined], findings: Sequence[Finding], method: str
) -> DiagnosisData:
    """Everything on the page. Items stand on it once; all models share them by id."""
    from clearsight.jobs.compare import item_card, provenance
    from clearsight.report.diagnosis import DiagnosisData

    first = examined[0]
    task = first.subject.case.task
    known = items_of(task)
    place: dict[str, int] = {}
    models = tuple(_model(one, place, method) for one in examined)
    images, texts = first.subject.images.ids, first.subject.texts.ids
    pairs = [
        (place[images[image]], place[texts[text]])
        for image, text in first.subject.pairs_P2
        if images[image] in place and texts[text] in place
    ]
    measure = task.measures[0]
    before, after = (first.repaired[at].scores[measure] for at in (0, -1))
    return DiagnosisData(
        title=" and ".join(one.subject.name for one in examined),
        summary=f"{first.subject.name}, {first.subject.case.label}, {measure}: {before.mean:.1%} as it is, "
        f"{after.mean:.1%} repaired without training or labels; chance is {before.chance:.2%}.",
        models=models,
        findings=tuple(finding.sentence for finding in findings),
        items=tuple(item_card(known[name]) for name in place),
        pairs_Q2=np.array(pairs, dtype=np.int64).reshape(-1, 2),
        manifest=provenance(run),
        commands=(run.command,),
    )


def _model(one: Examined, place: dict[str, int], method: str) -> ModelDiagnosis:
    from clearsight.report.diagnosis import ModelDiagnosis

    return ModelDiagnosis(
        name=one.subject.name,
        concepts=_concepts(one, place),
        kind=one.subject.encoder.loaded.kind,
        sae=one.sae_line,
        notes=one.notes,
        density=_density(one),
        energy=_energy(one),
        overlap=_overlap_rows(one),
        geometry=_measures((outcome.recipe, outcome.geometry) for outcome in one.repaired),
        removal=_removal_rows(one),
        masking=_masking_rows(one),
        attention=_attention(one),
        reconstruction=_reconstruction(one),
        maps=_maps(one, place, method),
    )


def _concepts(one: Examined, place: dict[str, int]) -> ConceptTable:
    from clearsight.report.diagnosis import ConceptTable

    profile = one.profile
    rows = profile.images + profile.texts
    sides = ((one.image_codes, one.subject.images.ids), (one.text_codes, one.subject.texts.ids))
    bridge = dict(profile.bridge or {})
    return ConceptTable(
        energy_C=profile.energy_C,
        modality_C=profile.modality_score_C,
        firing_rate_C=(profile.image_firing_C + profile.text_firing_C) / rows,
        most=_examples(sides, place, strongest=True),
        least=_examples(sides, place, strongest=False),
        dead_C=one.dead_C & ~profile.alive_C,
        attribution_C=profile.attribution_C,
        bridge={str(name): score_C for name, score_C in bridge.items()},
        monosemanticity_C=one.monosemanticity_C,
        names=one.names,
    )


def _examples(
    sides: Sequence[tuple[csr_array, Sequence[str]]], place: dict[str, int], *, strongest: bool
) -> Examples:
    """For each concept the items of each modality with the highest (or lowest nonzero) codes."""
    from clearsight.report.diagnosis import NO_ITEM, Examples

    concepts = sides[0][0].shape[1]
    items_CE = np.full((concepts, EXAMPLES * len(sides)), NO_ITEM, dtype=np.int64)
    codes_CE = np.zeros(items_CE.shape, dtype=np.float32)
    for number, (codes, ids) in enumerate(sides):
        columns = codes.tocsc()
        for concept in range(concepts):
            span = slice(columns.indptr[concept], columns.indptr[concept + 1])
            value_S, row_S = columns.data[span], columns.indices[span]
            order = np.lexsort((row_S, -value_S if strongest else value_S))[:EXAMPLES]
            start = number * EXAMPLES
            for at, chosen in enumerate(order, start=start):
                items_CE[concept, at] = place.setdefault(ids[row_S[chosen]], len(place))
                codes_CE[concept, at] = value_S[chosen]
    return Examples(items_CE, codes_CE)


def _density(one: Examined) -> ModalityDensity | None:
    from clearsight.concepts import modality_density
    from clearsight.report.diagnosis import ModalityDensity

    score_C = one.profile.modality_score_C
    if np.isnan(score_C).all():
        return None
    plain = modality_density(score_C, points=129)
    weighted = modality_density(score_C, one.profile.energy_C, points=129)
    return ModalityDensity(plain.score_X, plain.density_X, weighted.density_X)


def _energy(one: Examined) -> EnergyCurve:
    from clearsight.concepts import energy_curve
    from clearsight.report.diagnosis import EnergyCurve

    curve = energy_curve(one.profile.energy_C, CURVE_POINTS)
    inside = curve.rank_X > 0  # drawn over a logarithm
    share = curve.rank_X[inside] / one.profile.concepts
    return EnergyCurve(share, curve.share_X[inside], curve.gini, curve.top_share)


def _overlap_rows(one: Examined) -> tuple[OverlapRow, ...]:
    from clearsight.report.diagnosis import Overlap, OverlapRow

    return tuple(
        OverlapRow(
            row.reduction,
            Overlap(**row.figures),
            Overlap(row.expected, row.expected, row.expected, row.expected_triple),
        )
        for row in overlaps(one)
    )


def _measures(rows: Any) -> tuple[MeasureRow, ...]:
    from clearsight.jobs.recipes import RECIPES
    from clearsight.report.diagnosis import MeasureRow

    return tuple(MeasureRow(RECIPES.get(name).label, values) for name, values in rows)


def _reconstruction(one: Examined) -> tuple[MeasureRow, ...]:
    from clearsight.report.diagnosis import MeasureRow

    return tuple(
        MeasureRow(split, {name: found.figures()[name] for name in RECONSTRUCTION})
        for split, found in one.reconstruction.items()
    )


def _removal_rows(one: Examined) -> tuple[RetrievalRow, ...]:
    """What the charts draw: the task's first measure, the method first. The tables hold the rest."""
    from clearsight.jobs.distractors import ATTRIBUTION, BASE, BOTTOM, CENTRING, DIRECTIONS, RANDOM

    if one.removal is None:
        return ()
    drawn = (BASE, CENTRING, ATTRIBUTION, RANDOM, BOTTOM, DIRECTIONS)
    measure = one.subject.case.task.measures[0]
    rows = [row for row in one.removal.rows if row.seed is None and row.arm in drawn]
    return tuple(
        _retrieval_row(
            row,
            measure,
            name=row.arm,
            direction=row.case,
            rank=None if row.arm in (BASE, CENTRING) else row.rank,
            control=row.arm not in (BASE, ATTRIBUTION),
        )
        for row in sorted(rows, key=lambda row: drawn.index(row.arm))
    )


def _masking_rows(one: Examined) -> tuple[RetrievalRow, ...]:
    from clearsight.report.diagnosis.data import BASE

    if one.masking is None:
        return ()
    return tuple(
        _retrieval_row(row, measure, name=row.label if row.against_base else BASE, direction=row.task)
        for row in one.masking.rows
        for measure in row.scores
    )


def _retrieval_row(row: Any, measure: str, **facts: Any) -> RetrievalRow:
    """One measure of a row of the removal sweep, or of the masking ablation."""
    from clearsight.report.diagnosis import RetrievalRow

    score = row.scores[measure]
    return RetrievalRow(
        measure=measure,
        mean=score.mean,
        low=score.low,
        high=score.high,
        p_value=row.against_base[measure].p_value if row.against_base else float("nan"),
        chance=score.chance,
        queries=score.judged,
        **facts,
    )


def _attention(one: Examined) -> AttentionEfficiency | None:
    from clearsight.models.attention import TYPES
    from clearsight.report.diagnosis import AttentionEfficiency

    found = one.attention
    if found is None:
        return None
    layers = tuple(range(1, found.layers + 1))
    return AttentionEfficiency(TYPES, layers, found.paper_KT, found.corrected_KT, found.sink_K)


def _maps(one: Examined, place: dict[str, int], method: str) -> tuple[MapView, ...]:
    from clearsight.jobs.recipes import RECIPES
    from clearsight.metrics.maps import embed_map
    from clearsight.report.diagnosis import MapView

    def view(outcome: Outcome) -> MapView:
        sides = (outcome.repaired.queries, outcome.repaired.candidates)
        parts = [side.take(np.arange(min(len(side), MAP_ITEMS))) for side in sides]
        placed = embed_map(np.concatenate([part.rows_ND for part in parts]), method=method)
        items_P: NDArray[np.int64] = np.array(
            [place.setdefault(name, len(place)) for part in parts for name in part.ids], dtype=np.int64
        )
        label = "before repair" if outcome.recipe == "base" else RECIPES.get(outcome.recipe).label
        return MapView(label, placed.method, items_P, placed.points_N2, placed.note)

    return view(one.repaired[0]), view(one.repaired[-1])
