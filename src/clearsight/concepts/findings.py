"""The paper's three claims, held against one's own numbers, in plain sentences.

Every word of a sentence follows from the numbers beside it. A claim can be shown, its opposite can be seen,
it can fail to show either way, or it cannot be tested with what there is.

Legend of shapes: C concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from clearsight.concepts.codes import Floats
from clearsight.concepts.sets import Overlap
from clearsight.errors import UsageError

if TYPE_CHECKING:
    from clearsight.concepts.profile import ConceptProfile
    from clearsight.metrics import PairedTest

SPECIFIC = 0.75
"""A score of at least this is specific to text, of at most 1 - this to images (the paper draws no line)."""
LEVEL = 0.05
"""Differences with a larger p-value are not told from none."""
TELLING = 0.05
"""Shares of the energy that are closer than this are taken for equal."""


class Verdict(StrEnum):
    """What the numbers say of a claim."""

    SHOWN = "shown here"
    OPPOSITE = "the opposite is seen here"
    NOT_SHOWN = "not shown here"
    NOT_TESTED = "not tested here"


@dataclass(frozen=True)
class Finding:
    """One claim of the paper beside one's own numbers.

    Attributes:
        claim: what the paper says of large models, in a sentence.
        verdict: what the numbers say of it.
        sentence: the numbers in words, the verdict included.
        numbers: what the sentence was made of.
    """

    claim: str
    verdict: Verdict
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


TEXT_CLAIM = "Text dominates: most concepts of a generative model belong to text, few to images."
BRIDGE_CLAIM = (
    "The concepts that hold most energy, bridge the modalities and drive similarity are the same ones more "
    "often in a generative model than in a contrastive one."
)
REMOVAL_CLAIM = (
    "Removing the concepts that add most to similarity makes retrieval better: they are distractors."
)


def text_dominates(profile: ConceptProfile, specific: float = SPECIFIC) -> Finding:
    """Whether concepts, and the energy they hold, lean to text (the paper's section 3.2).

    Shown: text-specific concepts outnumber image-specific ones, with a two-sided binomial p below 0.05, and
    hold more of the energy, by at least five points. The opposite: both the other way round. Anything between
    is not shown. Both modalities weigh the same in the energy, however many rows each has.

    Args:
        specific: scores from this on count as text-specific, up to 1 - this as image-specific.

    Raises:
        UsageError: `specific` not above 0.5 and at most 1.
    """
    from scipy.stats import binomtest

    if not 0.5 < specific <= 1:
        raise UsageError(f"specific is {specific}.", do="Give a score above 0.5 and at most 1, such as 0.75.")
    scored = ~np.isnan(profile.modality_score_C)
    score, energy = profile.modality_score_C[scored], _balanced_energy(profile)[scored]
    text, image = score >= specific, score <= 1 - specific
    p_value = (
        float(binomtest(int(text.sum()), int(text.sum() + image.sum())).pvalue)
        if (text | image).any()
        else 1.0
    )
    numbers = {
        "concepts": float(scored.sum()),
        "text_share": float(text.mean()),
        "image_share": float(image.mean()),
        "text_energy_share": float(energy[text].sum() / energy.sum()),
        "image_energy_share": float(energy[image].sum() / energy.sum()),
        "mean_score": float(score.mean()),
        "p_value": p_value,
    }
    counts = np.sign(text.sum() - image.sum()) if p_value < LEVEL else 0
    gap = numbers["text_energy_share"] - numbers["image_energy_share"]
    weights = np.sign(gap) if abs(gap) >= TELLING else 0
    agree = counts == weights
    verdict = _verdict(int(counts) if agree else 0)
    words = (
        f"Of {int(scored.sum()):,} concepts with a modality score {text.mean():.0%} are specific to text and "
        f"{image.mean():.0%} to images; they hold {numbers['text_energy_share']:.0%} and "
        f"{numbers['image_energy_share']:.0%} of the energy"
    )
    if not agree and counts and weights:
        words += ": by number and by energy the answers differ"
    return Finding(TEXT_CLAIM, verdict, f"{words}. Dominance of text is {_said(verdict)}.", numbers)


def _balanced_energy(profile: ConceptProfile) -> Floats:
    """Energy with both modalities weighing the same, so that the side with more rows does not decide."""
    return np.asarray(profile.image_energy_C + profile.text_energy_C)


def bridging_concentrates(generative: Overlap | None, contrastive: Overlap | None) -> Finding:
    """Whether the top sets overlap more in the generative model (section 3.3, Table 1).

    Compared are the four figures of `Overlap`, each less what random sets of its model's sizes would show.
    Two figures count as different where they are further apart than exchanging one concept of a set can move
    them, 2 / M of the smaller set of M concepts. Shown: at least three are higher and none lower. The
    opposite: at least three are lower and none higher.
    """
    if generative is None or contrastive is None:
        lacking = "pairs" if generative is None else "contrastive model"
        words = f"There is no {lacking} to compare with"
        return Finding(BRIDGE_CLAIM, Verdict.NOT_TESTED, f"{words}: {_said(Verdict.NOT_TESTED)}.")
    grain = 2 / min(generative.size, contrastive.size)
    excess = {
        name: _above_random(generative, name) - _above_random(contrastive, name)
        for name in generative.figures
    }
    higher, lower = (sum(sign * gap > grain for gap in excess.values()) for sign in (1, -1))
    verdict = _verdict((higher >= 3 and not lower) - (lower >= 3 and not higher))
    words = (
        f"Energy, attribution and bridge share {generative.triple:.0%} of their top concepts in the "
        f"generative model ({generative.expected_triple:.1%} expected of random sets) and "
        f"{contrastive.triple:.0%} in the contrastive one ({contrastive.expected_triple:.1%}). "
        f"Beyond chance, {higher} of 4 overlaps are higher in the generative model, {lower} lower, "
        f"{4 - higher - lower} too close to tell"
    )
    numbers = {
        **{f"excess_{name}": gap for name, gap in excess.items()},
        "higher": float(higher),
        "lower": float(lower),
        "grain": grain,
    }
    return Finding(
        BRIDGE_CLAIM, verdict, f"{words}. A stronger concentration on bridging is {_said(verdict)}.", numbers
    )


def _above_random(found: Overlap, name: str) -> float:
    return found.figures[name] - (found.expected_triple if name == "triple" else found.expected)


def removal_helps(
    task: str, measure: str, base: float, removed: float, against_base: PairedTest, against_random: PairedTest
) -> Finding:
    """Whether removing the top-attribution concepts helps beyond removing random ones (section 3.4, Table 2).

    Shown: better than the base and than the mean of the random controls, both with p below 0.05. The
    opposite: worse than the base, or worse than random removal, with p below 0.05, and better than neither. A
    gain that random concepts bring as well is not shown: it is no property of the concepts that were chosen.

    Args:
        task: such as "image -> text".
        base, removed: means of the measure, 0..1.
        against_base, against_random: paired tests of the removal against the base, against random removal.
    """
    signs = [_sign(test) for test in (against_base, against_random)]
    verdict = _verdict(1 if min(signs) > 0 else -1 if min(signs) < 0 and max(signs) <= 0 else 0)
    words = (
        f"{task}, {measure}: {base:.1%} as it is, {removed:.1%} without the top-attribution concepts "
        f"({_test_words(against_base)}); against random concepts {_test_words(against_random)}"
    )
    if signs[0] > 0 and signs[1] <= 0:
        words += ", so the gain is not owed to the concepts that were chosen"
    numbers = {
        "base": base,
        "removed": removed,
        "difference": against_base.difference,
        "p_value": against_base.p_value,
        "difference_from_random": against_random.difference,
        "p_value_from_random": against_random.p_value,
    }
    return Finding(
        REMOVAL_CLAIM, verdict, f"{words}. A benefit of removing distractors is {_said(verdict)}.", numbers
    )


def _sign(test: PairedTest) -> int:
    return int(np.sign(test.difference)) if test.p_value < LEVEL else 0


def _test_words(test: PairedTest) -> str:
    p_value = "below 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"
    points = f"{100 * test.difference:+.1f} points, p {p_value}"
    return points if test.p_value < LEVEL else f"no difference that can be told from none, {points}"


def _verdict(sign: int) -> Verdict:
    return {1: Verdict.SHOWN, 0: Verdict.NOT_SHOWN, -1: Verdict.OPPOSITE}[sign]


def _said(verdict: Verdict) -> str:
    """The verdict as the end of a sentence whose subject is the claim."""
    return "not shown here; " + verdict.value if verdict is Verdict.OPPOSITE else verdict.value
