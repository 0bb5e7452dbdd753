"""Every family: an item's vector is its own, whatever it travels with and however the work is cut.

Tolerance 1e-5 in float32, relative to the largest value of the rows; measured differences are below 5e-6.
"""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.errors import UsageError
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.types import Item
from families.build import BUILDERS, CONTRASTIVE

GENERATIVE = [name for name in BUILDERS if name not in CONTRASTIVE]
TOKEN_POOLINGS = ("mean", "last", "mean_no_image", "mean_no_prompt", "last_attention", "last_attention_norm")


def picture(seed, size):
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(values)


TEXTS = (
    "a red square",
    "a",
    "what colour is the large triangle? green or yellow",
    "a small blue circle above it",
    "red",
)
ITEMS = (
    *(Item(f"text-{i}", text=text) for i, text in enumerate(TEXTS)),
    Item("image-0", image=picture(0, (32, 32))),
    Item("image-1", image=picture(1, (32, 64))),
    Item("image-2", image=picture(2, (64, 32))),
    Item("image-3", image=picture(3, (48, 48))),
    Item("both-0", text="a red square", image=picture(0, (32, 32))),
    Item("both-1", text="which colour?", image=picture(2, (64, 32))),
    Item("both-2", text="the same, but blue", image=picture(1, (32, 64))),
    Item("both-3", text="is it small?", image=picture(4, (40, 72))),
)


@pytest.fixture(scope="module")
def loaded_of(folder_of):
    return cache(lambda family: load_model(folder_of(family), dtype=torch.float32))


def assert_same(rows, expected, tolerance=1e-5):
    assert rows.shape == expected.shape
    assert np.abs(rows - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def default_poolings(loaded):
    return ("features",) if loaded.kind == "contrastive" else TOKEN_POOLINGS


def encoder(loaded, **options):
    return Encoder(loaded, **{"workers": 0, "token_budget": 400, **options})


def alone(loaded, pooling, prompt="plain"):
    return np.stack(
        [encoder(loaded, pooling=pooling, prompt=prompt).embed([item], "query").rows_ND[0] for item in ITEMS]
    )


@pytest.mark.parametrize("family", BUILDERS)
def test_alone_equals_any_batch_order_budget_and_prefix(family, loaded_of):
    loaded = loaded_of(family)
    pooling = "mean" if loaded.kind == "generative" else "features"
    expected = alone(loaded, pooling)
    shuffled = random.Random(1).sample(range(len(ITEMS)), len(ITEMS))
    for options in (
        {"token_budget": 100_000},
        {"token_budget": 1},
        {"share_prefix": False, "token_budget": 100_000},
        {"workers": 2},
    ):
        embedded = encoder(loaded, pooling=pooling, **options).embed([ITEMS[i] for i in shuffled], "query")
        assert embedded.ids == tuple(ITEMS[i].id for i in shuffled)
        assert list(embedded.modality_N) == [ITEMS[i].modality for i in shuffled]
        assert_same(embedded.rows_ND, expected[shuffled])
    texts_first = encoder(loaded, pooling=pooling).embed(ITEMS[:5], "query")
    assert_same(texts_first.rows_ND, expected[:5])


@pytest.mark.parametrize("family", GENERATIVE)
@pytest.mark.parametrize("prompt", ["hierarchical", "one_word"])
def test_every_pooling_with_the_prefix_shared_equals_without(family, prompt, loaded_of, monkeypatch):
    loaded = loaded_of(family)
    monkeypatch.setattr("clearsight.models.readout.REST_PER_PREFIX", 1_000)
    shared = encoder(loaded, prompt=prompt).embed_many(ITEMS, "query", TOKEN_POOLINGS)
    whole = encoder(loaded, prompt=prompt, share_prefix=False).embed_many(ITEMS, "query", TOKEN_POOLINGS)
    for pooling in TOKEN_POOLINGS:
        assert_same(shared[pooling].rows_ND, whole[pooling].rows_ND)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "chameleon", "llava", "llava_next"])
def test_the_prefix_is_really_shared_where_attention_is_causal(family, loaded_of, monkeypatch):
    loaded = loaded_of(family)
    widths = []
    forward = loaded.base.forward

    def spy(*args, **inputs):
        widths.append((inputs["input_ids"].shape[1], inputs["past_key_values"] is not None))
        return forward(*args, **inputs)

    monkeypatch.setattr(loaded.base, "forward", spy)
    texts = [Item(str(n), text=f"a {n}") for n in range(20)]
    encoder(loaded, prompt="hierarchical").embed(texts, "candidate")
    (prefix, _), *rest = widths
    assert prefix >= 8
    assert rest
    assert all(cached and width < prefix for width, cached in rest)


