"""The concepts that lead by a figure, how much such sets overlap, and how much random sets would.

Legend of shapes: C concepts, M of a set.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from clearsight.concepts.codes import Floats, Ints
from clearsight.errors import DataError, UsageError

if TYPE_CHECKING:
    from clearsight.concepts.bridge import Reduction
    from clearsight.concepts.profile import ConceptProfile

TOP_SHARE = 0.01
"""The paper's top sets hold one percent of the concepts."""


def set_size(concepts: int, share: float = TOP_SHARE) -> int:
    """ceil(share C), at least 1: 328 of 32768, 7 of 700, 1 of 50.

    Raises:
        UsageError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"share is {share}.", do="Give a share above 0 and at most 1, such as 0.01.")
    # 0.01 * 700 is 7.000000000000001 in floating point: rounding it first keeps the set at 7.
    return max(1, math.ceil(round(share * concepts, 6)))


def top_set(
    score_C: Any, share: float = TOP_SHARE, *, among_C: NDArray[np.bool_] | None = None, lowest: bool = False
) -> Ints:
    """The concepts with the highest scores, ascending, int64: `set_size` of them, or all there are.

    Of equal scores the lower concept number goes first. NaN is never chosen.

    Args:
        share: of all concepts, dead ones included (as the paper counts).
        among_C: concepts that may be chosen, such as `ConceptProfile.alive_C`.
        lowest: the lowest scores instead.

    Raises:
        UsageError: scores that are not one number a concept, or a share outside (0, 1].
        DataError: no concept can be chosen.
    """
    score_C = np.asarray(score_C, dtype=np.float64)
    scored_C = ~np.isnan(score_C)
    chosen_C = scored_C if among_C is None else np.asarray(among_C)
    if score_C.ndim != 1 or chosen_C.shape != score_C.shape:
        raise UsageError(
            f"Scores of shape {score_C.shape}, a choice of shape {chosen_C.shape}.",
            do="Give one score, and one yes or no, for each concept.",
        )
    allowed = np.flatnonzero(chosen_C & scored_C)
    if not len(allowed):
        raise DataError("No concept is alive with a score.", do="Train the SAE longer, or on more vectors.")
    best_first = allowed[np.argsort(score_C[allowed] if lowest else -score_C[allowed], kind="stable")]
    return np.sort(best_first[: set_size(len(score_C), share)]).astype(np.int64)


def jaccard(*sets: Collection[int] | Ints) -> float:
    """Shared by all / in any of the sets (eq. 7; with three sets the paper's triple overlap). 0..1.

    Raises:
        UsageError: fewer than two sets, or all empty.
    """
    members = [set(np.asarray(one).tolist()) for one in sets]
    union = set().union(*members)
    if len(members) < 2 or not union:
        raise UsageError("A Jaccard figure needs two sets, not all of them empty.")
    return len(set.intersection(*members)) / len(union)


def expected_jaccard(population: int, *sizes: int) -> float:
    """What `jaccard` is on average for random sets of these sizes, drawn independently from one population.

    Exact (to 1e-9 of it) for two and three sets: with |A & B| hypergeometric, and for the third set its hits
    within A & B and within the rest of the union, summed over all outcomes that have weight.

    Raises:
        UsageError: sizes outside 1..population, or neither two nor three of them.
    """
    if len(sizes) not in (2, 3) or not all(1 <= size <= population for size in sizes):
        raise UsageError(
            f"Random sets of sizes {sizes} from {population}.",
            do="Give two or three sizes from 1 to the population.",
        )
    first, second = sizes[:2]
    expected = 0.0
    for shared, weight in zip(*_outcomes(population, first, second), strict=True):
        union = first + second - shared
        if len(sizes) == 2:
            expected += weight * shared / union
            continue
        # The third set's hits: first within A & B, then, of what it has left, within the rest of the union.
        for all_three, weight_3 in zip(*_outcomes(population, shared, sizes[2]), strict=True):
            left = sizes[2] - all_three
            hits, chance = _outcomes(population - shared, union - shared, left)
            expected += weight * weight_3 * float(chance @ (all_three / (union + left - hits)))
    return float(expected)


def _outcomes(population: int, marked: int, drawn: int) -> tuple[Ints, Floats]:
    """How many of the drawn are marked, with its probability; outcomes below 1e-16 together are left out."""
    hits = np.arange(max(0, drawn + marked - population), min(marked, drawn) + 1)

    def choices(of: int, take: Ints | int) -> Floats:
        return np.asarray(gammaln(of + 1) - gammaln(np.add(take, 1)) - gammaln(np.subtract(of + 1, take)))

    weight = np.exp(
        choices(marked, hits) + choices(population - marked, drawn - hits) - choices(population, drawn)
    )
    kept = weight > 1e-16 / len(hits)
    return hits[kept], weight[kept]


@dataclass(frozen=True)
class Overlap:
    """One row of the paper's Table 1, with what random sets of the same sizes would show.

    Attributes:
        reduction: how the bridge matrix became one score a concept.
        size: concepts of each set.
        population: concepts that are alive; sets, and the random ones they are compared with, are taken
            from these.
        energy_attribution, energy_bridge, attribution_bridge: Jaccard figures of two sets; 0..1.
        triple: shared by all three / in any.
        expected: the mean Jaccard of two random sets. expected_triple: of three.
    """

    reduction: Reduction
    size: int
    population: int
    energy_attribution: float
    energy_bridge: float
    attribution_bridge: float
    triple: float
    expected: float
    expected_triple: float

    @property
    def figures(self) -> Mapping[str, float]:
        return {
            "energy_attribution": self.energy_attribution,
            "energy_bridge": self.energy_bridge,
            "attribution_bridge": self.attribution_bridge,
            "triple": self.triple,
        }


def top_sets(
    profile: ConceptProfile, share: float = TOP_SHARE, reduction: Reduction = "abs"
) -> dict[str, Ints]:
    """The top sets by "energy", "attribution" and "bridge", of the concepts that are alive.

    Raises:
        DataError: the profile has no pairs or no bridge scores.
    """
    scores = {
        "energy": profile.energy_C,
        "attribution": profile.influence_C(),
        "bridge": profile.bridge_C(reduction),
    }
    return {name: top_set(score_C, share, among_C=profile.alive_C) for name, score_C in scores.items()}


def overlap(profile: ConceptProfile, share: float = TOP_SHARE, reduction: Reduction = "abs") -> Overlap:
    """Jaccard figures of the three top sets, beside those expected of random sets.

    Raises:
        DataError: the profile has no pairs or no bridge scores.
    """
    sets = top_sets(profile, share, reduction)
    energy, influence, bridging = sets["energy"], sets["attribution"], sets["bridge"]
    population, size = int(profile.alive_C.sum()), len(energy)
    return Overlap(
        reduction=reduction,
        size=size,
        population=population,
        energy_attribution=jaccard(energy, influence),
        energy_bridge=jaccard(energy, bridging),
        attribution_bridge=jaccard(influence, bridging),
        triple=jaccard(energy, influence, bridging),
        expected=expected_jaccard(population, size, size),
        expected_triple=expected_jaccard(population, size, size, size),
    )


def overlap_table(profile: ConceptProfile, share: float = TOP_SHARE) -> tuple[Overlap, ...]:
    """`overlap` for every reduction of the bridge."""
    return tuple(overlap(profile, share, name) for name in profile.bridge or {})
