"""The contract every repair keeps: scikit-learn's, and one row map at the end.

Legend of shapes: N rows, D width in, E width out.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from clearsight.repair.affine import Affine, RowMap, Rows, Vector

FLOATS = [np.float64, np.float32]


class Repair(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn transformer that ends in a `RowMap`.

    Subclasses fit and set `_map` (or override `_row_map`); everything learned that has a public name ends in
    `_`. Rows go in as float32 or float64 and come out in the same dtype; statistics are float64.
    """

    _map: RowMap
    learned: ClassVar[tuple[str, ...]] = ()
    """Names of learned numbers and arrays that a file keeps beside the maps."""

    def transform(self, X: Any) -> Rows:
        """Repair rows (N, D), N >= 1, to (N, E); float32 stays float32.

        Raises:
            NotFittedError: not fitted.
            ValueError: another width than the fitted one, NaN or infinity.
        """
        check_is_fitted(self, "n_features_in_")
        rows_ND: Rows = validate_data(self, X, dtype=FLOATS, reset=False)
        return self._row_map().apply(rows_ND)

    @property
    def affine_(self) -> Affine:
        """The fitted repair as x -> x @ matrix_DE + offset_E, to be applied to L2-normalised rows.

        (To the rows as they are where `normalize_input` is off.)
        """
        check_is_fitted(self, "n_features_in_")
        return self._row_map().affine

    @property
    def mean_(self) -> Vector:
        """The mean (D,) that is subtracted."""
        return self._row_map().mean_D

    def maps(self) -> dict[str, RowMap]:
        """Every fitted row map, by name."""
        check_is_fitted(self, "n_features_in_")
        return {"rows": self._row_map()}

    def parts(self) -> list[Repair]:
        """Fitted repairs that this one is made of."""
        return []

    def restore(self, learned: dict[str, Any], maps: dict[str, RowMap], parts: list[Repair]) -> None:
        """Take over what the `learned` attributes, `maps` and `parts` of a fitted repair gave."""
        self.__dict__.update(learned)
        if "rows" in maps:
            self._map = maps["rows"]

    def _row_map(self) -> RowMap:
        return self._map

    def _check_rows(self, X: Any, *, least: int = 2, reset: bool = True) -> Rows:
        rows_ND: Rows = validate_data(self, X, dtype=FLOATS, ensure_min_samples=least, reset=reset)
        return rows_ND

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class SameWidth(OneToOneFeatureMixin, Repair):  # type: ignore[misc]
    """A repair whose rows keep their width and their feature names."""
