"""Centring and shrinkage whitening: the repairs of ReAlign.

Legend of shapes: N rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from clearsight.errors import UsageError
from clearsight.moments import Moments
from clearsight.registry import Registry
from clearsight.repair.affine import Directional, Matrix, RowMap, Rows, Vector, float64_blocks
from clearsight.repair.base import Repair, SameWidth
from clearsight.repair.spectrum import Shrinkage, Spectrum


class Preset(NamedTuple):
    """Settings of `ShrinkageZCA` that belong together."""

    shrinkage: Shrinkage
    eps: float
    eps_relative: bool


presets: Registry[Preset] = Registry("preset")
# The shrinkage was fixed before any measurement; the eps only guards directions without variance.
presets.add("default", Preset(shrinkage=0.5, eps=1e-6, eps_relative=True))
# The arithmetic of the code published with the paper: its eps exceeds its own shrinkage floor on unit rows.
presets.add("release", Preset(shrinkage=0.1, eps=1e-5, eps_relative=False))


class Centre(SameWidth):
    """Subtract the mean of the L2-normalised rows.

    Args:
        normalize_input: bring every row to length 1 first.

    Attributes:
        mean_: (D,), float64.
        n_samples_seen_: number of rows fitted on.
    """

    def __init__(self, *, normalize_input: bool = True) -> None:
        self.normalize_input = normalize_input

    learned = ("n_samples_seen_",)

    def fit(self, X: Any, y: Any = None) -> Centre:
        """Fit on rows (N, D), N >= 2. Raises ValueError on NaN, infinity or a single row."""
        rows_ND = self._check_rows(X)
        return self._add(rows_ND, 0)

    def partial_fit(self, X: Any, y: Any = None) -> Centre:
        """Add rows (N, D), N >= 1, to those seen before; any blocks give the same to 1e-10."""
        seen = vars(self).get("n_samples_seen_", 0)
        return self._add(self._check_rows(X, least=1, reset=not seen), seen)

    def _add(self, rows_ND: Any, seen: int) -> Centre:
        mean_D: Vector = self._map.mean_D if seen else np.zeros(rows_ND.shape[1])
        for part_BD in float64_blocks(rows_ND, normalize=self.normalize_input):
            seen += len(part_BD)
            mean_D = mean_D + (part_BD - mean_D).sum(axis=0) / seen
        self.n_samples_seen_ = seen
        self._map = RowMap(self.normalize_input, mean_D, Directional.identity(len(mean_D)))
        return self


@dataclass(frozen=True, eq=False)
class Solved:
    """A whitening as it is read from a file: the map without the statistics it came from."""

    row_map: RowMap
    intensity: float


@dataclass(frozen=True, eq=False)
class Solution:
    """A whitening that is solved at first use: adding a block of rows costs no eigendecomposition."""

    statistics: Moments | Spectrum
    settings: Preset
    normalize: bool

    @cached_property
    def spectrum(self) -> Spectrum:
        return (
            self.statistics if isinstance(self.statistics, Spectrum) else Spectrum.of_moments(self.statistics)
        )

    @cached_property
    def intensity(self) -> float:
        return self.spectrum.intensity(self.settings.shrinkage)

    @cached_property
    def row_map(self) -> RowMap:
        linear = self.spectrum.zca(self.intensity, self.settings.eps, relative=self.settings.eps_relative)
        return RowMap(self.normalize, self.spectrum.mean_D, linear)

    def moments(self) -> Moments:
        """The statistics in the form that more rows can be added to."""
        return self.statistics.moments() if isinstance(self.statistics, Spectrum) else self.statistics


class ShrinkageZCA(SameWidth):
    """Whitening by a shrunk covariance: ReAlign (Feng et al. 2026).

    With unit rows x, their mean m and covariance C (over N - 1): S = (1 - a) C + a tr(C)/D I = U diag(s) U^T,
    W = U diag((s + e)^(-1/2)) U^T, y = (x - m) W. Norms are taken where y is used.

    Rows are normalised first, so that the scale of the input does not change the repair. Fewer rows than
    dimensions are whitened without a D x D eigendecomposition, to the same result. Rows without any variance
    are only centred. Statistics are float64; `transform` answers in the dtype of its rows.

    Args:
        shrinkage: a from 0 (plain whitening) to 1 (centring, up to scale), or "ledoit_wolf" or "oas".
        eps: added to the eigenvalues s.
        eps_relative: eps counts in units of tr(C)/D; otherwise it is absolute.
        normalize_input: bring every row to length 1 first.
        preset: the settings of what is left at None: "default" (0.5, 1e-6, relative) or "release"
            (0.1, 1e-5, absolute: the arithmetic of the paper's published code).

    Attributes:
        mean_: m, (D,), float64.
        whitening_: W, (D, D), float64.
        shrinkage_: the number a that was used.
        n_samples_seen_: number of rows fitted on.
    """

    def __init__(
        self,
        shrinkage: Shrinkage | None = None,
        *,
        eps: float | None = None,
        eps_relative: bool | None = None,
        normalize_input: bool = True,
        preset: str = "default",
    ) -> None:
        self.shrinkage = shrinkage
        self.eps = eps
        self.eps_relative = eps_relative
        self.normalize_input = normalize_input
        self.preset = preset

    def fit(self, X: Any, y: Any = None) -> ShrinkageZCA:
        """Fit on rows (N, D), N >= 2.

        Raises:
            ValueError: NaN, infinity or a single row.
            UsageError: an unknown preset or shrinkage.
        """
        settings = self._settings()
        rows_ND = self._check_rows(X)
        if len(rows_ND) < rows_ND.shape[1]:
            solution = Solution(
                Spectrum.of(rows_ND, normalize=self.normalize_input), settings, self.normalize_input
            )
        else:
            solution = self._added(Moments(), rows_ND, settings)
        solution.row_map  # noqa: B018  solved now: the first query shall not wait for it
        self._solution: Solution | Solved = solution
        self.n_samples_seen_ = len(rows_ND)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> ShrinkageZCA:
        """Add rows (N, D), N >= 1, to those seen before; any blocks give the same to 1e-10.

        The whitening is solved when it is first used.

        Raises:
            UsageError: this repair was read from a file, which holds its map and not its statistics.
        """
        seen = vars(self).get("n_samples_seen_", 0)
        if seen and isinstance(self._solution, Solved):
            raise UsageError("A repair read from a file holds no statistics.", do="Fit it on all rows anew.")
        rows_ND = self._check_rows(X, least=1, reset=not seen)
        moments = self._solution.moments() if seen and isinstance(self._solution, Solution) else Moments()
        self._solution = self._added(moments, rows_ND, self._settings())
        self.n_samples_seen_ = seen + len(rows_ND)
        return self

    @property
    def whitening_(self) -> Matrix:
        """W."""
        return self._row_map().linear.dense_DE

    @property
    def shrinkage_(self) -> float:
        """The number a that was used."""
        check_is_fitted(self, "n_features_in_")
        return self._solution.intensity

    learned = ("n_samples_seen_", "shrinkage_")

    def restore(self, learned: dict[str, Any], maps: dict[str, RowMap], parts: list[Repair]) -> None:
        self._solution = Solved(maps["rows"], learned.pop("shrinkage_"))
        super().restore(learned, {}, parts)

    def _row_map(self) -> RowMap:
        check_is_fitted(self, "n_features_in_")
        return self._solution.row_map

    def _added(self, moments: Moments, rows_ND: Rows, settings: Preset) -> Solution:
        for part_BD in float64_blocks(rows_ND, normalize=self.normalize_input):
            moments.update(part_BD, overwrite=True)
        return Solution(moments, settings, self.normalize_input)

    def _settings(self) -> Preset:
        given: dict[str, Any] = {
            "shrinkage": self.shrinkage,
            "eps": self.eps,
            "eps_relative": self.eps_relative,
        }
        preset = presets.get(self.preset)
        return preset._replace(**{name: value for name, value in given.items() if value is not None})
