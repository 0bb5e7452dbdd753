"""The encoder and the captioner beside plain transformers: one item, its processor, one forward pass."""

from __future__ import annotations

import copy
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from clearsight.models.captioner import Captioner
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.types import Item
from families.build import CONTRASTIVE, GENERATIVE, GENERIC

FAMILIES = [*GENERATIVE, *GENERIC]
SIZES = ((32, 32), (64, 32), (40, 72))
PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8))
    for i, (width, height) in enumerate(SIZES)
]
ITEMS = (
    Item("text-0", text="what colour is the large triangle?"),
    Item("text-1", text="red"),
    *(Item(f"image-{i}", image=image) for i, image in enumerate(PICTURES)),
    *(Item(f"both-{i}", text="the same, but blue", image=image) for i, image in enumerate(PICTURES)),
)


@pytest.fixture(scope="module")
def loaded_of(folder_of):
    return cache(lambda family: load_model(folder_of(family), dtype=torch.float32, head=True))


def plain_inputs(loaded, item, *, generation_prompt=False):
    """What transformers' own processor makes of one item, as its documentation says to call it."""
    family, processor, tokenizer = loaded.family.name, loaded.processor, loaded.tokenizer
    image = processor.image_token if item.image is not None else ""
    options = {"add_special_tokens": True}
    if tokenizer.chat_template is not None:
        content = [{"type": "image"}] * (item.image is not None)
        content += [{"type": "text", "text": item.text}] * (item.text is not None)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=generation_prompt
        )
        options["add_special_tokens"] = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
    elif family == "paligemma":
        # Its processor refuses a text alone, which is "<bos>text\n" to the model.
        text = f"{item.text or ''}"
        if not image:
            ids = tokenizer(f"<bos>{text}\n", add_special_tokens=False, return_tensors="pt")["input_ids"]
            return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
        text = image + text
        options = {}
    else:
        text = f"{image}{item.text or ''}"
        options["return_for_text_completion"] = True
    if item.image is None:
        options.pop("return_for_text_completion", None)
        ids = tokenizer(text, return_tensors="pt", **options)["input_ids"]
        types = {name: torch.zeros_like(ids) for name in loaded.images.token_types}
        return {"input_ids": ids, **types}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PaliGemma's processor, under numpy 2
        outputs = processor(text=[text], images=[[item.image]], return_tensors="pt", **options)
    accepted = {"input_ids", *loaded.images.names, *loaded.images.token_types}
    return {name: value for name, value in outputs.items() if name in accepted}


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_and_last_equal_a_plain_forward(family, loaded_of):
    loaded = loaded_of(family)
    embedded = Encoder(loaded, workers=0).embed_many(ITEMS, "query", ("mean", "last"))
    for pooling, generation_prompt in (("mean", False), ("last", True)):
        for item, row in zip(ITEMS, embedded[pooling].rows_ND, strict=True):
            inputs = plain_inputs(loaded, item, generation_prompt=generation_prompt)
            with torch.inference_mode():
                states_LD = loaded.base(**inputs).last_hidden_state[0]
            naive = states_LD.double().mean(0) if pooling == "mean" else states_LD[-1]
            np.testing.assert_allclose(row, naive.numpy(), atol=1e-5 * max(1.0, float(naive.abs().max())))


@pytest.mark.parametrize("family", FAMILIES)
def test_last_attention_equals_a_model_whose_last_mlp_says_nothing(family, loaded_of):
    """Without its MLP the last layer ends where FreeRet reads; without a final norm that is the output."""
    loaded = loaded_of(family)
    silent = copy.deepcopy(loaded.base)
    decoder = silent.get_decoder()
    nn.init.zeros_(decoder.layers[-1].mlp.down_proj.weight)
    norm, decoder.norm = decoder.norm, nn.Identity()
    poolings = ("last_attention", "last_attention_norm")
    embedded = Encoder(loaded, workers=0).embed_many(ITEMS, "query", poolings)
    for i, item in enumerate(ITEMS):
        inputs = plain_inputs(loaded, item, generation_prompt=True)
        with torch.inference_mode():
            state_D = silent(**inputs).last_hidden_state[0, -1]
            normed_D = norm(state_D)
        for pooling, naive in zip(poolings, (state_D, normed_D), strict=True):
            row = embedded[pooling].rows_ND[i]
            np.testing.assert_allclose(row, naive.numpy(), atol=1e-5 * max(1.0, float(naive.abs().max())))


@pytest.mark.parametrize("family", CONTRASTIVE)
def test_features_equal_a_plain_call(family, folder_of):
    loaded = load_model(folder_of(family), dtype=torch.float32)
    rows = Encoder(loaded, workers=0).embed(ITEMS, "query").rows_ND
    length = {"padding": "max_length", "max_length": 64} if loaded.family.pad_to_context else {}
    for item, row in zip(ITEMS, rows, strict=True):
        naive = 0
        with torch.inference_mode():
            if item.text is not None:
                inputs = loaded.tokenizer(item.text, return_tensors="pt", **length)
                accepted = {
                    name: inputs[name] for name in inputs if name in loaded.tokenizer.model_input_names
                }
                features = loaded.base.get_text_features(**accepted).pooler_output[0]
                naive = naive + features / features.norm()
            if item.image is not None:
                inputs = loaded.image_processor([item.image], return_tensors="pt")
                features = loaded.base.get_image_features(**inputs).pooler_output[0]
                naive = naive + features / features.norm()
        np.testing.assert_allclose(row / np.linalg.norm(row), (naive / naive.norm()).numpy(), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_equal_greedy_generate_alone_and_in_any_batch(family, loaded_of, monkeypatch):
    loaded = loaded_of(family)
    captioner = Captioner(loaded, "plain", max_new_tokens=6, workers=0)
    # A random model hardly ever ends: now a token that some texts hold, and not all, ends them.
    written = [captioner.write([prepared(captioner, item)])[0] for item in ITEMS]
    holders = {token: sum(token in tokens for tokens in written) for tokens in written for token in tokens}
    end = max((token for token in holders if holders[token] < len(ITEMS)), key=holders.__getitem__)
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", end)
    captioner = Captioner(loaded, "plain", max_new_tokens=6, workers=0)
    alone = [captioner.write([prepared(captioner, item)])[0] for item in ITEMS]
    ends = captioner._stops.tolist()
    assert any(len(tokens) < 6 for tokens in alone)
    assert any(len(tokens) == 6 for tokens in alone)
    for item, tokens in zip(ITEMS, alone, strict=True):
        inputs = plain_inputs(loaded, item, generation_prompt=True)
        with torch.inference_mode():
            written = loaded.model.generate(
                **inputs, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=ends
            )
        expected = written[0, inputs["input_ids"].shape[1] :].tolist()
        assert tokens == expected[: -1 if expected[-1] in ends else None]
    texts = [loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in alone]
    assert captioner.caption(ITEMS) == texts
    assert captioner.caption(ITEMS[::-1]) == texts[::-1]
    captioner.token_budget = 1
    assert captioner.caption(ITEMS) == texts


def prepared(captioner, item):
    return captioner.preparer(item, "query", item.image)
