"""What each repair does in one sentence, what it looks at, and what it does not use.

One row a repair; a name finds the longest row whose key begins it, so that "ReAlign 0.5" is explained too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """`looks_at` and `not_used` are noun phrases."""

    name: str
    does: str
    looks_at: str
    not_used: str


_NO_LABELS = "labels or training"
_ROWS = (
    Explanation(
        "base",
        "The pooled hidden states as the model gives them, normalised to unit length; no repair.",
        "nothing but the item",
        _NO_LABELS,
    ),
    Explanation(
        "centred",
        "Subtracts the mean of each side, so that the direction all items share no longer hides what tells "
        "them apart.",
        "unlabelled items of each side",
        _NO_LABELS,
    ),
    Explanation(
        "ReAlign",
        "Whitens each side with a shrunk covariance, so that no few directions decide every comparison "
        "(Feng et al. 2026).",
        "unlabelled items of each side",
        _NO_LABELS,
    ),
    Explanation(
        "self-aligned",
        "The model captions unlabelled images; from these pairs of its own making one closed-form map turns "
        "the images' space onto the texts'.",
        "unlabelled images and the model's own captions of them",
        "labels, training or a second model",
    ),
    Explanation(
        "refined",
        "Self-alignment repeated with mutual nearest neighbours among the items at hand as further pairs; it "
        "assumes that matches exist among them.",
        "the queries and candidates themselves, unpaired",
        "labels, training or a second model",
    ),
    Explanation(
        "describe, then embed",
        "Embeds the caption that the model writes for an image in place of the image.",
        "one generated caption for each image",
        _NO_LABELS,
    ),
    Explanation(
        "reranked",
        "The model itself judges the first results: the likelihood of a caption given the image, less that "
        "of the caption alone.",
        "the first results of each query",
        _NO_LABELS,
    ),
)


def explanations(names: Iterable[str]) -> tuple[Explanation, ...]:
    """The rows that explain `names`, in the order of this module, each once; unknown names have none."""
    found = {_find(name) for name in names}
    return tuple(row for row in _ROWS if row in found)


def _find(name: str) -> Explanation | None:
    fitting = [row for row in _ROWS if name.casefold().startswith(row.name.casefold())]
    return max(fitting, key=lambda row: len(row.name), default=None)
