"""Removal of directions: distractor concepts, or the top principal components as their control.

Legend of shapes: N rows, M directions, D width, R removed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import svd

from clearsight.errors import UsageError
from clearsight.repair.affine import Directional, Matrix, RowMap, Rows
from clearsight.repair.base import SameWidth
from clearsight.repair.spectrum import Spectrum


class RemoveSubspace(SameWidth):
    """h - V_r V_r^T h, V_r the leading right singular vectors of directions (Feng et al. 2026, eq. 8-10).

    Args:
        directions: (M, D), such as the dictionary rows of distractor concepts; their lengths are their
            weights. None: the rows given to `fit` are the directions.
        energy: share of the directions' squared singular values that is removed, 0..1: the smallest r that
            reaches it.
        rank: r itself, instead of the energy; at most the rank of the directions is removed.
        normalize_input: bring every row to length 1 first (changes no cosine).

    Attributes:
        components_: V_r^T, (R, D), orthonormal, float64.
        energy_: share of the energy that is removed.
    """

    def __init__(
        self,
        directions: Any = None,
        *,
        energy: float = 0.99,
        rank: int | None = None,
        normalize_input: bool = True,
    ) -> None:
        self.directions = directions
        self.energy = energy
        self.rank = rank
        self.normalize_input = normalize_input

    learned = ("components_", "energy_")

    def fit(self, X: Any, y: Any = None) -> RemoveSubspace:
        """Find the subspace. `X` only gives the width where `directions` are given.

        Raises:
            ValueError: NaN or infinity in the directions.
            UsageError: directions of another width than X, an energy outside 0..1, a negative rank.
        """
        rows_ND = self._check_rows(X, least=1)
        directions_MD = rows_ND if self.directions is None else np.asarray(self.directions)
        if directions_MD.ndim != 2 or directions_MD.shape[1] != rows_ND.shape[1]:
            raise UsageError(
                f"Directions of shape {directions_MD.shape} do not fit rows of width {rows_ND.shape[1]}.",
                do="Give directions as an array (M, D) of the rows' width.",
            )
        basis_RD, self.energy_ = leading_directions(directions_MD, energy=self.energy, rank=self.rank)
        self.components_ = basis_RD
        self._map = RowMap(self.normalize_input, np.zeros(rows_ND.shape[1]), Directional.removal(basis_RD.T))
        return self

    @classmethod
    def from_concepts(
        cls,
        sae_or_dictionary: Any,
        scores_C: Any,
        share: float = 0.01,
        *,
        among_C: Any = None,
        energy: float = 0.99,
        rank: int | None = None,
        normalize_input: bool = True,
    ) -> RemoveSubspace:
        """The removal, already fitted, of the concepts that lead by a score (eq. 8-10).

        With the retrieval attribution (`ConceptProfile.attribution_C`) these are the paper's distractors: the
        ceil(0.01 C) concepts that add most to the similarity of matched pairs. The paper does not print r.

        Args:
            sae_or_dictionary: an SAE (its `dictionary_CD`), or directions (C, D).
            scores_C: one a concept; the highest are removed, NaN never. Ties: `clearsight.concepts.top_set`.
            share: of all concepts, above 0 to 1; at least one concept.
            among_C: concepts that may be chosen, such as `ConceptProfile.alive_C`.
            energy, rank, normalize_input: as for the class.

        Raises:
            UsageError: scores that do not fit the dictionary, or a share outside (0, 1].
            DataError: no concept has a score.
        """
        from clearsight.concepts import top_set

        dictionary_CD = np.asarray(getattr(sae_or_dictionary, "dictionary_CD", sae_or_dictionary))
        if dictionary_CD.ndim != 2 or np.shape(scores_C) != dictionary_CD.shape[:1]:
            raise UsageError(
                f"Scores of shape {np.shape(scores_C)} do not fit a dictionary of {dictionary_CD.shape}.",
                do="Give one score for each of the SAE's concepts.",
            )
        chosen_M = top_set(scores_C, share, among_C=among_C)
        made = cls(dictionary_CD[chosen_M], energy=energy, rank=rank, normalize_input=normalize_input)
        return made.fit(np.zeros((1, dictionary_CD.shape[1])))


class RemoveTopComponents(SameWidth):
    """Centre, then remove the first principal components (Mu and Viswanath 2018, "all but the top").

    Args:
        components: how many; at most the rank of the centred rows is removed.
        normalize_input: bring every row to length 1 first.

    Attributes:
        mean_: (D,), float64.
        components_: (R, D), orthonormal, float64, the largest variance first.
    """

    def __init__(self, components: int = 1, *, normalize_input: bool = True) -> None:
        self.components = components
        self.normalize_input = normalize_input

    learned = ("components_",)

    def fit(self, X: Any, y: Any = None) -> RemoveTopComponents:
        """Fit on rows (N, D), N >= 2. Raises ValueError on NaN, infinity or a single row."""
        if self.components < 0:
            raise UsageError(f"components is {self.components}.", do="Give 0 or more.")
        rows_ND = self._check_rows(X)
        spectrum = Spectrum.of(rows_ND, normalize=self.normalize_input)
        kept = 0 if spectrum.negligible else self.components
        basis_DR = np.ascontiguousarray(spectrum.basis_DR[:, :kept])
        self.components_ = basis_DR.T
        self._map = RowMap(self.normalize_input, spectrum.mean_D, Directional.removal(basis_DR))
        return self


def leading_directions(
    directions_MD: Rows, *, energy: float = 0.99, rank: int | None = None
) -> tuple[Matrix, float]:
    """Orthonormal rows (R, D) that span the given directions, and the share of their energy they hold.

    R is `rank`, or the smallest number with at least `energy` of the sum of squared singular values; never
    more than the numerical rank.

    Raises:
        ValueError: NaN or infinity.
        UsageError: an energy outside 0..1, a negative rank.
    """
    if not 0 <= energy <= 1 or (rank is not None and rank < 0):
        raise UsageError(
            f"energy is {energy}, rank is {rank}.", do="Give an energy from 0 to 1, a rank from 0."
        )
    _, singular_M, basis_MD = svd(np.asarray(directions_MD, dtype=np.float64), full_matrices=False)
    square_M = singular_M**2
    total = float(square_M.sum())
    if not total:
        return basis_MD[:0], 0.0
    share_M = np.cumsum(square_M) / total
    wanted = int(np.searchsorted(share_M, energy * (1 - 1e-12))) + 1 if rank is None else rank
    noise = singular_M[0] * max(directions_MD.shape) * np.finfo(np.float64).eps
    kept = min(wanted if energy > 0 or rank is not None else 0, int((singular_M > noise).sum()))
    return basis_MD[:kept], float(share_M[kept - 1]) if kept else 0.0
