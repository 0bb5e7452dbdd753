"""Each scorer beside one plain transformers forward per pair, worded here from the papers, batch 1, full
logits. The official wordings, on the shipped model. Tolerance 1e-4.
"""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import pytest
import torch
import transformers

from clearsight.data import world
from clearsight.models.folder import find_folder
from clearsight.models.load import load_model
from clearsight.rerank import SCORERS, Reranker
from clearsight.types import Item

TOLERANCE = 1e-4
YES = "Yes, the candidate fully matches the query."
NO = "No, the candidate does not match or only partially matches."
IMAGES = world.image_to_text(5, seed=3).queries
TEXTS = world.text_to_image(5, seed=3).queries
COMPOSED = world.composed(4, seed=3)
BOTH = tuple(
    Item(f"both {i}", text=text.text, image=image.image)
    for i, (text, image) in enumerate(zip(TEXTS, IMAGES, strict=True))
)
PAIRS = {
    "text -> image": (TEXTS[0], IMAGES),
    "image -> text": (IMAGES[1], TEXTS),
    "text -> text": (TEXTS[2], TEXTS[3:]),
    "image -> image": (IMAGES[0], IMAGES[1:3]),
    "image+text -> image": (COMPOSED.queries[0], COMPOSED.candidates[:3]),
    "text -> image+text": (TEXTS[1], BOTH[:3]),
    "image+text -> text": (BOTH[4], TEXTS[:3]),
    "image+text -> image+text": (BOTH[0], BOTH[1:3]),
}


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny", head=True)


@pytest.fixture(scope="module")
def peer():
    folder = find_folder("tiny").path
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return Peer(model, transformers.AutoTokenizer.from_pretrained(folder), folder)


