"""The concept profile: how strong, how modal, how bridging and how influential every concept is.

Codes are those of one vector a sample. Legend of shapes: N images, M texts, P matched pairs, C concepts,
D width of activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clearsight.concepts.attribution import attribution, bias_attribution
from clearsight.concepts.bridge import Reduction, bridge
from clearsight.concepts.codes import (
    Coder,
    Floats,
    Ints,
    Rows,
    checked_codes,
    checked_dictionary,
    checked_pairs,
    matched,
)
from clearsight.errors import DataError, UsageError
from clearsight.progress import Progress

NO_PAIRS = "There are no matched pairs of an image and a text: bridge scores and attribution are undefined."


@dataclass(frozen=True, eq=False)
class ConceptProfile:
    """Figures of every concept, float64, (C,) each (Feng et al. 2026, section 3.1).

    Attributes:
        images, texts, pairs: how many rows of each, and how many matched pairs, were seen.
        image_energy_C, text_energy_C: E[|z_i|] over the images, over the texts; 0.. (codes of usual SAEs are
            not negative, so |z| is z there).
        energy_C: E[|z_i|] over all rows of both (eq. 3): a side with more rows weighs more.
        modality_score_C: text energy / (image energy + text energy) (eq. 4): 0 is image, 1 is text; NaN where
            the concept fires on neither. (The paper this score was taken from orients it the other way.)
        image_firing_C, text_firing_C: number of rows with a nonzero code.
        attribution_C: retrieval attribution (eq. 6), any sign; None without pairs.
        attribution_with_bias_C: the same with the bias of the SAE's reconstruction counted (see
            `bias_attribution`); equal where there is none. None without pairs.
        bridge: reduction -> bridge scores (eq. 5, see `clearsight.concepts.bridge`); None without pairs,
            empty where they were not asked for.
        similarity: E<xhat_img, xhat_txt> over the pairs (bias-free), half the sum of the attributions; None
            without pairs.
        missing: why something is None; "" where nothing is.
    """

    images: int
    texts: int
    pairs: int
    image_energy_C: Floats
    text_energy_C: Floats
    energy_C: Floats
    modality_score_C: Floats
    image_firing_C: Ints
    text_firing_C: Ints
    attribution_C: Floats | None
    attribution_with_bias_C: Floats | None
    bridge: Mapping[Reduction, Floats] | None
    similarity: float | None
    missing: str = ""

    @property
    def concepts(self) -> int:
        """C, dead concepts included."""
        return len(self.energy_C)

    @property
    def alive_C(self) -> NDArray[np.bool_]:
        """Concepts that fire on at least one row."""
        return np.asarray(self.image_firing_C + self.text_firing_C > 0)

    @property
    def unscored(self) -> int:
        """Number of concepts without a modality score: they fire on no row, and are drawn nowhere."""
        return int(np.isnan(self.modality_score_C).sum())

    def bridge_C(self, reduction: Reduction = "abs") -> Floats:
        """The bridge scores of one reduction.

        Raises:
            DataError: there were no pairs, or bridge scores were not asked for.
        """
        if not self.bridge:
            raise DataError(
                self.missing or "Bridge scores were left out.", do="Profile with pairs and bridge."
            )
        return self.bridge[reduction]

    def influence_C(self) -> Floats:
        """The retrieval attribution. Raises DataError where there were no pairs."""
        if self.attribution_C is None:
            raise DataError(self.missing, do="Give the pairs of a task that matches images with texts.")
        return self.attribution_C

    def columns(self) -> dict[str, NDArray[Any]]:
        """One column a figure, one row a concept: what a table of the profile holds."""
        table: dict[str, NDArray[Any]] = {
            "concept": np.arange(self.concepts),
            "alive": self.alive_C,
            "energy": self.energy_C,
            "image_energy": self.image_energy_C,
            "text_energy": self.text_energy_C,
            "modality_score": self.modality_score_C,
            "image_firing": self.image_firing_C,
            "text_firing": self.text_firing_C,
        }
        if self.attribution_C is not None:
            table["attribution"] = self.attribution_C
        if self.attribution_with_bias_C is not None:
            table["attribution_with_bias"] = self.attribution_with_bias_C
        for name, score_C in (self.bridge or {}).items():
            table[f"bridge_{name}"] = score_C
        return table


def profile(
    sae: Coder,
    image_rows_ND: Any,
    text_rows_MD: Any,
    pairs: Any = None,
    *,
    with_bridge: bool = True,
    progress: Progress | None = None,
) -> ConceptProfile:
    """The profile of pooled vectors: one row for each image and text, encoded by the SAE (eq. 11).

    `profile_codes` takes codes instead, such as those of `mean_of_codes`.

    Args:
        sae: encodes rows of its width D.
        image_rows_ND, text_rows_MD: unnormalised pooled vectors.
        pairs: as for `profile_codes`.

    Raises:
        UsageError, DataError: as `profile_codes`; rows of another width than the SAE's.
    """
    width = sae.dictionary_CD.shape[1]
    for what, rows in (("Image rows", image_rows_ND), ("Text rows", text_rows_MD)):
        if np.ndim(rows) != 2 or np.shape(rows)[1] != width:
            raise UsageError(
                f"{what} have shape {np.shape(rows)}, the SAE is {width} wide.",
                do="Give pooled vectors of the model and layer that the SAE was trained on.",
            )
        if not len(rows):
            raise DataError(f"{what}: there are none.", do="Give at least one row of each modality.")
    return profile_codes(
        sae.encode(image_rows_ND),
        sae.encode(text_rows_MD),
        sae.dictionary_CD,
        pairs,
        bias_D=sae.decode(csr_array((1, len(sae.dictionary_CD)), dtype=np.float32))[0],
        with_bridge=with_bridge,
        progress=progress,
    )


def profile_codes(
    image_codes: csr_array,
    text_codes: csr_array,
    dictionary_CD: Any,
    pairs: Any = None,
    *,
    bias_D: Any = None,
    with_bridge: bool = True,
    progress: Progress | None = None,
) -> ConceptProfile:
    """The profile of codes.

    Args:
        image_codes, text_codes: (N, C) and (M, C), sparse.
        dictionary_CD: the concepts' directions.
        pairs: (P, 2) rows of matched images and texts; an image or text may occur often. None or none:
            bridge and attribution stay None, and `missing` says why.
        bias_D: what the SAE adds to every reconstruction; None is nothing.
        with_bridge: False leaves the bridge scores out (they take most of the time).
        progress: told of the bridge's tiles.

    Raises:
        UsageError: shapes or types that do not fit.
        DataError: a modality without rows, NaN or infinity, pairs out of range, or no concept that fires.
    """
    dictionary_CD = checked_dictionary(dictionary_CD)
    image = checked_codes(image_codes, "Image codes", len(dictionary_CD))
    text = checked_codes(text_codes, "Text codes", len(dictionary_CD))
    rows = checked_pairs(() if pairs is None else pairs, image.shape[0], text.shape[0])
    sums = [np.bincount(c.indices, np.abs(c.data), minlength=c.shape[1]) for c in (image, text)]
    firing = [np.bincount(c.indices, minlength=c.shape[1]) for c in (image, text)]
    if not (image.nnz or text.nnz):
        raise DataError(
            "No concept fires on any row.",
            do="Check that the SAE belongs to this model and layer, or train it longer.",
        )
    image_C, text_C = sums[0] / image.shape[0], sums[1] / text.shape[0]
    both_C = image_C + text_C
    influence_C = whole_C = bridges = similarity = None
    if len(rows):
        left, right = matched(image, rows[:, 0]), matched(text, rows[:, 1])
        influence_C = attribution(left, right, dictionary_CD)
        similarity = float(influence_C.sum()) / 2
        whole_C = influence_C
        if bias_D is not None:
            whole_C = influence_C + bias_attribution(left, right, dictionary_CD, _bias(bias_D, dictionary_CD))
        bridges = bridge(left, right, dictionary_CD, progress=progress) if with_bridge else {}
    return ConceptProfile(
        images=image.shape[0],
        texts=text.shape[0],
        pairs=len(rows),
        image_energy_C=image_C,
        text_energy_C=text_C,
        energy_C=(sums[0] + sums[1]) / (image.shape[0] + text.shape[0]),
        modality_score_C=np.divide(text_C, both_C, out=np.full_like(text_C, np.nan), where=both_C > 0),
        image_firing_C=firing[0],
        text_firing_C=firing[1],
        attribution_C=influence_C,
        attribution_with_bias_C=whole_C,
        bridge=bridges,
        similarity=similarity,
        missing="" if len(rows) else NO_PAIRS,
    )


def _bias(bias_D: Any, dictionary_CD: Rows) -> Rows:
    array_D = np.asarray(bias_D)
    if array_D.shape != dictionary_CD.shape[1:] or not np.isfinite(array_D).all():
        raise UsageError(
            f"A bias of shape {array_D.shape} for a dictionary of width {dictionary_CD.shape[1]}.",
            do="Give one finite number for each dimension.",
        )
    return array_D
