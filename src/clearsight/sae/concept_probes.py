"""Whether single concepts mean something: do their rows look alike, and do a few of them tell classes apart.

Codes come as `csr_array` (N, C) and stay sparse: the work is in proportion to their nonzeros.

Legend of shapes: N rows, T training rows, D width of embeddings, C concepts, Y classes, K chosen concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from clearsight.errors import DataError, UsageError
from clearsight.metrics.geometry import directions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = Sequence[str] | NDArray[Any]

BLOCK_VALUES = 1 << 23
"""Float64 numbers of an intermediate result: 64 MB."""


def monosemanticity(
    codes: csr_array, embeddings_ND: NDArray[Any], *, block_values: int = BLOCK_VALUES
) -> Floats:
    """Mean cosine of the rows that activate a concept, pairs weighted by the product of their activations.

    sum_{i != j} a_i a_j cos(e_i, e_j) / sum_{i != j} a_i a_j over all pairs of rows (Pach et al. 2025),
    exactly, as (|A^T E|^2 - sum a^2) / ((sum a)^2 - sum a^2) with E of length 1: O(nonzeros x D) instead of
    O(N^2 C).

    Args:
        codes: (N, C), the activations; of a negative one the size counts.
        embeddings_ND: of another encoder than the one that is explained. A row of zeros has cosine 0.

    Returns:
        (C,), -1..1, higher is more of one meaning; NaN for concepts that fire on fewer than two rows.

    Raises:
        DataError: another number of rows, NaN or infinity.
    """
    embeddings = np.asarray(embeddings_ND)
    if embeddings.ndim != 2 or len(embeddings) != codes.shape[0]:
        raise DataError(
            f"Embeddings of shape {embeddings.shape} do not fit codes of {codes.shape[0]} rows.",
            do="Give one embedding for each row that was encoded.",
        )
    if not (np.isfinite(embeddings).all() and np.isfinite(codes.data).all()):
        raise DataError("An embedding or code holds NaN or infinity.", do="Leave such rows out.")
    rows, concepts = codes.shape
    width = max(1, embeddings.shape[1])
    strength = csc_array(codes, dtype=np.float64)
    strength.data = np.abs(strength.data)
    row_step, concept_step = max(1, block_values // width), max(1, block_values // width)
    agreement_C, own_C = np.zeros(concepts), np.zeros(concepts)
    for first in range(0, concepts, concept_step):
        part = csr_array(strength[:, first : first + concept_step])
        summed_CD = np.zeros((part.shape[1], embeddings.shape[1]))
        own = np.zeros(part.shape[1])
        for start in range(0, rows, row_step):
            unit_ND = directions(embeddings[start : start + row_step])
            few = part[start : start + row_step]
            summed_CD += few.T @ unit_ND
            # Pairs of a row with itself: a^2 |e|^2, where |e| is 1 but for rows of zeros.
            own += (few**2).T @ np.einsum("nd,nd->n", unit_ND, unit_ND)
        agreement_C[first : first + concept_step] = np.einsum("cd,cd->c", summed_CD, summed_CD)
        own_C[first : first + concept_step] = own
    sum_C = np.asarray(strength.sum(axis=0)).ravel()
    square_C = np.asarray((strength**2).sum(axis=0)).ravel()
    pairs_C = sum_C**2 - square_C
    several_C = np.diff(_without_zeros(strength).indptr) > 1
    mean_C = np.full(concepts, np.nan)
    np.divide(agreement_C - own_C, pairs_C, out=mean_C, where=several_C & (pairs_C > 0))
    return np.clip(mean_C, -1, 1, out=mean_C)


@dataclass(frozen=True, eq=False)
class ConceptClassification:
    """How well each class is recognised by its few most associated concepts.

    Attributes:
        classes: their names.
        accuracy: n -> share of the test rows that are given their class, 0..1; rows whose best classes tie
            count as a random choice among them.
        chance: accuracy of always giving the most frequent class of the training rows.
        concepts_YK: the concepts of each class, most associated first; -1 where no more are associated.
    """

    classes: tuple[str, ...]
    accuracy: dict[int, float]
    chance: float
    concepts_YK: Ints


def classify_by_concepts(
    train: csr_array,
    train_labels: Labels,
    test: csr_array,
    test_labels: Labels,
    *,
    n: Sequence[int] = (1, 5, 10, 50),
    block: int = 4096,
) -> ConceptClassification:
    """Top-n concept classification: every class is predicted from the n concepts most associated with it.

    1. Strengths are codes over the concept's root mean square on the training rows, so that a loud concept
       does not win by its scale.
    2. The association of a concept with a class is its mean strength on the class's training rows minus its
       mean strength on all other training rows.
    3. A class keeps its n largest positive associations, brought to length 1, as its weights.
    4. A test row gets the class whose weighted sum of strengths is largest.

    Nothing is fitted but means, so that the figure speaks of the concepts and not of a classifier.

    Args:
        train, test: codes (T, C) and (N, C) of one autoencoder, of different rows.
        n: how many concepts of each class.
        block: test rows scored at a time.

    Raises:
        DataError: labels that do not fit the codes, fewer than two classes, codes of different autoencoders.
        UsageError: an n below 1.
    """
    if not n or min(n) < 1:
        raise UsageError(f"n is {list(n)}.", do="Give numbers of concepts of at least 1.")
    classes, train_class, test_class = _classes(train, train_labels, test, test_labels)
    weight_C = 1 / _root_mean_square(train)
    associated_YK, concepts_YK = _associations(train, train_class, len(classes), weight_C, max(n))
    accuracy = {}
    for count in n:
        weights = _class_weights(associated_YK[:, :count], concepts_YK[:, :count], weight_C)
        credit = 0.0
        for start in range(0, test.shape[0], block):
            score_NY = (csr_array(test[start : start + block], dtype=np.float64) @ weights).toarray()
            best_N1 = score_NY.max(axis=1, keepdims=True)
            ties_NY = score_NY >= best_N1 - 1e-12 * np.abs(best_N1)
            truth = test_class[start : start + block]
            known = np.flatnonzero(truth >= 0)
            credit += float((ties_NY[known, truth[known]] / ties_NY[known].sum(axis=1)).sum())
        accuracy[count] = credit / test.shape[0]
    frequent = int(np.bincount(train_class, minlength=len(classes)).argmax())
    return ConceptClassification(classes, accuracy, float((test_class == frequent).mean()), concepts_YK)


@dataclass(frozen=True, eq=False)
class SparseProbe:
    """How well classes are told from the rest by a classifier that sees only k concepts.

    Attributes:
        classes: their names.
        accuracy: k -> balanced accuracy of each class (Y,), 0..1, 0.5 is chance; NaN where the test rows lack
            the class or anything else.
        concepts_YK: the concepts chosen for each class, best first.
    """

    classes: tuple[str, ...]
    accuracy: dict[int, Floats]
    concepts_YK: Ints

    def mean(self, k: int) -> float:
        """Mean over classes."""
        values_Y = self.accuracy[k]
        known_Y = values_Y[np.isfinite(values_Y)]
        return float(known_Y.mean()) if len(known_Y) else float("nan")


def sparse_probe(
    train: csr_array,
    train_labels: Labels,
    test: csr_array,
    test_labels: Labels,
    *,
    k: Sequence[int] = (1, 5, 10, 50),
    strength: float = 1.0,
    iterations: int = 1000,
) -> SparseProbe:
    """k-sparse probing (Gurnee et al. 2023): each class against the rest, logistic regression on k concepts.

    The k concepts with the largest difference of mean strength, either way, between the class and the rest of
    the training rows (strengths as in `classify_by_concepts`); classes weigh the same whatever their size.

    Args:
        train, test: codes (T, C) and (N, C) of one autoencoder, of different rows.
        k: how many concepts.
        strength: inverse of the L2 penalty, scikit-learn's C.
        iterations: at most so many of the solver.

    Raises:
        DataError: labels that do not fit the codes, fewer than two classes, codes of different autoencoders.
        UsageError: a k below 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score

    if not k or min(k) < 1:
        raise UsageError(f"k is {list(k)}.", do="Give numbers of concepts of at least 1.")
    classes, train_class, test_class = _classes(train, train_labels, test, test_labels)
    weight_C = 1 / _root_mean_square(train)
    _, concepts_YK = _associations(train, train_class, len(classes), weight_C, max(k), either_way=True)
    by_concept, by_concept_test = csc_array(train), csc_array(test)
    accuracy = {count: np.full(len(classes), np.nan) for count in k}
    for one in range(len(classes)):
        truth_T, truth_N = train_class == one, test_class == one
        if truth_N.all() or not truth_N.any():
            continue
        for count in k:
            chosen = concepts_YK[one, :count]
            chosen = chosen[chosen >= 0]
            if not len(chosen):  # no concept fires at all: nothing to see
                accuracy[count][one] = 0.5
                continue
            train_TK = by_concept[:, chosen].toarray() * weight_C[chosen]
            test_NK = by_concept_test[:, chosen].toarray() * weight_C[chosen]
            probe = LogisticRegression(C=strength, class_weight="balanced", max_iter=iterations)
            given = probe.fit(train_TK, truth_T).predict(test_NK)
            accuracy[count][one] = float(recall_score(truth_N, given, average="macro"))
    return SparseProbe(classes, accuracy, concepts_YK)