class Peer:
    """One conversation at a time: parts are texts and images, in order."""

    def __init__(self, model, tokenizer, folder):
        self.model, self.tokenizer = model, tokenizer
        self.processor = transformers.Qwen2VLImageProcessorPil.from_pretrained(folder)

    def inputs(self, parts, said=""):
        content = [
            {"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in parts if p != ""
        ]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        images, pixels = [p for p in parts if not isinstance(p, str)], {}
        if images:
            pixels = dict(self.processor(images, return_tensors="pt"))
            first, *rest = (text + said).split("<|image_pad|>")
            counts = [int(grid.prod()) // 4 for grid in pixels["image_grid_thw"]]
            text = first + "".join("<|image_pad|>" * n + r for n, r in zip(counts, rest, strict=True))
        else:
            text += said
        inputs = dict(self.tokenizer(text, return_tensors="pt"))
        pad = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        return {**inputs, **pixels, "mm_token_type_ids": (inputs["input_ids"] == pad).int()}

    @torch.inference_mode()
    def next_p(self, parts):
        return self.model(**self.inputs(parts)).logits[0, -1].double().softmax(-1).numpy()

    @torch.inference_mode()
    def log_p(self, parts, said):
        inputs = self.inputs(parts, said + "<|im_end|>")
        log_p = self.model(**inputs).logits[0].double().log_softmax(-1)
        ids, start = inputs["input_ids"][0], self.inputs(parts)["input_ids"].shape[1]
        return sum(float(log_p[t - 1, ids[t]]) for t in range(start, len(ids)))

    @torch.inference_mode()
    def written(self, parts, most):
        inputs = self.inputs(parts)
        tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=most)
        return self.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    @cache  # noqa: B019
    def ways(self, word):
        """Every token that reads as the word, by trying all of the vocabulary."""
        every = (self.tokenizer.decode([t]) for t in range(len(self.tokenizer)))
        return [t for t, read in enumerate(every) if read.strip().lower() == word.lower()]

    def share(self, p, word, *others):
        mass = [p[self.ways(one)].sum() for one in (word, *others)]
        return float(mass[0] / sum(mass))


def shown(item):
    """An item in a prompt: image, then text."""
    return [*([] if item.image is None else [item.image]), *([] if item.text is None else [item.text])]


def joined(*pieces):
    """Neighbouring texts as one."""
    parts = []
    for piece in pieces:
        if isinstance(piece, str) and parts and isinstance(parts[-1], str):
            parts[-1] += piece
        else:
            parts.append(piece)
    return parts


def true_false(query, candidate):
    kinds = query.modality, candidate.modality
    if kinds in (("text", "image"), ("image", "text")):
        image, text = (candidate.image, query.text) if query.image is None else (query.image, candidate.text)
        return [image, f"Does the image match the caption: <{text}>? Please directly output True or False"]
    return match(query, candidate)


def match(query, candidate):
    ask = ". Does the candidate match the query, True or False."
    return joined(*shown(query), ", ", *shown(candidate), ask)


def pair(lead, query, candidate, end):
    return joined(f"{lead}Query: ", *shown(query), "\nCandidate: ", *shown(candidate), f"\n{end}")


def choice(query, candidate, a, b):
    lead = "Task: Determine whether the candidate matches the query.\n"
    return pair(lead, query, candidate, f"A. {a}\nB. {b}")


def number(query, candidate, of):
    ask = f"How well does the candidate match the query? Answer with one {of}."
    return pair("", query, candidate, ask)


def plain_p_true(peer, query, candidate):
    return peer.share(peer.next_p(true_false(query, candidate)), "True", "False")


def plain_release(peer, query, candidate):
    p = peer.next_p(true_false(query, candidate))
    return p[peer.tokenizer("True").input_ids[0]]


def plain_choice(peer, query, candidate):
    one = peer.share(peer.next_p(choice(query, candidate, YES, NO)), "A", "B")
    other = peer.share(peer.next_p(choice(query, candidate, NO, YES)), "B", "A")
    return (one + other) / 2


def plain_number(peer, query, candidate):
    p = peer.next_p(number(query, candidate, "digit from 0 (not at all) to 9 (fully)"))
    mass = np.array([p[peer.ways(str(d))].sum() for d in range(10)])
    return float((mass * np.arange(10)).sum() / mass.sum())


def plain_likelihood(peer, query, candidate):
    if candidate.modality == "text":
        ask = {
            "image": ["Describe the image in one sentence."],
            "text": ["\nSay the same in other words."],
        }.get(query.modality, ["\nDescribe what is meant in one sentence."])
        given, said = joined(*shown(query), *ask), candidate.text
        free = ["Describe an image in one sentence."]
    elif query.modality == "text":
        said = query.text
        if candidate.modality == "image":
            given = [candidate.image, "Describe the image in one sentence."]
            free = ["Describe an image in one sentence."]
        else:
            given = joined(*shown(candidate), "\nWrite a search query that this answers.")
            free = ["Write a search query."]
    else:
        said, lead = query.text, ["The first item is ", query.image]
        given = joined(
            *lead,
            ", the second item is ",
            *shown(candidate),
            ". Say what leads from the first to the second.",
        )
        free = joined(*lead, ". Say what leads from it to another item.")
    return peer.log_p(given, said) - peer.log_p(free, said)


def plain_likelihood_alone(peer, query, candidate):
    return peer.log_p([query.image, "Describe the image in one sentence."], candidate.text)


PLAIN = {
    "p_true": plain_p_true,
    "choice": plain_choice,
    "number": plain_number,
    "likelihood": plain_likelihood,
}
CASES = [(s, w) for s in PLAIN for w in PAIRS if (s, w) != ("likelihood", "image -> image")]


@pytest.mark.parametrize(("scorer", "way"), CASES)
def test_scores_are_those_of_one_plain_forward_per_pair(loaded, peer, scorer, way):
    query, candidates = PAIRS[way]
    scores = Reranker.load(loaded, scorer=scorer, prompt="official").scorer.score(query, candidates)
    expected = [PLAIN[scorer](peer, query, candidate) for candidate in candidates]
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize("way", ["text -> image", "image -> text"])
def test_the_release_cuts_the_probability_over_the_whole_vocabulary(loaded, peer, way):
    query, candidates = PAIRS[way]
    scorer = Reranker.load(loaded, scorer="p_true_release", prompt="official").scorer
    read = scorer.read(query, candidates)
    for score, entropy, candidate in zip(read.scores_C, read.entropy_C, candidates, strict=True):
        p = plain_release(peer, query, candidate)
        assert score in {math.floor(100 * (p - 1e-6)) / 100, math.floor(100 * (p + 1e-6)) / 100}
        all_p = peer.next_p(true_false(query, candidate))
        assert entropy == pytest.approx(-(all_p * np.log(all_p)).sum(), abs=TOLERANCE)


def test_the_likelihood_without_its_prior(loaded, peer):
    query, candidates = PAIRS["image -> text"]
    scores = Reranker.load(loaded, scorer="likelihood_plain", prompt="official").scorer.score(
        query, candidates
    )
    expected = [plain_likelihood_alone(peer, query, candidate) for candidate in candidates]
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize("way", list(PAIRS))
def test_a_written_number_is_what_generate_writes(loaded, peer, way):
    query, candidates = PAIRS[way]
    read = Reranker.load(loaded, scorer="number_paper", prompt="official").scorer.read(query, candidates)
    expected = []
    for candidate in candidates:
        text = peer.written(number(query, candidate, "number from 0 (not at all) to 100 (fully)"), 8)
        found = re.search(r"\d+(\.\d+)?", text)
        expected.append(np.nan if found is None or float(found[0]) > 100 else float(found[0]))
    np.testing.assert_array_equal(read.scores_C, expected)
    assert (read.asked, read.unparsed) == (len(candidates), int(np.isnan(expected).sum()))


def listed(query, options):
    pieces = ["Query: ", *shown(query), "\nOptions:\n"]
    for i, option in enumerate(options, start=1):
        pieces += ["\n" if i > 1 else "", f"{i}. ", *shown(option)]
    return joined(*pieces, "\nWhich option matches the query best? Answer with its number only.")


def listed_release(query, options):
    words = ", ".join(f"{i}: {option.text}" for i, option in enumerate(options, start=1))
    ask = "What is in this picture? Choose the most relevant sentence from the following options : "
    return [query.image, f"{ask}{words}. You should directly output the answer index, for example: 1."]


@pytest.mark.parametrize("scorer", ["listwise", "listwise_release"])
def test_lists_are_answered_as_generate_answers_them(loaded, peer, scorer):
    query, candidates = PAIRS["image -> text"]
    judge = Reranker.load(loaded, scorer=scorer, prompt="official").scorer
    read = judge.read(query, candidates)
    chosen = []
    for order_C in judge.form.shuffles(len(candidates), query.id):
        worded = {"listwise": listed, "listwise_release": listed_release}[scorer]
        text = peer.written(worded(query, [candidates[c] for c in order_C]), 8)
        found = re.search(r"\d+", text)
        place = -1 if found is None else int(found[0]) - 1
        chosen.append(place if place < len(candidates) else -1)
    assert read.chosen_O.tolist() == chosen
    assert read.unparsed == chosen.count(-1)
    assert len(chosen) == (3 if scorer == "listwise" else 1)


@pytest.mark.parametrize("scorer", ["p_true", "choice", "number", "likelihood"])
def test_batches_prefixes_and_order_change_nothing(loaded, scorer):
    query, candidates = PAIRS["image -> text"]
    expected = Reranker.load(loaded, scorer=scorer).scorer.score(query, candidates)
    alone = [Reranker.load(loaded, scorer=scorer).scorer.score(query, [c])[0] for c in candidates]
    np.testing.assert_allclose(alone, expected, atol=TOLERANCE)
    for options in ({"share_prefix": False}, {"token_budget": 1}, {"workers": 2}):
        turned = Reranker.load(loaded, scorer=scorer, **options).scorer.score(query, candidates[::-1])[::-1]
        np.testing.assert_allclose(turned, expected, atol=TOLERANCE)


def test_every_scorer_has_a_twin_here():
    others = {"p_true_release", "likelihood_plain", "number_paper", "listwise", "listwise_release"}
    assert set(SCORERS.names()) == set(PLAIN) | others
