"""Further pairs without labels: mutual nearest neighbours under CSLS.

Legend of shapes: Q query rows, C candidate rows, E width of the mapped rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.repair.affine import Rows, unit_rows
from clearsight.repair.canonical import Canonical, canonical

Weighting: TypeAlias = Literal["margin", "equal"]
EVIDENT = 3.0
"""Standard errors of `matching` that are taken as proof: one in seven hundred by chance."""

WEIGHTINGS: tuple[Weighting, ...] = ("margin", "equal")

BLOCK = 1024
"""Rows scored at a time, on both sides: no Q x C matrix exists."""


@dataclass(frozen=True, slots=True)
class RefineRound:
    """What one round found.

    Attributes:
        pairs: mutual nearest neighbours.
        kept: how many of them the round before had found too.
        margin: mean margin of their scores over the runners-up.
    """

    pairs: int
    kept: int
    margin: float


@dataclass(frozen=True, slots=True)
class Refinement:
    """The record of a refinement.

    Attributes:
        rounds: the rounds that were kept, on all pairs; empty where the map was left as it was.
        matching: by how many standard errors images at hand single out a text more clearly than the images of
            the generated pairs do, which have no match there (see `matching`); None where nobody kept watch.
        held_out: mean reciprocal rank (0..1, both directions) of held-out generated pairs under the unrefined
            map and after each round tried; empty where `matching` was evidence enough, or nobody kept watch.
    """

    rounds: tuple[RefineRound, ...]
    matching: float | None
    held_out: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of `SelfAlign` and `SelfAlign.refine` that every round needs."""

    shrinkage: float
    components: int
    rounds: int
    neighbours: int
    weighting: Weighting


def refined(
    start: Canonical, pairs: tuple[Rows, Rows], at_hand: tuple[Rows, Rows], settings: Settings, folds: int
) -> tuple[Canonical, Refinement]:
    """Canonical maps fitted on pairs and on the mutual neighbours found among unpaired rows, round by round.

    All rows come normalised. Each of the four sets is centred on its own mean, so that captions in another
    style than the texts at hand do not shift the maps.

    With `folds`, all rounds are kept where the rows at hand show matches by themselves (`matching` above
    `EVIDENT`). Otherwise the number of rounds is the one under which generated pairs that were held out find
    each other best, and 0 where no number of rounds gains more than two standard errors.
    """
    image_NI, text_NT = (_centred(rows)[0] for rows in pairs)
    (image_QI, image_mean_I), (text_CT, text_mean_T) = (_centred(rows) for rows in at_hand)
    centred, loose = (image_NI, text_NT), (image_QI, text_CT)
    rounds, held_out = settings.rounds, np.zeros(0)
    evidence = matching(start, image_NI, image_QI, text_CT, settings.neighbours) if folds else None
    if evidence is not None and evidence <= EVIDENT:
        rank_RN = _held_out(centred, loose, settings, folds)
        held_out = rank_RN.mean(axis=1)
        rounds = int(held_out.argmax())
        gain_N = rank_RN[rounds] - rank_RN[0]
        if gain_N.mean() <= 2 * gain_N.std() / np.sqrt(len(gain_N)):
            rounds = 0
    if not rounds:
        return start, Refinement((), evidence, tuple(held_out.tolist()))
    steps, record = zip(*islice(_rounds(start, centred, loose, settings), rounds), strict=True)
    found = replace(steps[-1], image_mean_I=image_mean_I, text_mean_T=text_mean_T)
    return found, Refinement(record, evidence, tuple(held_out.tolist()))


def matching(
    found: Canonical, control_NI: Rows, image_QI: Rows, text_CT: Rows, neighbours: int = 10
) -> float:
    """Whether images at hand have matches among texts at hand, in standard errors; no label is used.

    An image with a match singles it out: the CSLS score of its best text stands clear of the second best.
    The images of the generated pairs have no match among these texts, so their margins show what chance
    gives. The figure is Welch's t of the two sets of margins, over equally many images; 0 for fewer than two.

    Args:
        control_NI, image_QI, text_CT: normalised rows, each set centred on its own mean.
    """
    count = min(len(control_NI), len(image_QI))
    texts = unit_rows((text_CT @ found.text_TK).astype(np.float32))
    margins = []
    for rows in (image_QI[:count], control_NI[:count]):
        images = unit_rows((rows @ found.image_IK).astype(np.float32))
        margins.append(_best(images, texts, _near(texts, images, neighbours))[1].astype(np.float64))
    error = float(np.sqrt(sum(margin_N.var(ddof=1) / count for margin_N in margins))) if count > 1 else 0.0
    return float(margins[0].mean() - margins[1].mean()) / error if error > 0 and np.isfinite(error) else 0.0


def _rounds(
    found: Canonical, pairs: tuple[Rows, Rows], at_hand: tuple[Rows, Rows], settings: Settings
) -> Iterator[tuple[Canonical, RefineRound]]:
    """Refit without end, or until the pairs found no longer change. Rows come centred."""
    (image_NI, text_NT), (image_QI, text_CT) = pairs, at_hand
    before: set[tuple[int, int]] = set()
    while True:
        index_P, other_P, margin_P = mutual_neighbours(
            image_QI @ found.image_IK, text_CT @ found.text_TK, settings.neighbours
        )
        weight_P = np.ones(len(index_P))
        if settings.weighting == "margin" and margin_P.sum() > 0 and np.isfinite(margin_P).all():
            weight_P = np.sqrt(margin_P / margin_P.mean(dtype=np.float64))
        found = canonical(
            np.concatenate([image_NI, image_QI[index_P]]),
            np.concatenate([text_NT, text_CT[other_P]]),
            np.concatenate([np.ones(len(image_NI)), weight_P]),
            settings.shrinkage,
            settings.components,
        )
        now = set(zip(index_P.tolist(), other_P.tolist(), strict=True))
        yield found, RefineRound(len(now), len(now & before), float(margin_P.mean()) if len(now) else 0.0)
        if now == before:
            return
        before = now