@pytest.mark.parametrize("family", GENERATIVE)
def test_many_poolings_from_one_pass_equal_each_alone(family, loaded_of):
    loaded = loaded_of(family)
    many = encoder(loaded).embed_many(ITEMS, "query", TOKEN_POOLINGS)
    for pooling in TOKEN_POOLINGS:
        one = encoder(loaded, pooling=pooling).embed(ITEMS, "query")
        assert many[pooling].origin == one.origin
        assert_same(many[pooling].rows_ND, one.rows_ND)


@pytest.mark.parametrize("family", BUILDERS)
def test_identical_items_are_embedded_once_and_none_is_no_error(family, loaded_of, monkeypatch):
    loaded = loaded_of(family)
    tool = encoder(loaded)
    assert len(tool.embed([], "query")) == 0
    passed = []
    readout = tool.readout

    def counting(poolings):
        inner = readout(poolings)

        def call(window):
            passed.extend(fed.index for fed in window)
            return inner(window)

        return call

    monkeypatch.setattr(tool, "readout", counting)
    originals = (ITEMS[0], ITEMS[5], ITEMS[9])
    copies = [Item(f"{n}-{one.id}", text=one.text, image=one.image) for n in range(3) for one in originals]
    rows = tool.embed(copies, "query").rows_ND
    assert len(passed) == 3
    np.testing.assert_array_equal(rows[:3], rows[3:6])
    np.testing.assert_array_equal(rows[:3], rows[6:])
    assert len(np.unique(rows.round(6), axis=0)) == 3


@pytest.mark.parametrize("family", GENERATIVE)
def test_every_layer_equals_transformers_hidden_states(family, loaded_of):
    from clearsight.models.prepare import Preparer, collate
    from clearsight.models.prompts import get_template

    loaded = loaded_of(family)
    preparer = Preparer(loaded, get_template("plain"), generation_prompt=False)
    for item in (ITEMS[2], ITEMS[5], ITEMS[9]):
        batch = collate([preparer(item, "query", item.image)], loaded)
        with torch.inference_mode():
            states = loaded.base(**batch.inputs, output_hidden_states=True).hidden_states
        for layer in range(-len(states), len(states)):
            row = encoder(loaded, layer=layer).embed([item], "query").rows_ND[0]
            assert_same(row, states[layer][0].mean(0).numpy())
    with pytest.raises(UsageError, match="layer"):
        encoder(loaded, layer=len(states))


@pytest.mark.parametrize("family", GENERATIVE)
def test_layers_beyond_the_chosen_one_are_not_computed(family, loaded_of):
    loaded = loaded_of(family)
    layers = loaded.base.get_decoder().layers
    ran = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, k=k: ran.append(k)) for k, layer in enumerate(layers)
    ]
    try:
        encoder(loaded, layer=1).embed(ITEMS, "query")
        assert set(ran) == {0}
        ran.clear()
        encoder(loaded, layer=0).embed(ITEMS, "query")
        assert set(ran) <= {0}  # reached, and left before it computes
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", CONTRASTIVE)
def test_a_contrastive_model_gives_its_features_and_nothing_else(family, loaded_of):
    loaded = loaded_of(family)
    embedded = Encoder(loaded, workers=0).embed(ITEMS, "query")
    assert embedded.origin["pooling"] == "features"
    rows = dict(zip(embedded.ids, embedded.rows_ND, strict=True))
    both = rows["text-0"] / np.linalg.norm(rows["text-0"]) + rows["image-0"] / np.linalg.norm(rows["image-0"])
    assert_same(rows["both-0"] / np.linalg.norm(rows["both-0"]), both / np.linalg.norm(both))
    with pytest.raises(UsageError, match="contrastive"):
        Encoder(loaded, pooling="last")
    with pytest.raises(UsageError, match="describe"):
        Encoder(loaded, source="describe")


def test_features_do_not_fit_a_generative_model(loaded_of):
    with pytest.raises(UsageError, match="generative"):
        Encoder(loaded_of("qwen2_vl"), pooling="features")
