"""Repairs one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from clearsight.errors import UsageError
from clearsight.repair.affine import Affine, RowMap, Rows, Vector
from clearsight.repair.base import Repair, SameWidth


class Chain(SameWidth):
    """Repairs in order, each fitted on what the one before it gives.

    The first step takes the norm of its rows if it is set to. The later ones do not, so that the chain is one
    affine map, unless `normalize_between` asks for it.

    Args:
        steps: repairs; they are cloned, with their `normalize_input` set as said.
        normalize_between: bring the rows to length 1 before every later step too.

    Attributes:
        steps_: the fitted steps.
        affine_: the one affine map of the chain; an error where norms are taken in between.
    """

    def __init__(self, steps: Sequence[Any], *, normalize_between: bool = False) -> None:
        self.steps = steps
        self.normalize_between = normalize_between

    def fit(self, X: Any, y: Any = None) -> Chain:
        """Fit every step on rows (N, D). Raises what its steps raise, and UsageError without any step."""
        if not len(self.steps):
            raise UsageError("A chain without steps.", do="Give at least one repair.")
        rows_ND: Rows = self._check_rows(X)
        fitted: list[Repair] = []
        for place, step in enumerate(self.steps):
            repair = clone(step)
            if place:
                repair.set_params(normalize_input=self.normalize_between)
            rows_ND = repair.fit(rows_ND, y).transform(rows_ND)
            fitted.append(repair)
        self.steps_ = fitted
        return self

    def transform(self, X: Any) -> Rows:
        """Repair rows (N, D), N >= 1; raises as its steps do."""
        check_is_fitted(self, "n_features_in_")
        rows_ND: Rows = self._check_rows(X, least=1, reset=False)
        for step in self.steps_:
            rows_ND = step.transform(rows_ND)
        return rows_ND

    def maps(self) -> dict[str, RowMap]:
        check_is_fitted(self, "n_features_in_")
        return {}

    def parts(self) -> list[Repair]:
        return list(self.steps_)

    def restore(self, learned: dict[str, Any], maps: dict[str, RowMap], parts: list[Repair]) -> None:
        super().restore(learned, maps, parts)
        self.steps_ = parts

    @property
    def mean_(self) -> Vector:
        """The mean (D,) that the first step subtracts."""
        check_is_fitted(self, "n_features_in_")
        mean_D: Vector = self.steps_[0].mean_
        return mean_D

    @property
    def affine_(self) -> Affine:
        """The chain as one map.

        Raises:
            UsageError: rows are normalised between the steps.
        """
        check_is_fitted(self, "n_features_in_")
        if self.normalize_between and len(self.steps_) > 1:
            raise UsageError(
                "A chain that takes norms between its steps is no affine map.",
                do="Leave normalize_between off.",
            )
        affine: Affine = self.steps_[0].affine_
        for step in self.steps_[1:]:
            affine = affine.compose(step.affine_)
        return affine
