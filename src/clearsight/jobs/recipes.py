"""Named repairs as the tables show them: from the two sides of a task to the two sides repaired.

A recipe sees vectors and, where it asks for them, pairs that the model made itself; it never sees relevance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from clearsight.errors import UsageError
from clearsight.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clearsight.repair import PerGroup
    from clearsight.repair.groups import FitOn
    from clearsight.types import Embeddings, RowSource


@dataclass(frozen=True)
class Sides:
    """The vectors of one task under one embedding.

    Attributes:
        candidates: in memory, or read as they are asked for, for recipes that stream.
        fit_on: whose statistics a repair without pairs takes: sides, candidates, joint or modality.
        pairs: vectors of unlabelled images and of the model's own captions of them, row by row.
        shrinkage: 0..1, in place of the recipe's own.
    """

    queries: Embeddings
    candidates: RowSource
    fit_on: FitOn = "sides"
    pairs: tuple[Embeddings, Embeddings] | None = None
    shrinkage: float | None = None

    def shrinkage_or(self, own: float) -> float:
        return own if self.shrinkage is None else self.shrinkage


@dataclass(frozen=True)
class Repaired:
    """Both sides after a repair, the fitted repair, and what it found out on the way."""

    queries: Embeddings
    candidates: RowSource
    fitted: PerGroup | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def turned(self) -> Repaired:
        """The same vectors with the sides exchanged, where the prompt words both sides alike."""
        candidates = in_memory(self.candidates)
        return replace(
            self,
            queries=replace(candidates, side_N=self.queries.side_N[:1].repeat(len(candidates))),
            candidates=replace(self.queries, side_N=candidates.side_N[:1].repeat(len(self.queries))),
        )


@dataclass(frozen=True)
class Recipe:
    """A named repair.

    Attributes:
        label: how tables name it.
        against: the recipe that its paired test compares with.
        apply: from sides to repaired sides.
        streams: whether candidates may be read as they are asked for; else all are needed at once.
    """

    label: str
    against: str | None
    apply: Callable[[Sides], Repaired]
    streams: bool = True


RECIPES: Registry[Recipe] = Registry("recipe")

SAMPLE_ROWS = 20_000
"""Rows of a pool outside memory that are looked at where a look at some is enough."""


def in_memory(rows: RowSource) -> Embeddings:
    """The rows, all of them."""
    from clearsight.types import Embeddings

    return rows if isinstance(rows, Embeddings) else rows.take(np.arange(len(rows)))


def sample(rows: RowSource, most: int = SAMPLE_ROWS, seed: int = 0) -> Embeddings:
    """All rows of what is in memory; of a pool outside it at most `most`, drawn with `seed`, in order."""
    from clearsight.repair.streamed import RepairedRows
    from clearsight.types import Embeddings

    if isinstance(rows, Embeddings):
        return rows
    if len(rows) <= most:
        return in_memory(rows)
    drawn = np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))
    return rows.glance(drawn) if isinstance(rows, RepairedRows) else rows.take(drawn)


def _base(sides: Sides) -> Repaired:
    return Repaired(sides.queries, sides.candidates)


def _statistics(estimator: Any, sides: Sides, **notes: Any) -> Repaired:
    from clearsight.repair import fit_repair

    fitted = fit_repair(estimator, sides.queries, sides.candidates, fit_on=sides.fit_on)
    return Repaired(fitted.transform(sides.queries), fitted.transform(sides.candidates), fitted, notes)


def _centred(sides: Sides) -> Repaired:
    from clearsight.repair import Centre

    return _statistics(Centre(), sides)


def _realign(sides: Sides) -> Repaired:
    """Shrinkage fixed a priori at 0.5 (no label, no look at the task)."""
    from clearsight.repair import ShrinkageZCA

    shrinkage = sides.shrinkage_or(0.5)
    return _statistics(ShrinkageZCA(shrinkage=shrinkage), sides, shrinkage=shrinkage)


def _realign_release(sides: Sides) -> Repaired:
    """The authors' arithmetic: shrinkage 0.1, absolute eps 1e-5, each side by its own statistics."""
    from clearsight.repair import ShrinkageZCA

    return _statistics(ShrinkageZCA(preset="release"), sides, shrinkage=0.1)


def _realign_chosen(sides: Sides) -> Repaired:
    """Shrinkage by the label-free rule: images and the model's own captions of them as two views of an item;
    without pairs the a priori 0.5, with the sweep's hubness (of a sample, where the pool is not in memory)
    beside it."""
    from clearsight.repair import ShrinkageZCA, choose_shrinkage

    views = (sample(sides.candidates), None) if sides.pairs is None else sides.pairs
    choice = choose_shrinkage(views[0].rows_ND, None if views[1] is None else views[1].rows_ND)
    return _statistics(ShrinkageZCA(shrinkage=choice.value), sides, shrinkage=choice.value, choice=choice)


