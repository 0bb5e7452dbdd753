"""What each score of a concept and each measure of a table means.

One row a score; a name that has no row is shown as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clearsight.concepts.findings import SPECIFIC
from clearsight.report.text import measure_name

IMAGE_UP_TO: Final = 1 - SPECIFIC
"""Concepts with a modality score up to this are called image concepts ..."""
TEXT_FROM: Final = SPECIFIC
"""... and from this on text concepts; those between are shared."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A score of concepts: its label, what it says in one sentence, and whether it is a share of 0..1."""

    name: str
    label: str
    says: str
    share: bool = False


_SCORES: Final = (
    ScoreRow("energy", "Energy", "Mean activation over all pictures and texts; 0 or above."),
    ScoreRow(
        "modality",
        "Modality",
        "Share of the activation that comes from texts: 0 is image only, 1 is text only.",
        share=True,
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
    ScoreRow("firing_rate", "Firing rate", "Share of the pictures and texts that activate it.", share=True),
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


def measure_says(name: str) -> str:
    """What a measure of a table means, in a few words; empty for one that has no row."""
    return _MEASURES.get(name, "")
