"""A judge whose model looks again at its images: the pass that visual enhancement makes, and no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.errors import UsageError
from clearsight.models.judge import Judge
from clearsight.models.judge_questions import Next, Question, Said, Written
from clearsight.models.load import load_model
from clearsight.models.prepare import padded
from clearsight.models.prompts import Part, Span, Turn
from clearsight.models.retrace import ENHANCEMENTS, Retrace
from clearsight.pooling import PROMPT
from families.build import qwen2_vl

EAGER = replace(ENHANCEMENTS.get("paper"), threshold=0.0)
"""Every question with an image is enhanced."""
ANSWERS = Next(((5,), (7, 9)))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(
        qwen2_vl(tmp_path_factory.mktemp("deep"), layers=8), device="cpu", dtype=torch.float32, head=True
    )


def question(text, measure, seed=None):
    """A question about noise, or about nothing that is seen."""
    parts, images = [Part("text", (Span(text),))], []
    if seed is not None:
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        parts, images = [Part("image"), *parts], [Image.fromarray(noise)]
    return Question((Turn("user", tuple(parts)),), tuple(images), measure, text)


def asked(measure):
    return [
        question(text, measure, seed)
        for seed in (0, 1)
        for text in ("is there a red square?", "a circle", "is it a large blue star, or none at all?")
    ]


def by_hand(loaded, form, one):
    """The judge's row from a pass over this question alone, whole, inside `Retrace`."""
    judge = Judge(loaded)
    pictures = [judge.poser.picture(image, 1, "") for image in one.images]
    posed = judge.poser(one, pictures)
    kinds_BL, mask_BL = padded([posed.kinds_L], PROMPT)
    where_BL = None
    if isinstance(one.measure, Said):
        where_BL = torch.arange(len(posed)) >= posed.prompt - 1
        where_BL = where_BL[None]
    inputs = judge.passes._inputs([posed])
    with (
        torch.inference_mode(),
        Retrace(loaded, form).during(kinds_BL, mask_BL, where_BL=where_BL) as told,
    ):
        states_LD = loaded.base(**inputs, use_cache=False).last_hidden_state[0]
        log_p_LV = loaded.model.get_output_embeddings()(states_LD).float().log_softmax(-1).numpy()
    if isinstance(one.measure, Next):
        last = log_p_LV[-1]
        sets = [float(np.logaddexp.reduce(last[list(ids)])) for ids in one.measure.sets]
        return [*sets, float(-(np.exp(last) * last).sum())], told
    said = posed.ids_L[posed.prompt :]
    return [sum(log_p_LV[posed.prompt - 1 + t, token] for t, token in enumerate(said)), len(said)], told


@pytest.mark.parametrize("form", [EAGER, ENHANCEMENTS.get("release")], ids=["paper", "release"])
@pytest.mark.parametrize("measure", [ANSWERS, Said("a green ring", end=False)], ids=["next", "said"])
def test_rows_are_those_of_an_enhanced_pass(loaded, form, measure):
    form = replace(form, threshold=0.0)
    questions = asked(measure)
    rows = Judge(loaded, enhancement=form).answer(questions)
    plain = Judge(loaded).answer(questions)
    for row, before, one in zip(rows, plain, questions, strict=True):
        wanted, told = by_hand(loaded, form, one)
        assert (told.layer_BL >= 0).any()
        assert row == pytest.approx(wanted, abs=2e-4)
        assert np.abs(row - before)[0] > 1e-4


def test_mixed_questions_are_answered_as_alone(loaded):
    mixed = [one for pair in zip(asked(ANSWERS), asked(Said("a ring")), strict=True) for one in pair]
    together = Judge(loaded, enhancement=EAGER).answer(mixed)
    for one, row in zip(mixed, together, strict=True):
        (alone,) = Judge(loaded, enhancement=EAGER).answer([one])
        assert row == pytest.approx(alone, abs=2e-4)


def test_nothing_changes_without_images_or_without_doubt(loaded):
    blind = [question("is there a red square?", ANSWERS)]
    assert Judge(loaded, enhancement=EAGER).answer(blind)[0] == pytest.approx(
        Judge(loaded).answer(blind)[0], abs=2e-4
    )
    sure = replace(EAGER, threshold=1.0)
    for row, before in zip(
        Judge(loaded, enhancement=sure).answer(asked(ANSWERS)),
        Judge(loaded).answer(asked(ANSWERS)),
        strict=True,
    ):
        assert row == pytest.approx(before, abs=2e-4)


def test_answers_with_and_without_are_kept_apart(loaded, tmp_path):
    questions = asked(ANSWERS)
    Judge(loaded, cache=tmp_path).answer(questions)
    enhanced = Judge(loaded, cache=tmp_path, enhancement=EAGER)
    rows = enhanced.answer(questions)
    assert enhanced.asked == len(questions)
    again = Judge(loaded, cache=tmp_path, enhancement=EAGER)
    assert np.array_equal(again.answer(questions), rows)
    assert again.asked == 0
    other = Judge(loaded, cache=tmp_path, enhancement=replace(EAGER, ratio=0.5))
    assert other.answer(questions) is not None
    assert other.asked == len(questions)


def test_what_cannot_be_enhanced_is_refused(loaded):
    with pytest.raises(UsageError, match="not enhanced"):
        Judge(loaded, enhancement="paper").answer([question("how much?", Written(3), 0)])
    with pytest.raises(UsageError, match="nonesuch"):
        Judge(loaded, enhancement="nonesuch")
