"""Every family: what the judge answers is what one plain transformers forward of that question alone gives.

Prompts are worded and tokenised here by the family's own template and processor, one question at a time,
logits of the whole sequence; the judge shares prefixes and fills batches. Tolerance 1e-4.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from clearsight.errors import ModelError, UsageError
from clearsight.models.captioner import stop_tokens
from clearsight.models.judge import Judge
from clearsight.models.judge_questions import Next, Question, Said, Written
from clearsight.models.load import load_model
from clearsight.models.prompts import Part, Span, Turn
from families.build import CONTRASTIVE, GENERATIVE, GENERIC

TOLERANCE = 1e-4
FAMILIES = [*GENERATIVE, *GENERIC]
ONE_IMAGE = ("llava", "llava_next")
SHARING = [name for name in GENERATIVE if name not in ("paligemma", "smolvlm")]
ASK = "\nDescribe the image."
SETS = ((70, 71, 72), (80,), (90, 91))


def picture(seed, width, height):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


# Two of one size and one of another, so that some prefixes are equally long.
PICTURES = (picture(0, 64, 40), picture(1, 64, 40), picture(2, 32, 32))
TEXTS = (
    "a red square above a small blue circle",
    "a",
    "what colour is the large triangle?",
    "green or yellow",
)


@pytest.fixture(scope="module")
def loaded_of(folder_of):
    return cache(lambda family: load_model(folder_of(family), head=True))


@pytest.fixture(scope="module")
def plain_of(folder_of):
    return cache(lambda family: AutoModelForImageTextToText.from_pretrained(folder_of(family)).eval())


def question(parts, measure):
    """`parts`: pictures and texts, in order."""
    made = tuple(
        Part("text", (Span(p, own=i % 2 == 1),)) if isinstance(p, str) else Part("image")
        for i, p in enumerate(parts)
    )
    images = tuple(p for p in parts if not isinstance(p, str))
    return Question((Turn("user", made),), images, measure, where="pair")


def prompts(family):
    """Many questions that begin alike, and some that do not."""
    made = []
    for image in PICTURES:
        made += [(image, text + ASK, Said(said)) for text in TEXTS[:2] for said in TEXTS]
        made += [(image, text + "\nTrue or False?", Next(SETS)) for text in TEXTS]
    made += [(text + ASK, Said(said, end=False)) for text in TEXTS[:2] for said in TEXTS[2:]]
    made += [("Does it match?", Next(SETS[:1]))]
    if family not in ONE_IMAGE:
        for first in PICTURES[:2]:
            for second in PICTURES:
                made.append((first, "is it like", second, "\nTrue or False?", Next(SETS)))
                made.append((first, "and", second, ASK, Said(TEXTS[0])))
    return [question(parts, measure) for *parts, measure in made]


# ------------------------------------------------------------------------------------------ the plain way
def template_text(folder, tokenizer, turns):
    content = [
        {"type": "image"} if p.kind == "image" else {"type": "text", "text": p.spans[0].text}
        for turn in turns
        for p in turn.parts
    ]
    messages = [{"role": "user", "content": content}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@cache
def load(auto, folder, **options):
    return auto.from_pretrained(folder, **options)


def by_processor(processor, text, images):
    return dict(processor(text=[text], images=list(images) or None, return_tensors="pt"))


def inputs_of(family, folder, turns, images, said):
    """What the family's own processor makes of the prompt with `said` behind it."""
    tokenizer = load(AutoTokenizer, folder)
    if family == "paligemma":
        words = "".join(p.spans[0].text for p in turns[0].parts if p.kind == "text")
        text = "<image>" * 16 * len(images) + "<bos>" + words + "\n"
        inputs = dict(tokenizer(text + said, add_special_tokens=False, return_tensors="pt"))
        prompt = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        # Zero attends both ways, one is causal.
        inputs["token_type_ids"] = (torch.arange(inputs["input_ids"].shape[1]) >= prompt).long()[None]
        if images:
            tool = load(AutoImageProcessor, folder, backend="pil")
            inputs["pixel_values"] = tool(list(images), return_tensors="pt")["pixel_values"]
        return inputs
    if family in ("chameleon",):
        text = "\n".join(
            "".join("<image>" if p.kind == "image" else p.spans[0].text for p in turn.parts) for turn in turns
        )
    else:
        text = template_text(folder, tokenizer, turns)
    text += said if not said or text[-1].isspace() else f" {said}"
    if family.startswith("qwen"):
        return qwen_inputs(folder, tokenizer, text, images)
    if family == "internvl":
        return internvl_inputs(folder, tokenizer, text, images)
    if family == "smolvlm":
        tool = load(AutoImageProcessor, folder, backend="pil")
        processor = transformers.Idefics3Processor(tool, tokenizer, image_seq_len=4)
        nested = [list(images)] if images else None
        return dict(processor(text=[text], images=nested, add_special_tokens=False, return_tensors="pt"))
    processor = load(AutoProcessor, folder, backend="pil")
    if family == "idefics3":
        nested = [list(images)] if images else None
        return dict(processor(text=[text], images=nested, add_special_tokens=False, return_tensors="pt"))
    if family == "gemma3":
        nested = [list(images)] if images else None
        return dict(processor(text=[text.removeprefix("<bos>")], images=nested, return_tensors="pt"))
    inputs = by_processor(processor, text, images)
    if family == "chameleon":  # it ends a chat with a separator
        inputs = {k: v[:, :-1] if k in ("input_ids", "attention_mask") else v for k, v in inputs.items()}
    return inputs


