"""Repairs over `Embeddings`: each side, or each modality, with statistics of its own.

Legend of shapes: N rows, D width in, E width out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from clearsight.errors import DataError, UsageError
from clearsight.moments import row_blocks
from clearsight.repair.affine import Affine, unit_rows
from clearsight.repair.base import Repair
from clearsight.repair.refine import Refinement
from clearsight.repair.self_align import SelfAlign
from clearsight.repair.state import Arrays, digest, pack, pack_settings, unpack, unpack_settings
from clearsight.repair.streamed import LEAST_TO_RECENTRE, RepairedRows, fit_in_blocks, labelled
from clearsight.types import Embeddings, RowSource

By: TypeAlias = Literal["side", "modality", "joint"]
FitOn: TypeAlias = Literal["sides", "candidates", "joint", "modality", "support"]

BY: tuple[By, ...] = ("side", "modality", "joint")
FIT_ON: tuple[FitOn, ...] = ("sides", "candidates", "joint", "modality", "support")


class PerGroup:
    """One fitted repair for each group of rows.

    Args:
        estimator: any repair; it is cloned for every group.
        by: what makes a group: "side" (queries, candidates), "modality" (text, image, image+text) or "joint"
            (all rows are one group).

    Attributes:
        repairs_: group -> fitted repair.
    """

    def __init__(self, estimator: Repair, by: By = "side") -> None:
        if by not in BY:
            raise UsageError(f"by is {by!r}.", do=f"Choose from {', '.join(BY)}.")
        self.estimator = estimator
        self.by = by
        self.repairs_: dict[str, Repair] = {}
        self._digest: str | None = None

    def fit(self, *parts: RowSource) -> PerGroup:
        """Fit one clone of the estimator on each group of the rows given.

        Parts that are no `Embeddings` are read block by block.

        Raises:
            DataError: no rows, widths that differ, or a group with fewer than two different rows.
            UsageError: the estimator needs pairs, or (rows read in blocks) all rows at once.
        """
        if isinstance(self.estimator, SelfAlign):
            raise UsageError("SelfAlign is fitted on pairs.", do="Call fit_pairs(images, captions).")
        inside = [part for part in parts if isinstance(part, Embeddings)]
        if len(inside) < len(parts):
            return fit_in_blocks(self, parts)
        groups: dict[str, list[NDArray[np.float32]]] = {}
        for part in inside:
            for group, index_N in self._groups(part).items():
                groups.setdefault(group, []).append(part.rows_ND[index_N])
        if not groups:
            raise DataError("There are no rows to fit on.")
        if len({part.width for part in parts}) > 1:
            raise DataError(f"Rows of widths {sorted({part.width for part in parts})} are not one space.")
        self.repairs_, self._digest = {}, None
        for group, rows in groups.items():
            rows_ND = rows[0] if len(rows) == 1 else np.concatenate(rows)
            _require_variety(rows_ND, group)
            self.repairs_[group] = clone(self.estimator).fit(rows_ND)
        return self

    def fit_pairs(self, images: Embeddings, captions: Embeddings, sample_weight: Any = None) -> PerGroup:
        """Fit a `SelfAlign` on images and their captions: row n of one belongs to row n of the other.

        Texts then take the text map; images, and items of image and text, the image map.

        Raises:
            DataError: the numbers of rows differ, or a side has fewer than two different rows.
            UsageError: the estimator is no SelfAlign.
        """
        if not isinstance(self.estimator, SelfAlign):
            raise UsageError(f"{type(self.estimator).__name__} is not fitted on pairs.", do="Call fit.")
        if len(images) != len(captions):
            raise DataError(
                f"{len(images)} images and {len(captions)} captions are not pairs.",
                do="Give one caption an image.",
            )
        _require_variety(images.rows_ND, "image")
        _require_variety(captions.rows_ND, "text")
        aligned = clone(self.estimator).fit(images.rows_ND, captions.rows_ND, sample_weight=sample_weight)
        return self.of_pairs(aligned)

    def refine(
        self, pairs: tuple[Embeddings, Embeddings], images: Embeddings, texts: Embeddings, **settings: Any
    ) -> tuple[PerGroup, Refinement]:
        """`SelfAlign.refine` over Embeddings: pairs are (images, captions); returns a new PerGroup.

        Raises:
            UsageError: not fitted by `fit_pairs`.
            DataError: pairs of different lengths.
        """
        if not isinstance(self.estimator, SelfAlign) or not self.repairs_:
            raise UsageError("Only a fitted SelfAlign can be refined.", do="Call fit_pairs first.")
        generated, captions = pairs
        if len(generated) != len(captions):
            raise DataError(f"{len(generated)} images and {len(captions)} captions are not pairs.")
        further, record = self.estimator.refine(
            generated.rows_ND, captions.rows_ND, images.rows_ND, texts.rows_ND, **settings
        )
        return PerGroup(further, "modality").of_pairs(further), record

    def of_pairs(self, aligned: SelfAlign) -> PerGroup:
        """Take over a fitted `SelfAlign`."""
        self.estimator, self.by, self._digest = aligned, "modality", None
        self.repairs_ = {"text": aligned.text_side, "image": aligned, "image+text": aligned}
        return self

    @overload
    def transform(self, embeddings: Embeddings, *, recentre: bool = False) -> Embeddings: ...
    @overload
    def transform(self, embeddings: RowSource, *, recentre: bool = False) -> RowSource: ...
    def transform(self, embeddings: RowSource, *, recentre: bool = False) -> RowSource:
        """Repair every row by its group's statistics; one row is enough.

        Rows that are no `Embeddings` are repaired as they are taken; recentring reads them once before.

        Args:
            recentre: centre each (side, modality) of these rows on its own mean instead of the stored one,
                where it has at least 32 rows: for whole sets whose mean has moved since the fit.

        Returns:
            The same items; `origin["repairs"]` gains an entry with the repair, its settings and a digest of
            its statistics.

        Raises:
            DataError: a group that was not fitted, or another width.
        """
        if not isinstance(embeddings, Embeddings):
            return RepairedRows(embeddings, self, recentre=recentre)
        groups = self._groups(embeddings)
        unknown = sorted(set(groups) - set(self.repairs_))
        if unknown:
            raise DataError(
                f"This repair holds no statistics for {', '.join(unknown)}.",
                do=f"Fit it on such rows too; it was fitted on: {', '.join(self.repairs_) or 'nothing yet'}.",
            )
        widths = {repair.n_features_in_ for group, repair in self.repairs_.items() if group in groups}
        if widths - {embeddings.width}:
            raise DataError(
                f"Rows of width {embeddings.width} do not fit a repair of width {sorted(widths)}.",
                do="Use the model, pooling and layer that the repair was fitted on.",
            )
        out: dict[str, NDArray[np.float32]] = {
            group: self.repairs_[group].transform(embeddings.rows_ND[index_N])
            for group, index_N in groups.items()
        }
        width_E = {rows.shape[1] for rows in out.values()} or {embeddings.width}
        out_NE = np.empty((len(embeddings), width_E.pop()), dtype=np.float32)
        for group, index_N in groups.items():
            out_NE[index_N] = out[group]
        recentred = _recentre(out_NE, embeddings) if recentre else []
        entry = {**self.describe(), "recentred": recentred}
        return embeddings.with_rows(out_NE, repairs=(*embeddings.origin.get("repairs", ()), entry))

    def fit_transform(self, *parts: Embeddings) -> tuple[Embeddings, ...]:
        """Fit on all parts, then repair each."""
        self.fit(*parts)
        return tuple(self.transform(part) for part in parts)

    @property
    def affine_(self) -> Mapping[str, Affine]:
        """Group -> affine map."""
        return {group: repair.affine_ for group, repair in self.repairs_.items()}

    def describe(self) -> dict[str, Any]:
        """What was fitted: the repair's name, its settings, the groups, and a digest of the statistics."""
        return {
            "repair": type(self.estimator).__name__,
            "settings": _plain(self.estimator.get_params(deep=False)),
            "by": self.by,
            "groups": sorted(self.repairs_),
            "digest": self.digest(),
        }

    def digest(self) -> str:
        """SHA-256 over everything every group's repair has learned: 16 hexadecimal digits."""
        if self._digest is None:  # kept: a single query must not pay for hashing the matrices
            parts = [f"{group}:{digest(self.repairs_[group])}" for group in sorted(self.repairs_)]
            self._digest = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
        return self._digest

    def pack(self, arrays: Arrays) -> dict[str, Any]:
        """Facts that JSON can hold; the arrays are added to `arrays`."""
        if not self.repairs_:
            raise NotFittedError("This PerGroup is not fitted yet. Call fit or fit_pairs first.")
        if isinstance(self.estimator, SelfAlign):
            return {"by": self.by, "groups": [], "estimator": pack(self.estimator, arrays)}
        groups = sorted(self.repairs_)
        return {
            "by": self.by,
            "groups": groups,
            "estimator": pack_settings(self.estimator, arrays, "estimator."),
            "repairs": [pack(self.repairs_[group], arrays, f"{group}.") for group in groups],
        }

    @classmethod
    def unpack(cls, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> PerGroup:
        """What `pack` took apart. Raises DataError where something is missing."""
        try:
            if not facts["groups"]:
                aligned = unpack(facts["estimator"], arrays)
                return cls(aligned, facts["by"]).of_pairs(cast(SelfAlign, aligned))
            whole = cls(unpack_settings(facts["estimator"], arrays, "estimator."), facts["by"])
            for group, repair in zip(facts["groups"], facts["repairs"], strict=True):
                whole.repairs_[group] = unpack(repair, arrays, f"{group}.")
        except (KeyError, TypeError) as error:
            raise DataError(
                f"The repair's description is incomplete: {error}.", do="Save it again."
            ) from error
        return whole

    def _groups(self, embeddings: Embeddings) -> dict[str, NDArray[np.int64]]:
        label_N = {
            "side": embeddings.side_N,
            "modality": embeddings.modality_N,
            "joint": np.full(len(embeddings), "joint"),
        }[self.by]
        return {str(group): np.flatnonzero(label_N == group) for group in np.unique(label_N)}


def fit_repair(
    estimator: Repair,
    queries: Embeddings,
    candidates: RowSource,
    fit_on: FitOn = "sides",
    support: Embeddings | None = None,
) -> PerGroup:
    """Fit a repair on the rows that `fit_on` names; relevance is never used.

    * "sides": queries and candidates, each by its own statistics (the published code; transductive);
    * "candidates": the candidates' statistics for both;
    * "joint": the statistics of both together;
    * "modality": texts, images and image + text items, each by its own;
    * "support": queries by the statistics of the support set, candidates by their own (the paper). No test
      query is seen.

    Raises:
        DataError: a group with fewer than two different rows.
        UsageError: an unknown `fit_on`; a support set that is missing, or given where it is not used.
    """
    if fit_on not in FIT_ON:
        raise UsageError(f"fit_on is {fit_on!r}.", do=f"Choose from {', '.join(FIT_ON)}.")
    if (support is not None) != (fit_on == "support"):
        raise UsageError("fit_on='support' goes with a support set, and only that.", do="Give both or none.")
    if support is not None:
        queries = replace(support, side_N=np.full(len(support), "query"))
    by: By = {"sides": "side", "support": "side", "modality": "modality"}.get(fit_on, "joint")  # type: ignore[assignment]
    parts = (candidates,) if fit_on == "candidates" else (queries, candidates)
    return PerGroup(estimator, by).fit(*parts)


def _require_variety(rows_ND: NDArray[np.float32], group: str) -> None:
    if len(rows_ND) < 2:
        raise DataError(
            f"A repair cannot be fitted on {len(rows_ND)} row.",
            where=group,
            do="Give at least two rows, or use statistics of another set (fit_on).",
        )
    first_1D = unit_rows(rows_ND[:1])
    if all(
        np.allclose(unit_rows(rows_ND[block]), first_1D, rtol=0, atol=1e-7)
        for block in row_blocks(*rows_ND.shape)
    ):
        raise DataError(
            f"All {len(rows_ND)} rows have the same direction.", where=group, do="Check what was embedded."
        )


def _recentre(rows_NE: NDArray[np.float32], embeddings: Embeddings) -> list[str]:
    """Centre each (side, modality) in place; an affine map's own mean is its input's, mapped."""
    done = []
    for label, index_N in labelled(embeddings).items():
        if len(index_N) >= LEAST_TO_RECENTRE:
            rows_NE[index_N] -= rows_NE[index_N].mean(axis=0, dtype=np.float64).astype(np.float32)
            done.append(label)
    return done


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON can hold them."""

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Repair):
            return {"repair": type(value).__name__, "settings": _plain(value.get_params(deep=False))}
        if isinstance(value, (list, tuple)):
            return [plain(part) for part in value]
        return f"array of shape {np.shape(value)}"

    return {name: plain(value) for name, value in settings.items()}
