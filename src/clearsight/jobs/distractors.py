"""Removal of distractor concepts, swept over how much is removed, beside the controls that make it mean
something.

Legend of shapes: C concepts, D width, M concepts of a set, R directions that are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.jobs.sides import Case, Sides
from clearsight.jobs.trials import Scores, Tests, flat, mean_of, scored, tested

if TYPE_CHECKING:
    from clearsight.concepts import ConceptProfile
    from clearsight.concepts.findings import Finding
    from clearsight.progress import Progress
    from clearsight.repair import Repair
    from clearsight.repair.groups import FitOn

ENERGY = 0.99
SEEDS = (0, 1, 2, 3, 4)
LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BASE, ATTRIBUTION, RANDOM, BOTTOM = "base", "top attribution", "random concepts", "bottom attribution"
WITH_BIAS = "top attribution with bias"
DIRECTIONS, COMPONENTS, CENTRING = "principal directions", "centred components", "centring"


@dataclass(frozen=True)
class RemovalRow:
    """One variant of one case.

    Attributes:
        case: the case's label.
        arm: what was removed; the module's constants.
        rank: R; 0 for base and centring.
        concepts: M; 0 where no concepts were chosen.
        energy: share of those concepts' squared singular values that the R directions hold; NaN without.
        seed: of random concepts; None for everything else and for the mean over seeds.
        default: whether R is the one fixed before looking: the smallest with 99% of the energy of the
            top-attribution concepts.
        scores: measure -> score.
        against_base, against_random: paired tests by measure; the latter against the mean over the seeds of
            random concepts at the same R. Empty for what is compared with.
    """

    case: str
    arm: str
    rank: int
    concepts: int
    energy: float
    seed: int | None
    default: bool
    scores: Scores
    against_base: Tests = field(default_factory=dict)
    against_random: Tests = field(default_factory=dict)


@dataclass(frozen=True)
class DistractorSweep:
    """Every variant, in the order: case by case, base first.

    Attributes:
        default_rank: see `RemovalRow.default`.
        concepts: the top-attribution concepts, ascending.
    """

    rows: tuple[RemovalRow, ...]
    default_rank: int
    concepts: tuple[int, ...]

    def find(self, case: str, arm: str, rank: int | None = None) -> RemovalRow:
        """The row of an arm at R (the default, unless given); of random concepts their mean.

        Raises:
            UsageError: there is none.
        """
        wanted = 0 if arm in (BASE, CENTRING) else self.default_rank if rank is None else rank
        for row in self.rows:
            if (row.case, row.arm, row.rank, row.seed) == (case, arm, wanted, None):
                return row
        raise UsageError(f"The sweep has no {arm!r} of rank {wanted} for {case!r}.")

    def findings(self, measure: str | None = None, arm: str = ATTRIBUTION) -> tuple[Finding, ...]:
        """The paper's claim, case by case, at the default R; on the task's first measure unless another is
        named; of the arm `WITH_BIAS` where that is asked for."""
        from clearsight.concepts.findings import removal_helps

        found = []
        for case in dict.fromkeys(row.case for row in self.rows):
            base, removal = self.find(case, BASE), self.find(case, arm)
            name = measure or next(iter(base.scores))
            found.append(
                removal_helps(
                    case,
                    name,
                    base.scores[name].mean,
                    removal.scores[name].mean,
                    removal.against_base[name],
                    removal.against_random[name],
                )
            )
        return tuple(found)

    def records(self) -> list[dict[str, Any]]:
        """One record for each row and measure, of plain values, for parquet and JSON."""
        names = ("case", "arm", "rank", "concepts", "energy", "seed", "default")
        return [
            record
            for row in self.rows
            for record in flat(
                {name: getattr(row, name) for name in names},
                row.scores,
                {"base": row.against_base, "random": row.against_random},
            )
        ]


def sweep_distractors(
    cases: Sequence[Case],
    dictionary_CD: Any,
    profile: ConceptProfile,
    *,
    share: float = 0.01,
    ranks: Sequence[int] | None = None,
    seeds: Sequence[int] = SEEDS,
    k: int = 10,
    progress: Progress | None = None,
) -> DistractorSweep:
    """Remove R directions of the top-attribution concepts (eq. 8-10), and of controls, for a ladder of R.

    Arms: top attribution, and where the SAE has a bias also the top attribution that counts it (a centred
    SAE's bias holds what all vectors share, which the paper's SAEs had to spend concepts on); as many random
    concepts that are alive and not among the first, once a seed; as many of the lowest attribution; the
    leading directions of the vectors themselves (of both sides together, uncentred: as many directions as the
    removal takes, without any SAE); each side centred with its R top components removed; centring alone.
    Attribution is learnt from the pairs of `profile`: where these are the task's own pairs, the removal has
    seen labels, and the controls that need no attribution have not.

    Args:
        cases: ways of retrieval over vectors of the dictionary's width.
        dictionary_CD: directions, or an SAE.
        profile: with pairs; its bridge is not needed.
        share: of concepts that are removed.
        ranks: ladder of R; None takes powers of two up to the number of concepts and the default R.
        seeds: of random sets.

    Raises:
        DataError: the profile has no pairs, or no concept is left for the controls.
        UsageError: no case, no seed, a rank below 1, or a dictionary of another size or width.
    """
    from clearsight.progress import Silent

    dictionary_CD = np.asarray(getattr(dictionary_CD, "dictionary_CD", dictionary_CD))
    if not cases or not seeds or any(rank < 1 for rank in ranks or ()):
        raise UsageError(
            f"{len(cases)} cases, {len(seeds)} seeds, ranks {ranks}.",
            do="Give at least one case and one seed, and ranks from 1.",
        )
    if dictionary_CD.shape != (profile.concepts, cases[0].queries.width):
        raise UsageError(
            f"A dictionary of shape {dictionary_CD.shape} for {profile.concepts} concepts and rows of width "
            f"{cases[0].queries.width}.",
            do="Give the dictionary that the profile was made with, and rows of the same model.",
        )
    chosen = _choose(profile, share, seeds)
    spaces = {key: _Space.of(dictionary_CD, concepts) for key, concepts in chosen.items()}
    top = spaces[ATTRIBUTION, None]
    default = top.rank_for(ENERGY)
    ladder = sorted({*(LADDER if ranks is None else ranks), default})
    ladder = [rank for rank in ladder if rank <= len(top.basis_RD)]
    progress = progress or Silent()
    progress.start(len(cases) * (2 + len(ladder) * (len(spaces) + 2)), "distractor removal")
    rows: list[RemovalRow] = []
    try:
        for case in cases:
            rows += _sweep_case(case, spaces, ladder, default, k, progress.advance)
    finally:
        progress.close()
    concepts = tuple(chosen[ATTRIBUTION, None].tolist())
    return DistractorSweep(tuple(rows), default, concepts)


Key = tuple[str, "int | None"]
"""An arm and its seed."""


def _choose(profile: ConceptProfile, share: float, seeds: Sequence[int]) -> dict[Key, NDArray[np.int64]]:
    """The concepts of every arm that chooses concepts."""
    from clearsight.concepts import top_set

    influence_C, alive_C = profile.influence_C(), profile.alive_C
    top = top_set(influence_C, share, among_C=alive_C)
    others_C = alive_C.copy()
    others_C[top] = False
    others = np.flatnonzero(others_C)
    if not len(others):
        raise DataError(
            f"All {len(top)} concepts that are alive are top concepts: there is none to compare with.",
            do="Use an SAE with more live concepts, or a smaller share.",
        )
    chosen: dict[Key, NDArray[np.int64]] = {(ATTRIBUTION, None): top}
    for seed in seeds:
        drawn = np.random.default_rng(seed).choice(others, min(len(top), len(others)), replace=False)
        chosen[RANDOM, seed] = np.sort(drawn)
    whole_C = profile.attribution_with_bias_C
    if whole_C is not None and not np.array_equal(whole_C, influence_C):
        chosen[WITH_BIAS, None] = top_set(whole_C, share, among_C=alive_C)
    chosen[BOTTOM, None] = top_set(influence_C, share, among_C=others_C, lowest=True)
    return chosen


@dataclass(frozen=True, eq=False)
class _Space:
    """The span of a set of concepts: all its directions, strongest first, and the energy they hold."""

    concepts: int
    basis_RD: NDArray[np.float64]
    energy_R: NDArray[np.float64]

    @classmethod
    def of(cls, dictionary_CD: NDArray[Any], concepts_M: NDArray[np.int64]) -> _Space:
        from clearsight.repair.subspace import leading_directions

        directions_MD = dictionary_CD[concepts_M].astype(np.float64)
        basis_RD, _ = leading_directions(directions_MD, rank=len(concepts_M))
        held_R = ((directions_MD @ basis_RD.T) ** 2).sum(axis=0)
        return cls(
            len(concepts_M), basis_RD, np.cumsum(held_R) / max(float((directions_MD**2).sum()), 1e-300)
        )

    def rank_for(self, energy: float) -> int:
        return min(int(np.searchsorted(self.energy_R, energy * (1 - 1e-12))) + 1, len(self.energy_R))

    def held(self, rank: int) -> float:
        return float(self.energy_R[min(rank, len(self.energy_R)) - 1])

    def removal(self, rank: int) -> Repair:
        from clearsight.repair import RemoveSubspace

        return RemoveSubspace(self.basis_RD[:rank], rank=rank).fit(self.basis_RD[:1])


def _sweep_case(
    case: Case,
    spaces: dict[Key, _Space],
    ladder: Sequence[int],
    default: int,
    k: int,
    advance: Callable[[], None],
) -> list[RemovalRow]:
    from clearsight.repair import Centre, RemoveSubspace, RemoveTopComponents, fit_repair

    def judged(sides: Sides) -> Scores:
        found = scored(case.task, *sides, k=k)
        advance()
        return found

    def fitted(estimator: Repair, fit_on: FitOn) -> Scores:
        repair = fit_repair(estimator, case.queries, case.candidates, fit_on)
        return judged((repair.transform(case.queries), repair.transform(case.candidates)))

    given = case.queries, case.candidates
    base = judged(given)
    rows = [RemovalRow(case.label, BASE, 0, 0, float("nan"), None, False, base)]
    rows.append(_row(case, (CENTRING, None), 0, [], False, fitted(Centre(), "sides"), base))
    seeded = [space for (arm, _), space in spaces.items() if arm == RANDOM]
    for rank in ladder:
        arms: dict[Key, Scores] = {}
        for key, space in spaces.items():
            repair = space.removal(rank)
            queries, candidates = (side.with_rows(repair.transform(side.rows_ND)) for side in given)
            arms[key] = judged((queries, candidates))
        arms[DIRECTIONS, None] = fitted(RemoveSubspace(rank=rank), "joint")
        arms[COMPONENTS, None] = fitted(RemoveTopComponents(rank), "sides")
        random = mean_of([scores for (arm, _), scores in arms.items() if arm == RANDOM])
        rows.append(_row(case, (RANDOM, None), rank, seeded, rank == default, random, base))
        for key, scores in arms.items():
            own = [spaces[key]] if key in spaces else []
            against = None if key[0] == RANDOM else random
            rows.append(_row(case, key, rank, own, rank == default, scores, base, against))
    return rows


def _row(
    case: Case,
    key: Key,
    rank: int,
    spaces: Sequence[_Space],
    default: bool,
    scores: Scores,
    base: Scores,
    random: Scores | None = None,
) -> RemovalRow:
    """A row of the table; of several spaces (the mean over seeds) the mean energy."""
    return RemovalRow(
        case=case.label,
        arm=key[0],
        rank=rank,
        concepts=spaces[0].concepts if spaces else 0,
        energy=float(np.mean([space.held(rank) for space in spaces])) if spaces else float("nan"),
        seed=key[1],
        default=default,
        scores=scores,
        against_base=tested(scores, base),
        against_random=tested(scores, random) if random else {},
    )