def _self_aligned(sides: Sides) -> Repaired:
    return _recentred(_fit_pairs(sides), sides)


def _recentred(fitted: PerGroup, sides: Sides, **notes: Any) -> Repaired:
    queries = fitted.transform(sides.queries, recentre=True)
    return Repaired(queries, fitted.transform(sides.candidates, recentre=True), fitted, notes)


def _refined(sides: Sides) -> Repaired:
    fitted = _fit_pairs(sides)
    assert sides.pairs is not None
    further, record = fitted.refine(sides.pairs, *_images_and_texts(sides))
    return _recentred(further, sides, refinement=record)


def _images_and_texts(sides: Sides) -> tuple[Embeddings, Embeddings]:
    """The side of images and the side of texts.

    Raises:
        UsageError: the task has not one of each.
    """
    queries, candidates = sides.queries, in_memory(sides.candidates)
    kinds = [set(side.modality_N.tolist()) for side in (queries, candidates)]
    if kinds == [{"image"}, {"text"}]:
        return queries, candidates
    if kinds == [{"text"}, {"image"}]:
        return candidates, queries
    raise UsageError(
        f"Refinement finds pairs of an image and a text; this task has {sorted(kinds[0])} queries and "
        f"{sorted(kinds[1])} candidates.",
        do="Leave refined out of --repairs.",
    )


def _fit_pairs(sides: Sides) -> PerGroup:
    from clearsight.repair import PerGroup, SelfAlign

    if sides.pairs is None:
        raise _no_pairs()
    return PerGroup(SelfAlign(shrinkage=sides.shrinkage_or(0.1))).fit_pairs(*sides.pairs)


def _no_pairs() -> UsageError:
    return UsageError(
        "Self-alignment needs unlabelled images captioned by the model.",
        do="Give --unlabelled (a folder of images, or a number to take from the task's own images), "
        "or leave self_aligned, refined and chosen out of --repairs.",
    )


FROM_SIMPLE_TO_STRONG = ("base", "centred", "realign", "self_aligned")
FOLDS = 4


def _chosen(sides: Sides) -> Repaired:
    """The repair under which held-out generated pairs find each other best: no label is seen.

    The simplest one stands unless a stronger one gains more than two standard errors of the paired
    difference in reciprocal rank. Self-alignment, where it wins, is refined under its own watch.
    """
    from clearsight.repair.refine import reciprocal_ranks

    if sides.pairs is None:
        raise _no_pairs()
    fold_N = np.arange(len(sides.pairs[0])) % FOLDS
    ranks: dict[str, list[NDArray[np.float64]]] = {name: [] for name in FROM_SIMPLE_TO_STRONG}
    for fold in range(FOLDS):
        train, held = (tuple(part.take(chosen) for part in sides.pairs) for chosen in _split(fold_N, fold))
        for name in FROM_SIMPLE_TO_STRONG:
            fitted = RECIPES.get(name).apply(replace(sides, pairs=(train[0], train[1]))).fitted
            images, captions = (part if fitted is None else fitted.transform(part) for part in held)
            ranks[name].append(reciprocal_ranks(images.rows_ND, captions.rows_ND))
    rank_N = {name: np.concatenate(parts) for name, parts in ranks.items()}
    best = FROM_SIMPLE_TO_STRONG[0]
    for name in FROM_SIMPLE_TO_STRONG[1:]:
        gain_N = rank_N[name] - rank_N[best]
        if gain_N.mean() > 2 * gain_N.std() / np.sqrt(len(gain_N)):
            best = name
    both = (sides.queries, in_memory(sides.candidates))
    kinds = {kind for side in both for kind in side.modality_N.tolist()}
    winner = "refined" if best == "self_aligned" and kinds == {"image", "text"} else best
    repaired = RECIPES.get(winner).apply(sides)
    seen = {name: float(values.mean()) for name, values in rank_N.items()}
    return replace(repaired, notes={**repaired.notes, "chosen": winner, "held_out": seen})


def _split(fold_N: NDArray[np.int64], fold: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return fold_N != fold, fold_N == fold


RECIPES.add("base", Recipe("base", None, _base))
RECIPES.add("centred", Recipe("centred", "base", _centred))
RECIPES.add("realign", Recipe("ReAlign", "centred", _realign))
RECIPES.add("realign_release", Recipe("ReAlign (release)", "centred", _realign_release))
RECIPES.add("realign_chosen", Recipe("ReAlign (label-free)", "centred", _realign_chosen))
RECIPES.add("self_aligned", Recipe("self-aligned", "realign", _self_aligned))
RECIPES.add("refined", Recipe("refined", "self_aligned", _refined, streams=False))
RECIPES.add("chosen", Recipe("chosen without labels", "base", _chosen, streams=False))
