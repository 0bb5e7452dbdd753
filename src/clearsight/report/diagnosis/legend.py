"""What each score of a concept and each measure of a table means, and the numbers of the paper beside ours.

One row a score; a name that has no row is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from clearsight.report.diagnosis.data import Overlap
from clearsight.report.text import measure_name

IMAGE_BELOW: Final = 0.2
"""Concepts with a modality score below this are called image-sided ..."""
TEXT_ABOVE: Final = 0.8
"""... and above this text-sided; those between are shared."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A score of concepts: its label, what it says in one sentence, and its range."""

    name: str
    label: str
    says: str


_SCORES: Final = (
    ScoreRow("energy", "Energy", "Mean activation over all pictures and texts; 0 or above."),
    ScoreRow(
        "modality",
        "Modality",
        "Share of the activation that comes from texts: 0 is image only, 1 is text only.",
    ),
    ScoreRow(
        "bridge",
        "Bridge",
        "How much of the similarity of matched pairs runs through this concept and those it meets in them.",
    ),
    ScoreRow(
        "attribution",
        "Attribution",
        "What the concept adds to the similarity of a picture and its text; below 0 it takes away.",
    ),
    ScoreRow("firing_rate", "Firing rate", "Share of the pictures and texts that activate it."),
    ScoreRow(
        "monosemanticity",
        "Monosemanticity",
        "How alike the items are that activate it most; 1 at most.",
    ),
)

_MEASURES: Final = {
    "anisotropy": "mean cosine of two different rows; 0 is isotropic",
    "mean_cosine": "mean cosine of two different rows; 0 is isotropic",
    "effective_rank": "directions in use; higher uses more of them",
    "isoscore": "evenness of the variance over directions, 0 to 1",
    "common_share": "share of the one direction that all rows have in common, 0 to 1",
    "hubness": "skewness of how often a row is a neighbour; lower is better",
    "uniformity": "spread over the sphere, −8 to 0; lower is more even",
    "alignment": "squared distance of matched pairs, 0 to 4; lower is closer",
    "modality_gap": "distance of the means of pictures and texts, 0 to 2",
    "separability": "accuracy of a plane that tells pictures from texts; 0.5 is chance",
    "mse": "mean squared error; lower is better",
    "fvu": "fraction of variance unexplained; lower is better",
    "explained_variance": "share of variance explained, 1 at most",
    "r2": "share of variance explained, 1 at most",
    "cosine": "cosine of a row and its reconstruction, 1 at most",
    "l0": "active concepts of a row",
    "dead_share": "share of concepts that never fire",
}


@dataclass(frozen=True, slots=True)
class Reference:
    """A row of Table 1 of Generative Giants, Retrieval Weaklings."""

    model: str
    kind: str
    overlap: Overlap


REFERENCE_OVERLAP: Final = (
    Reference("CLIP", "contrastive", Overlap(0.5674, 0.6831, 0.6126, 0.4796)),
    Reference("SigLIP2", "contrastive", Overlap(0.3948, 0.5775, 0.3783, 0.2915)),
    Reference("Qwen2-VL-7B", "generative", Overlap(0.6494, 0.7957, 0.7146, 0.5989)),
    Reference("Qwen3-VL-8B", "generative", Overlap(0.6610, 0.8547, 0.6700, 0.5486)),
    Reference("PaliGemma2-3B", "generative", Overlap(0.7655, 0.8085, 0.7124, 0.6541)),
    Reference("Chameleon-7B", "generative", Overlap(0.6850, 0.8591, 0.7099, 0.5953)),
)


def score_row(name: str) -> ScoreRow:
    """The row of a score; `bridge_max` and the like are explained as reductions of the bridge."""
    found = next((row for row in _SCORES if row.name == name), None)
    if found:
        return found
    if name.startswith("bridge_"):
        reduction = name.removeprefix("bridge_")
        return ScoreRow(name, f"Bridge ({reduction})", f"The bridge, reduced by '{reduction}' instead.")
    label = measure_name(name)
    return ScoreRow(name, label[:1].upper() + label[1:], "")


def measures_explained(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(measure, what it says) of those names that have a row, each once, in the order given."""
    return tuple((name, _MEASURES[name]) for name in dict.fromkeys(names) if name in _MEASURES)
