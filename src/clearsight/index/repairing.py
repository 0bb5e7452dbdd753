"""Fitting a repair to a collection, without labels: what of, how, and from which texts.

Legend of shapes: N rows, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError
from clearsight.index.fitted import Fitted
from clearsight.index.settings import RepairName
from clearsight.index.statistics import Spread, raw_rows
from clearsight.moments import Moments
from clearsight.repair import Centre, PerGroup, SelfAlign, ShrinkageZCA
from clearsight.repair.affine import unit_rows
from clearsight.repair.refine import reciprocal_ranks
from clearsight.types import Embeddings

if TYPE_CHECKING:
    from clearsight.repair import Repair
    from clearsight.store.door import View

Pairs = tuple[Embeddings, Embeddings]
"""Pictures of the collection and the model's own captions of them, row by row."""

LEAST_PAIRS = 48
"""Fewer do not make a self-alignment: measured on the shipped model, gallery 400, texts to pictures, hit
rate@1 and @10 in %: 32 pairs 46.2, 82.5 (ReAlign 59.8, 85.2); 48 pairs 68.2, 90.8 (60.2, 86.2); 400 pairs
92.0, 98.0."""
SHRINKAGE = 0.5
"""Of both: ReAlign's a priori value. Self-alignments of tables take 0.1, for thousands of pairs; with a
collection's few it costs (64 pairs: 49.5 at 0.1, 75.5 at 0.5; 400 pairs: 91.0 and 92.0)."""
LEAST_ROWS = 16
"""A modality of fewer rows takes another's map, or stands on its captions."""
LEAST_BESIDE = 100
"""Texts beside pictures, fewer of which say too little of queries: see `by_default`."""
LEAST_TO_CENTRE = 32
"""A side of fewer rows is centred where the map was fitted."""
IN_MEMORY = 8192
"""Rows of a modality that a whitening is fitted on at once, which is faster where they are fewer than D."""
GROWN = 4
"""A collection this many times larger than the one a repair was fitted on deserves a new one."""
FOLDS = 4
SIMPLE_TO_STRONG: tuple[RepairName, ...] = ("none", "centred", "realign", "self_aligned")


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a repair is fitted from.

    Attributes:
        repair: by name; "auto" chooses by what there is.
        moments: modality -> moments of the collection's vectors, of length 1.
        pairs: None where the model writes no captions, or there are too few pictures.
        texts: vectors of texts that stand for queries, where the collection has few texts of its own, or
            fewer than pictures.
        queries: modality -> where real queries lie, if that was learnt.
    """

    repair: RepairName
    moments: Mapping[str, Moments]
    pairs: Pairs | None = None
    texts: Embeddings | None = None
    queries: Mapping[str, Spread] = field(default_factory=dict)


def by_default(*, generative: bool, pairs: int, texts: int) -> RepairName:
    """What "auto" stands for.

    A model that writes no captions gets ReAlign where enough texts beside the pictures say how queries lie.
    Measured on the shipped contrastive model, texts to pictures, hit rate@1 in % without repair and with
    ReAlign: 400 pictures alone 79.5, 78.8; with texts beside them 79.5, 87.2; 300 pictures and 31 texts like
    the queries 84.0, 80.0, 100 such texts 84.0, 88.0, 100 texts of another kind 84.0, 12.7.

    Args:
        pairs: pictures that were captioned.
        texts: beside pictures of the collection.
    """
    if not generative:
        return "realign" if texts >= LEAST_BESIDE else "none"
    return "self_aligned" if pairs >= LEAST_PAIRS else "realign"


def fit(view: View, name: str, wanted: Wanted, *, generative: bool) -> Fitted:
    """Fit what is wanted to the rows of a store.

    Raises:
        UsageError: self-alignment without enough pictures that the model has captioned.
    """
    pairs = 0 if wanted.pairs is None else len(wanted.pairs[0])
    chosen = wanted.repair
    if chosen == "auto":
        beside = 0 if wanted.texts is None else len(wanted.texts)
        chosen = by_default(generative=generative, pairs=pairs, texts=beside)
    facts: dict[str, Any] = {"asked": wanted.repair}
    if chosen == "chosen":
        if wanted.pairs is None or pairs < 4 * FOLDS:
            raise _too_few(pairs)
        chosen, facts["held_out"] = _choose(wanted.pairs)
    facts |= {"repair": chosen, "pairs": pairs, "rows": _counts(wanted.moments)}
    if chosen == "none":
        return Fitted(name="", facts=facts)
    if chosen == "self_aligned":
        if wanted.pairs is None or pairs < 4:
            raise _too_few(pairs)
        repair = PerGroup(SelfAlign(shrinkage=SHRINKAGE)).fit_pairs(*wanted.pairs)
        return _centred(Fitted(name, repair, facts=facts), wanted)
    estimator = Centre() if chosen == "centred" else ShrinkageZCA(shrinkage=SHRINKAGE)
    repair = _by_modality(estimator, view, wanted)
    if not repair.repairs_:
        return Fitted(name="", facts=facts | {"repair": "none", "because": "there are too few rows"})
    return _centred(Fitted(name, repair, facts=facts), wanted)


def _counts(moments: Mapping[str, Moments]) -> dict[str, int]:
    return {modality: int(one.count) for modality, one in moments.items()}


def _too_few(pairs: int) -> UsageError:
    return UsageError(
        f"Self-alignment needs pictures that the model has captioned; there are {pairs}.",
        where="--repair",
        do=f"Give a generative model and {LEAST_PAIRS} pictures or more, or choose realign or none.",
    )


def _centred(fitted: Fitted, wanted: Wanted) -> Fitted:
    """Each side centred on what is known of it: candidates on the collection; queries on real ones, else
    texts on the captions (or texts) that stand for them, else on the collection."""
    assert fitted.repair is not None
    spreads = {f"candidate {modality}": Spread.of(one) for modality, one in wanted.moments.items()}
    of_queries = dict(wanted.queries)
    texts = wanted.texts if wanted.texts is not None or wanted.pairs is None else wanted.pairs[1]
    if texts is not None and "text" not in of_queries:
        of_queries["text"] = Spread.of(Moments().update(unit_rows(texts.rows_ND)))
    for modality in wanted.moments:
        of_queries.setdefault(modality, spreads[f"candidate {modality}"])
    spreads |= {f"query {modality}": one for modality, one in of_queries.items()}
    centres: dict[str, NDArray[np.float32]] = {}
    for name, spread in spreads.items():
        if spread.count >= LEAST_TO_CENTRE:
            group = fitted.group(name.partition(" ")[2])
            centres[name] = (
                fitted.repair.repairs_[group].affine_.apply(spread.mean_D[None])[0].astype(np.float32)
            )
    return Fitted(fitted.name, fitted.repair, centres, fitted.facts, spreads)


def _by_modality(estimator: Repair, view: View, wanted: Wanted) -> PerGroup:
    """One clone of the estimator for each modality with rows enough. Texts stand on captions where these are
    more: few texts of another kind would say nothing of queries (measured on the shipped model, 300 pictures
    and 31 notes, texts to pictures, hit rate@1 in %: on the notes 7.3, on captions 66.0)."""
    from sklearn.base import clone

    counts = _counts(wanted.moments)
    kept: dict[str, list[NDArray[np.float32]]] = {}
    repairs: dict[str, Any] = {}
    for _, modality_N, rows_ND in raw_rows(view):
        for modality in np.unique(modality_N).tolist():
            if counts.get(modality, 0) < LEAST_ROWS or not _varied(wanted.moments[modality]):
                continue
            rows = rows_ND[modality_N == modality]
            if counts[modality] <= IN_MEMORY:
                kept.setdefault(modality, []).append(rows)
            else:
                repairs.setdefault(modality, clone(estimator)).partial_fit(rows)
    for modality, parts in kept.items():
        repairs[modality] = clone(estimator).fit(np.concatenate(parts))
    stand_ins = 0 if wanted.texts is None else len(wanted.texts)
    if wanted.texts is not None and stand_ins >= LEAST_ROWS and stand_ins > counts.get("text", 0):
        repairs["text"] = clone(estimator).fit(wanted.texts.rows_ND)
    whole = PerGroup(estimator, "modality")
    whole.repairs_ = repairs
    return whole


def _varied(moments: Moments) -> bool:
    return moments.trace > 1e-10 * moments.count


def _choose(pairs: Pairs) -> tuple[RepairName, dict[str, float]]:
    """The repair under which held-out pictures and captions find each other best; the simplest one stands
    unless a stronger one gains more than two standard errors of the paired difference."""
    fold_N = np.arange(len(pairs[0])) % FOLDS
    ranks: dict[RepairName, list[NDArray[np.float64]]] = {name: [] for name in SIMPLE_TO_STRONG}
    for fold in range(FOLDS):
        images, texts = (part.take(fold_N != fold) for part in pairs)
        held = tuple(part.take(fold_N == fold) for part in pairs)
        for name in SIMPLE_TO_STRONG:
            repair = _TRIED[name](images, texts)
            rows = [part if repair is None else repair.transform(part) for part in held]
            ranks[name].append(reciprocal_ranks(rows[0].rows_ND, rows[1].rows_ND))
    rank_N = {name: np.concatenate(parts) for name, parts in ranks.items()}
    best = SIMPLE_TO_STRONG[0]
    for name in SIMPLE_TO_STRONG[1:]:
        gain_N = rank_N[name] - rank_N[best]
        if gain_N.mean() > 2 * gain_N.std() / np.sqrt(len(gain_N)):
            best = name
    return best, {name: float(one.mean()) for name, one in rank_N.items()}


_TRIED: dict[RepairName, Callable[[Embeddings, Embeddings], PerGroup | None]] = {
    "none": lambda images, texts: None,
    "centred": lambda images, texts: PerGroup(Centre(), "modality").fit(images, texts),
    "realign": lambda images, texts: PerGroup(ShrinkageZCA(shrinkage=SHRINKAGE), "modality").fit(
        images, texts
    ),
    "self_aligned": lambda images, texts: PerGroup(SelfAlign(shrinkage=SHRINKAGE)).fit_pairs(images, texts),
}
