"""The paper's claims in words: every outcome, on profiles and tests made for it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from clearsight.concepts import ConceptProfile, Overlap, profile_codes
from clearsight.concepts.findings import (
    Verdict,
    bridging_concentrates,
    removal_helps,
    text_dominates,
)
from clearsight.errors import UsageError
from clearsight.metrics import PairedTest


def profile_of(text_only: int, image_only: int, shared: int, text_value: float = 1.0) -> ConceptProfile:
    """So many concepts of each kind; text-specific ones fire with `text_value`, all others with 1."""
    image = np.array([[0.0] * text_only + [1.0] * image_only + [1.0] * shared])
    text = np.array([[text_value] * text_only + [0.0] * image_only + [1.0] * shared])
    return profile_codes(csr_array(image), csr_array(text), np.eye(image.shape[1]))


class TestTextDominates:
    def test_shown(self) -> None:
        found = text_dominates(profile_of(80, 10, 10))
        assert found.verdict is Verdict.SHOWN
        assert "80% are specific to text and 10% to images" in found.sentence
        assert found.sentence.endswith("Dominance of text is shown here.")

    def test_the_opposite(self) -> None:
        found = text_dominates(profile_of(10, 80, 10))
        assert found.verdict is Verdict.OPPOSITE
        assert found.sentence.endswith("Dominance of text is not shown here; the opposite is seen here.")

    @pytest.mark.parametrize("counts", [(11, 9, 80), (50, 50, 0), (0, 0, 30), (3, 1, 2)])
    def test_too_close_or_too_few(self, counts: tuple[int, int, int]) -> None:
        assert text_dominates(profile_of(*counts)).verdict is Verdict.NOT_SHOWN

    def test_number_and_energy_disagree(self) -> None:
        found = text_dominates(profile_of(80, 20, 0, text_value=0.01))
        assert found.verdict is Verdict.NOT_SHOWN
        assert "by number and by energy the answers differ" in found.sentence

    def test_energy_that_is_about_equal_decides_nothing(self) -> None:
        found = text_dominates(profile_of(80, 20, 0, text_value=0.26))
        assert found.verdict is Verdict.NOT_SHOWN
        assert "differ" not in found.sentence

    def test_the_line_is_settable(self) -> None:
        with pytest.raises(UsageError, match="specific"):
            text_dominates(profile_of(1, 1, 1), specific=0.5)


def overlap_of(figure: float, size: int = 100, expected: float = 0.01) -> Overlap:
    return Overlap("abs", size, 10_000, figure, figure, figure, figure, expected, expected / 100)


class TestBridgingConcentrates:
    def test_shown_and_the_opposite(self) -> None:
        high, low = overlap_of(0.7), overlap_of(0.4)
        assert bridging_concentrates(high, low).verdict is Verdict.SHOWN
        found = bridging_concentrates(low, high)
        assert found.verdict is Verdict.OPPOSITE
        assert "0 of 4 overlaps are higher in the generative model, 4 lower" in found.sentence

    def test_one_concept_more_or_less_decides_nothing(self) -> None:
        found = bridging_concentrates(overlap_of(0.55, size=10), overlap_of(0.4, size=10))
        assert found.verdict is Verdict.NOT_SHOWN
        assert "4 too close to tell" in found.sentence

    def test_figures_that_disagree(self) -> None:
        mixed = Overlap("abs", 100, 10_000, 0.9, 0.9, 0.1, 0.9, 0.01, 0.0001)
        assert bridging_concentrates(mixed, overlap_of(0.4)).verdict is Verdict.NOT_SHOWN

    def test_what_random_sets_would_share_is_taken_off(self) -> None:
        crowded = overlap_of(0.6, expected=0.5)  # few live concepts: random sets overlap as well
        assert bridging_concentrates(crowded, overlap_of(0.4)).verdict is Verdict.NOT_SHOWN

    def test_nothing_to_compare_with(self) -> None:
        found = bridging_concentrates(overlap_of(0.5), None)
        assert found.verdict is Verdict.NOT_TESTED
        assert found.sentence == "There is no contrastive model to compare with: not tested here."
        assert "pairs" in bridging_concentrates(None, overlap_of(0.5)).sentence


def paired(difference: float, p_value: float) -> PairedTest:
    return PairedTest(difference, difference - 0.01, difference + 0.01, p_value, 500)


BETTER, WORSE, NEITHER = paired(0.1, 0.0004), paired(-0.1, 0.01), paired(0.02, 0.4)


class TestRemovalHelps:
    @pytest.mark.parametrize(
        ("against_base", "against_random", "verdict"),
        [
            (BETTER, BETTER, Verdict.SHOWN),
            (BETTER, NEITHER, Verdict.NOT_SHOWN),
            (BETTER, WORSE, Verdict.NOT_SHOWN),
            (NEITHER, BETTER, Verdict.NOT_SHOWN),
            (WORSE, BETTER, Verdict.NOT_SHOWN),
            (NEITHER, NEITHER, Verdict.NOT_SHOWN),
            (NEITHER, WORSE, Verdict.OPPOSITE),
            (WORSE, NEITHER, Verdict.OPPOSITE),
            (WORSE, WORSE, Verdict.OPPOSITE),
        ],
    )
    def test_every_outcome(
        self, against_base: PairedTest, against_random: PairedTest, verdict: Verdict
    ) -> None:
        found = removal_helps("image -> text", "hit_rate@1", 0.1, 0.2, against_base, against_random)
        assert found.verdict is verdict
        assert found.sentence.endswith(
            {
                Verdict.SHOWN: "A benefit of removing distractors is shown here.",
                Verdict.NOT_SHOWN: "A benefit of removing distractors is not shown here.",
                Verdict.OPPOSITE: "is not shown here; the opposite is seen here.",
            }[verdict]
        )
        assert ("not owed" in found.sentence) == (against_base is BETTER and against_random is not BETTER)

    def test_the_numbers_are_in_the_words(self) -> None:
        found = removal_helps("t", "hit_rate@5", 0.1, 0.2, BETTER, NEITHER)
        assert "t, hit_rate@5: 10.0% as it is, 20.0% without" in found.sentence
        assert "+10.0 points, p below 0.001" in found.sentence
        assert "no difference that can be told from none, +2.0 points, p 0.400" in found.sentence
        assert found.numbers["difference_from_random"] == 0.02