def _associations(
    train: csr_array, class_T: Ints, classes: int, weight_C: Floats, kept: int, *, either_way: bool = False
) -> tuple[Floats, Ints]:
    """The largest associations of each class and their concepts (Y, K), best first, padded with 0 and -1."""
    rows, concepts = train.shape
    kept = min(kept, concepts)
    member = csr_array((np.ones(rows), (class_T, np.arange(rows))), shape=(classes, rows))
    size_Y = np.bincount(class_T, minlength=classes)
    total_C = np.asarray(train.sum(axis=0, dtype=np.float64)).ravel() * weight_C
    best_YK, concepts_YK = np.zeros((classes, kept)), np.full((classes, kept), -1, dtype=np.int64)
    step = max(1, BLOCK_VALUES // concepts)
    codes = csr_array(train, dtype=np.float64)
    for first in range(0, classes, step):
        part = slice(first, first + step)
        sum_YC = (member[part] @ codes).toarray() * weight_C
        inside_Y1, outside_Y1 = size_Y[part, None], rows - size_Y[part, None]
        difference_YC = sum_YC / inside_Y1 - (total_C - sum_YC) / outside_Y1
        rank_YC = np.abs(difference_YC) if either_way else difference_YC
        # Equal associations are ordered by concept, so that the answer does not hang on the sort.
        order_YK = np.argsort(-rank_YC, axis=1, kind="stable")[:, :kept]
        value_YK = np.take_along_axis(difference_YC, order_YK, axis=1)
        good_YK = np.take_along_axis(rank_YC, order_YK, axis=1) > 0
        best_YK[part] = np.where(good_YK, value_YK, 0)
        concepts_YK[part] = np.where(good_YK, order_YK, -1)
    return best_YK, concepts_YK


def _class_weights(associated_YK: Floats, concepts_YK: Ints, weight_C: Floats) -> csc_array:
    """(C, Y): each class's associations at length 1, times what turns codes into strengths."""
    length_Y1 = np.linalg.norm(associated_YK, axis=1, keepdims=True)
    unit_YK = associated_YK / np.where(length_Y1 > 0, length_Y1, 1)
    class_S, slot_S = np.nonzero(concepts_YK >= 0)
    concept_S = concepts_YK[class_S, slot_S]
    values_S = unit_YK[class_S, slot_S] * weight_C[concept_S]
    return csc_array((values_S, (concept_S, class_S)), shape=(len(weight_C), len(associated_YK)))


def _root_mean_square(codes: csr_array) -> Floats:
    """Of each concept over all rows, (C,); infinite for one that never fires, which weighs nothing."""
    squares_C = np.bincount(
        codes.indices, weights=codes.data.astype(np.float64) ** 2, minlength=codes.shape[1]
    )
    return np.where(squares_C > 0, np.sqrt(squares_C / codes.shape[0]), np.inf)


def _classes(
    train: csr_array, train_labels: Labels, test: csr_array, test_labels: Labels
) -> tuple[tuple[str, ...], Ints, Ints]:
    """The classes of the training rows, and each row's; -1 for a test row whose class was never seen."""
    if train.shape[1] != test.shape[1]:
        raise DataError(
            f"Training codes have {train.shape[1]} concepts, test codes {test.shape[1]}.",
            do="Encode both with one autoencoder.",
        )
    label_T, label_N = np.asarray(train_labels, dtype=str), np.asarray(test_labels, dtype=str)
    for labels, codes in ((label_T, train), (label_N, test)):
        if labels.shape != (codes.shape[0],) or not len(labels):
            raise DataError(
                f"{labels.size} labels do not fit codes of {codes.shape[0]} rows.", do="Give one a row."
            )
        if not np.isfinite(codes.data).all():
            raise DataError("A code holds NaN or infinity.", do="Leave such rows out.")
    names, class_T = np.unique(label_T, return_inverse=True)
    if len(names) < 2:
        raise DataError(f"All training rows are '{names[0]}'.", do="Give at least two classes.")
    place_N = np.searchsorted(names, label_N).clip(max=len(names) - 1)
    class_N = np.where(names[place_N] == label_N, place_N, -1)
    return tuple(str(name) for name in names), class_T.astype(np.int64), class_N.astype(np.int64)


def _without_zeros(codes: csc_array) -> csc_array:
    if codes.data.all():
        return codes
    kept = codes.copy()
    kept.eliminate_zeros()
    return kept
