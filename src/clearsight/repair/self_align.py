"""Self-alignment: a generative model's own captions rotate one modality onto the other.

Legend of shapes: N pairs, I width of the image rows, T width of the text rows, K components.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, clone
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted

from clearsight.errors import UsageError
from clearsight.repair.affine import Affine, Dense, RowMap, Rows, Vector, unit_rows
from clearsight.repair.base import FLOATS, Repair
from clearsight.repair.canonical import Canonical, canonical
from clearsight.repair.refine import WEIGHTINGS, Refinement, Settings, Weighting, refined


class FittedSide(Repair):
    """One side of a fitted pair of maps, as a repair of its own. Made by `SelfAlign.text_side`."""

    @classmethod
    def of(cls, row_map: RowMap) -> FittedSide:
        side = cls()
        side._map, side.n_features_in_ = row_map, len(row_map.mean_D)
        return side

    def fit(self, X: Any, y: Any = None) -> FittedSide:
        raise UsageError("One side cannot be fitted alone.", do="Fit SelfAlign on pairs.")


class SelfAlign(ClassNamePrefixFeaturesOutMixin, Repair):  # type: ignore[misc]
    """Two affine maps, one for images and one for texts, from pairs that need no labels.

    The pairs are images and the captions that the model itself wrote for them, embedded like queries and
    candidates. Each side is normalised and whitened with shrinkage; U S V^T is the singular value
    decomposition of their cross-covariance; the image map is W_i U sqrt(S), the text map W_t V sqrt(S), over
    the first K components: canonical correlations with a ridge (Vinod 1976; Hardoon et al. 2004). Cosines of
    mapped rows compare across modalities.

    `transform` maps images (and image + text items), `transform_text` maps texts.

    Args:
        shrinkage: a in (1 - a) C + a tr(C)/D I, for both sides, 0 < a <= 1.
        components: K. Fewer are kept where the pairs have fewer directions: never more than the ranks of
            the two sides, and none whose correlation is below 1e-6 of the first.
        normalize_input: bring every row to length 1 first.

    Attributes:
        mean_, text_mean_: (I,) and (T,).
        image_map_, text_map_: `Affine` maps (I, K) and (T, K).
        correlations_: (K,), the covariances of the whitened sides, 0..1, largest first.
        n_pairs_: pairs (or their weights) fitted on.
    """

    def __init__(
        self, shrinkage: float = 0.1, components: int = 100, *, normalize_input: bool = True
    ) -> None:
        self.shrinkage = shrinkage
        self.components = components
        self.normalize_input = normalize_input

    learned = ("correlations_", "n_pairs_")

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SelfAlign:
        """Fit on N >= 2 pairs.

        Args:
            X: image rows (N, I).
            y: text rows (N, T); row n is the caption of image n.
            sample_weight: (N,), non-negative; a pair of weight 2 counts twice.

        Raises:
            ValueError: NaN or infinity, a single pair, or different numbers of rows.
            UsageError: a shrinkage outside (0, 1], or no component asked for.
        """
        if not 0 < self.shrinkage <= 1 or self.components < 1:
            raise UsageError(
                f"shrinkage is {self.shrinkage}, components is {self.components}.",
                do="Give a shrinkage above 0 and up to 1, and at least one component.",
            )
        image_NI = self._check_rows(X)
        text_NT = check_text(y, len(image_NI))
        weight_N = None
        if sample_weight is not None:
            weight_N = _check_sample_weight(
                sample_weight, image_NI, dtype=np.float64, ensure_non_negative=True
            )
        image_NI, text_NT = self._unit(image_NI), self._unit(text_NT)
        self._set(canonical(image_NI, text_NT, weight_N, self.shrinkage, self.components))
        self.n_pairs_ = float(len(image_NI) if weight_N is None else weight_N.sum())
        return self

    def refine(
        self,
        X: Any,
        y: Any,
        images: Any,
        texts: Any,
        *,
        rounds: int = 12,
        neighbours: int = 10,
        weighting: Weighting = "margin",
        folds: int = 4,
    ) -> tuple[SelfAlign, Refinement]:
        """Fit further on images and texts at hand whose pairing nobody knows; returns a new SelfAlign.

        Each round maps the rows at hand, takes mutual nearest neighbours under CSLS as further pairs beside
        the generated ones, and fits again. Pairs and rows at hand are each centred on their own mean, and the
        new maps keep the means of the rows at hand.

        It is transductive and lives on matches existing among the rows at hand. So the generated pairs keep
        watch, again without labels. Their images have no match among the texts at hand: where the images at
        hand single out a text more clearly than those do (by three standard errors), all rounds are kept.
        Otherwise, held out in folds, the pairs must find each other better after the rounds than before, by
        more than two standard errors, or the map is returned as it was. The pairs' images must therefore not
        be among the images at hand.

        Args:
            X, y: the pairs this was fitted on, (N, I) and (N, T).
            images, texts: rows at hand, (Q, I) and (C, T); their order carries no information.
            rounds: at most so many; it ends where the pairs found no longer change.
            neighbours: of CSLS.
            weighting: "margin" weights a found pair by the root of the margin of its score over its
                runners-up, in units of the round's mean margin; "equal" gives every found pair the weight of
                a generated one.
            folds: of the watch, which costs up to that many refinements more; 0: all rounds, no watch.

        Raises:
            ValueError: NaN or infinity, another width, sides of X and y that are not pairs.
            UsageError: fewer than one round or neighbour, an unknown weighting, one fold or more than a
                quarter of the pairs.
        """
        check_is_fitted(self, "n_features_in_")
        settings = Settings(self.shrinkage, self.components, rounds, neighbours, weighting)
        if rounds < 1 or neighbours < 1 or weighting not in WEIGHTINGS:
            raise UsageError(
                f"rounds is {rounds}, neighbours is {neighbours}, weighting is {weighting!r}.",
                do=f"Give at least one of each and a weighting of {', '.join(WEIGHTINGS)}.",
            )
        pairs = self._unit(self._check_rows(X, reset=False)), self._unit(check_text(y, len(X)))
        if folds and not 2 <= folds <= len(pairs[0]) / 4:
            raise UsageError(
                f"{len(pairs[0])} pairs cannot keep watch in {folds} folds.",
                do="Give 2 folds or more with four pairs each, or 0 for no watch.",
            )
        at_hand = (
            self._unit(self._check_rows(images, reset=False)),
            self._unit(self.text_side._check_rows(texts, reset=False)),
        )
        found, record = refined(self._canonical(), pairs, at_hand, settings, folds)
        further: SelfAlign = clone(self)
        further.n_features_in_ = self.n_features_in_
        further.n_pairs_ = self.n_pairs_ + (record.rounds[-1].pairs if record.rounds else 0)
        further._set(found)
        return further, record

    def _canonical(self) -> Canonical:
        image_IK, text_TK = self._map.linear.dense_DE, self._text_map.linear.dense_DE
        return Canonical(self.mean_, self.text_mean_, image_IK, text_TK, self.correlations_)

    def _unit(self, rows_ND: Rows) -> Rows:
        return unit_rows(rows_ND) if self.normalize_input else rows_ND

    def transform_text(self, Y: Any) -> Rows:
        """Map text rows (N, T) to (N, K), in their dtype. Raises as `transform`."""
        return self.text_side.transform(Y)

    @property
    def text_side(self) -> FittedSide:
        """The text map as a repair of its own."""
        check_is_fitted(self, "n_features_in_")
        return FittedSide.of(self._text_map)

    @property
    def image_map_(self) -> Affine:
        return self.affine_

    @property
    def text_map_(self) -> Affine:
        return self.text_side.affine_

    @property
    def text_mean_(self) -> Vector:
        return self.text_side.mean_

    @property
    def _n_features_out(self) -> int:
        return len(self.correlations_)

    def maps(self) -> dict[str, RowMap]:
        check_is_fitted(self, "n_features_in_")
        return {"image": self._map, "text": self._text_map}

    def restore(self, learned: dict[str, Any], maps: dict[str, RowMap], parts: list[Repair]) -> None:
        super().restore(learned, {}, parts)
        self._map, self._text_map = maps["image"], maps["text"]

    def _set(self, found: Canonical) -> None:
        self._map = RowMap(self.normalize_input, found.image_mean_I, Dense(found.image_IK))
        self._text_map = RowMap(self.normalize_input, found.text_mean_T, Dense(found.text_TK))
        self.correlations_ = found.correlation_K

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


def check_text(y: Any, count: int) -> Rows:
    """Text rows that belong to `count` image rows; one number for each becomes a row of width one.

    Raises:
        ValueError: missing, NaN or infinity, or another number of rows.
    """
    if y is None:
        raise ValueError("SelfAlign requires y to be passed, but the target y is None: give the text rows.")
    text_NT: Rows = check_array(y, dtype=FLOATS, ensure_2d=False, input_name="y")
    if text_NT.ndim == 1:
        text_NT = text_NT[:, None]
    if len(text_NT) != count:
        raise ValueError(f"{count} image rows and {len(text_NT)} text rows are not pairs.")
    return text_NT