def _held_out(
    pairs: tuple[Rows, Rows], at_hand: tuple[Rows, Rows], settings: Settings, folds: int
) -> NDArray[np.float64]:
    """Reciprocal rank of every generated pair (rounds + 1, N), under maps fitted without it."""
    image_NI, text_NT = pairs
    fold_N = np.arange(len(image_NI)) % folds
    rank_RN = np.zeros((settings.rounds + 1, len(image_NI)))
    for fold in range(folds):
        out_N = fold_N == fold
        rest = image_NI[~out_N], text_NT[~out_N]
        found = canonical(*rest, None, settings.shrinkage, settings.components)
        rank_RN[:, out_N] = reciprocal_ranks(image_NI[out_N] @ found.image_IK, text_NT[out_N] @ found.text_TK)
        steps = islice(_rounds(found, rest, at_hand, settings), settings.rounds)
        for step, (found, _) in enumerate(steps, start=1):  # rounds that are not run any more keep the last
            rank_RN[step:, out_N] = reciprocal_ranks(
                image_NI[out_N] @ found.image_IK, text_NT[out_N] @ found.text_TK
            )
    return rank_RN


def reciprocal_ranks(left_NE: Rows, right_NE: Rows) -> NDArray[np.float64]:
    """1 / rank of row n among the others for row n, by cosine, mean of both directions; ties take half."""
    left, right = unit_rows(left_NE), unit_rows(right_NE)
    own_N1 = np.einsum("ne,ne->n", left, right)[:, None]
    total_N = np.zeros(len(left))
    for rows, others in ((left, right), (right, left)):
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            score_BN = rows[block] @ others.T
            np.fill_diagonal(score_BN[:, start:], -np.inf)
            above_B = (score_BN > own_N1[block]).sum(axis=1)
            total_N[block] += 0.5 / (1 + above_B + 0.5 * (score_BN == own_N1[block]).sum(axis=1))
    return total_N


def _centred(rows_ND: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean_D = rows_ND.mean(axis=0, dtype=np.float64)
    return rows_ND - mean_D, mean_D


def mutual_neighbours(
    left_QE: Rows, right_CE: Rows, neighbours: int = 10
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Pairs that are each other's best match, with their margins.

    The score is CSLS (Conneau et al. 2018, eq. 5-6): 2 cos(x, y) - r(x) - r(y), r the mean cosine to the
    nearest `neighbours` of the other side, which takes the hubs out.

    Args:
        left_QE, right_CE: rows in one space; norms are taken here.
        neighbours: at least 1; fewer where the other side has fewer rows.

    Returns:
        rows into left, rows into right (as long as there are pairs), and the margin of each pair: its score
        minus the better of the two runners-up.
    """
    left, right = (unit_rows(rows.astype(np.float32)) for rows in (left_QE, right_CE))
    near_Q, near_C = _near(left, right, neighbours), _near(right, left, neighbours)
    best_Q, margin_Q = _best(left, right, near_C)
    best_C, margin_C = _best(right, left, near_Q)
    index_Q = np.flatnonzero(best_C[best_Q] == np.arange(len(left)))
    other = best_Q[index_Q]
    return index_Q, other, np.minimum(margin_Q[index_Q], margin_C[other])


def _near(rows_AE: Rows, others_BE: Rows, neighbours: int) -> Rows:
    """Mean cosine of each row to its nearest others."""
    kept = min(neighbours, len(others_BE))
    near_A = np.empty(len(rows_AE), dtype=np.float32)
    for start in range(0, len(rows_AE), BLOCK):
        part_PE = rows_AE[start : start + BLOCK]
        top_PK = np.empty((len(part_PE), 0), dtype=np.float32)
        for other in range(0, len(others_BE), BLOCK):
            score_PB = part_PE @ others_BE[other : other + BLOCK].T
            top_PK = np.concatenate([top_PK, score_PB], axis=1)
            top_PK = np.partition(top_PK, -min(kept, top_PK.shape[1]), axis=1)[:, -kept:]
        near_A[start : start + BLOCK] = top_PK.mean(axis=1)
    return near_A


def _best(rows_AE: Rows, others_BE: Rows, near_B: Rows) -> tuple[NDArray[np.int64], Rows]:
    """The best other of each row by 2 cos - r(other), and its margin over the second best."""
    best_A, margin_A = np.empty(len(rows_AE), dtype=np.int64), np.empty(len(rows_AE), dtype=np.float32)
    for start in range(0, len(rows_AE), BLOCK):
        part_PE = rows_AE[start : start + BLOCK]
        score_P2 = np.full((len(part_PE), 2), -np.inf, dtype=np.float32)
        place_P = np.zeros(len(part_PE), dtype=np.int64)
        for other in range(0, len(others_BE), BLOCK):
            score_PB = 2 * (part_PE @ others_BE[other : other + BLOCK].T) - near_B[other : other + BLOCK]
            here_P = score_PB.argmax(axis=1)
            rows_P = np.arange(len(part_PE))
            first_P = score_PB[rows_P, here_P]
            score_PB[rows_P, here_P] = -np.inf
            three_P3 = np.sort(np.column_stack([score_P2, first_P, score_PB.max(axis=1)]), axis=1)
            place_P = np.where(first_P > score_P2.max(axis=1), other + here_P, place_P)
            score_P2 = three_P3[:, -2:]
        best_A[start : start + BLOCK] = place_P
        margin_A[start : start + BLOCK] = score_P2[:, 1] - score_P2[:, 0]
    return best_A, margin_A
