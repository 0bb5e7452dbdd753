"""Names of concepts: the words that the items which activate a concept most share, and others do not.

A word's count among the concept's strongest items is held against a draw of as many items from all
(hypergeometric tail); it stands in the name where that is unlikely for any word of the vocabulary
(Bonferroni).

Legend of shapes: N items, C concepts, V words, S items of a concept, W words of its strongest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import hypergeom

from clearsight.concepts.codes import checked_codes
from clearsight.errors import UsageError

STRONGEST = 20
"""Items of a concept that are looked at, the strongest first."""
MOST_WORDS = 3
ALPHA = 0.01
_WORD = re.compile(r"[^\W\d_]+")


def concept_names(codes: csr_array, texts: Sequence[str]) -> list[str]:
    """For each concept up to three words, the most telling first, with commas between; "" where no word is
    there more often than by chance.

    Words are runs of letters, in lower case; nothing is known of languages, so that a script
    without spaces between words brings names only where whole phrases come again.

    Args:
        codes: (N, C) of the items.
        texts: N, the words about each item (a picture's: its captions); items without any are left out.

    Raises:
        UsageError: another number of texts than of items.
    """
    codes = checked_codes(codes, "Codes")
    if len(texts) != codes.shape[0]:
        raise UsageError(f"There are {len(texts)} texts for {codes.shape[0]} items.")
    found = [sorted(set(_WORD.findall(text.lower()))) for text in texts]
    told_N = np.array([bool(words) for words in found])
    vocabulary = sorted({word for words in found for word in words})
    if not vocabulary:
        return [""] * codes.shape[1]
    place = {word: at for at, word in enumerate(vocabulary)}
    holds_NV = csr_array(
        (
            np.ones(sum(map(len, found))),
            [place[word] for words in found for word in words],
            np.cumsum([0, *map(len, found)]),
        ),
        shape=(len(found), len(vocabulary)),
    )
    whole_V = np.asarray(holds_NV.sum(axis=0)).ravel()
    columns = codes.tocsc()
    names = []
    for concept in range(codes.shape[1]):
        span = slice(columns.indptr[concept], columns.indptr[concept + 1])
        row_S, code_S = columns.indices[span], columns.data[span]
        row_S, code_S = row_S[told_N[row_S]], code_S[told_N[row_S]]
        chosen = row_S[np.lexsort((row_S, -code_S))[:STRONGEST]]
        word_W, among_W = np.unique(holds_NV[chosen].indices, return_counts=True)
        # the chance that as many items, drawn from those that have words, hold a word as often
        chance_W = hypergeom.sf(among_W - 1, told_N.sum(), whole_V[word_W], len(chosen))
        best = np.argsort(chance_W, kind="stable")[:MOST_WORDS]
        telling = (at for at in best if chance_W[at] * len(vocabulary) < ALPHA)
        names.append(", ".join(vocabulary[word_W[at]] for at in telling))
    return names