def qwen_inputs(folder, tokenizer, text, images):
    pixels = {}
    if images:
        tool = load(transformers.Qwen2VLImageProcessorPil, folder)
        pixels = dict(tool(list(images), return_tensors="pt"))
        first, *rest = text.split("<|image_pad|>")
        counts = [int(grid.prod()) // 4 for grid in pixels["image_grid_thw"]]
        text = first + "".join("<|image_pad|>" * n + part for n, part in zip(counts, rest, strict=True))
    inputs = dict(tokenizer(text, return_tensors="pt"))
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return {**inputs, **pixels, "mm_token_type_ids": (inputs["input_ids"] == image_id).int()}


def internvl_inputs(folder, tokenizer, text, images):
    pixels = []
    first, *rest = text.split("<IMG_CONTEXT>")
    tool = load(AutoImageProcessor, folder, backend="pil")
    for image, part in zip(images, rest, strict=True):
        pixels.append(tool(image, crop_to_patches=True, return_tensors="pt")["pixel_values"])
        first += "<img>" + "<IMG_CONTEXT>" * 4 * len(pixels[-1]) + "</img>" + part
    inputs = dict(tokenizer(first, return_tensors="pt"))
    return {**inputs, **({"pixel_values": torch.cat(pixels)} if pixels else {})}


@torch.inference_mode()
def plain(family, folder, model, loaded, one):
    """One forward over the whole sequence, batch 1, logits everywhere."""
    said = one.measure.text if isinstance(one.measure, Said) else ""
    inputs = inputs_of(family, folder, one.turns, one.images, said)
    log_p_LV = model(**inputs).logits[0].float().log_softmax(-1)
    if isinstance(one.measure, Next):
        last_V = log_p_LV[-1]
        sets = [last_V[list(ids)].exp().sum().log() for ids in one.measure.sets]
        return np.array([*sets, -(last_V.exp() * last_V.clamp(min=-1e4)).sum()])
    ids_L = inputs["input_ids"][0]
    start = inputs_of(family, folder, one.turns, one.images, "")["input_ids"].shape[1]
    total = sum(float(log_p_LV[t - 1, ids_L[t]]) for t in range(start, len(ids_L)))
    if one.measure.end:
        total += float(log_p_LV[-1, stop_tokens(loaded)].exp().sum().log())
    return np.array([total, len(ids_L) - start + one.measure.end])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_equals_one_plain_forward_of_each_question(family, loaded_of, plain_of, folder_of):
    loaded, questions = loaded_of(family), prompts(family)
    expected = [plain(family, folder_of(family), plain_of(family), loaded, one) for one in questions]
    shared = Judge(loaded, workers=0).answer(questions)
    whole = Judge(loaded, workers=0, share_prefix=False, token_budget=300).answer(questions[::-1])[::-1]
    for one, row, other, truth in zip(questions, shared, whole, expected, strict=True):
        np.testing.assert_allclose(row, truth, atol=TOLERANCE, err_msg=str(one))
        np.testing.assert_allclose(other, truth, atol=TOLERANCE, err_msg=str(one))


@pytest.mark.parametrize("family", FAMILIES)
def test_alone_equals_in_any_company(family, loaded_of):
    loaded, questions = loaded_of(family), prompts(family)[::3]
    alone = [Judge(loaded, workers=0).answer([one])[0] for one in questions]
    for options in ({"token_budget": 1}, {"token_budget": 100_000}, {"workers": 2}):
        together = Judge(loaded, **options).answer(questions)
        for row, truth in zip(together, alone, strict=True):
            np.testing.assert_allclose(row, truth, atol=TOLERANCE)


@pytest.mark.parametrize("family", SHARING)
def test_a_prefix_with_its_image_passes_once(family, loaded_of, monkeypatch):
    loaded = loaded_of(family)
    pixels, tokens = [], []
    forward = loaded.base.forward

    def spy(*args, **inputs):
        pixels.append(len(inputs["pixel_values"]) if "pixel_values" in inputs else 0)
        tokens.append(inputs["input_ids"].numel())
        return forward(*args, **inputs)

    monkeypatch.setattr(loaded.base, "forward", spy)
    questions = [question((PICTURES[0], ASK), Said(f"a {n} square")) for n in range(20)]
    Judge(loaded, workers=0).answer(questions)
    one, with_it = sum(pixels), sum(tokens)
    pixels.clear()
    tokens.clear()
    Judge(loaded, workers=0, share_prefix=False).answer(questions)
    assert one * 20 == sum(pixels)
    assert with_it < sum(tokens) / 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_what_is_written_begins_with_the_likeliest_token(family, loaded_of, plain_of, folder_of):
    loaded, model = loaded_of(family), plain_of(family)
    stops, several = stop_tokens(loaded), family not in ONE_IMAGE
    parts = [(PICTURES[n % 3], text, *(PICTURES[:1] * several), ASK) for n, text in enumerate(TEXTS)]
    asked = [question(one, Written(5)) for one in parts]
    for one, row in zip(asked, Judge(loaded, workers=0).answer(asked), strict=True):
        with torch.inference_mode():
            logits_V = model(**inputs_of(family, folder_of(family), one.turns, one.images, "")).logits[0, -1]
        first = int(logits_V.argmax())
        assert row[0] == (-1 if first in stops else first)
        assert row.shape == (5,)


@pytest.mark.parametrize("family", ONE_IMAGE)
def test_a_family_that_reads_one_image_is_named(family, loaded_of):
    with pytest.raises(UsageError, match=family.replace("_", "-")):
        Judge(loaded_of(family)).answer([question((PICTURES[0], "and", PICTURES[1]), Next(SETS))])


@pytest.mark.parametrize("family", CONTRASTIVE)
def test_a_contrastive_model_is_refused(family, loaded_of):
    with pytest.raises(UsageError, match="no language head"):
        Judge(loaded_of(family))


def test_a_template_that_loses_an_image_is_refused(folder_of):
    loaded = load_model(folder_of("gemma3"), head=True)
    template = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = template.replace("{% if item['type'] == 'image' %}", "{% if false %}")
    with pytest.raises(ModelError, match="does not keep 1 images"):
        Judge(loaded).answer([question((PICTURES[0], ASK), Next(SETS))])


def test_a_model_loaded_without_its_head_is_refused(folder_of):
    with pytest.raises(UsageError, match="head=True"):
        Judge(load_model(folder_of("qwen2_vl")))
