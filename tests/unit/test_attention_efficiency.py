"""Attention efficiency: the definitions on matrices one can check, and a naive twin on the shipped model."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.data.world import image_to_text
from clearsight.errors import UsageError
from clearsight.models.attention import TYPES, attention_efficiency, corrected, eager_attention, published
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.models.prepare import collate
from clearsight.pooling import poolings
from clearsight.types import Item
from families.build import BUILDERS, CONTRASTIVE

GENERATIVE = [name for name in BUILDERS if name not in CONTRASTIVE]


def causal(length, logits=None):
    visible_LL = torch.ones(length, length, dtype=torch.bool).tril()
    logits = torch.zeros(length, length) if logits is None else logits
    return logits.masked_fill(~visible_LL, -math.inf).softmax(-1), visible_LL


def naive_published(a, types, kind, rows):
    chosen = [j for j, t in enumerate(types) if t == kind]
    if not chosen:
        return math.nan
    outputs = range(len(types)) if rows == "all" else [len(types) - 1]
    return sum(a[i][j] for i in outputs for j in chosen) / len(chosen)


def naive_corrected(a, visible, types, kind, rows):
    shares, uniforms = 0.0, 0.0
    for i in range(1, len(types)) if rows == "all" else [len(types) - 1]:
        seen = [j for j in range(1, len(types)) if visible[i][j]]
        of_kind = [j for j in seen if types[j] == kind]
        if not 0 < len(of_kind) < len(seen):
            continue
        shares += sum(a[i][j] for j in of_kind) / sum(a[i][j] for j in seen)
        uniforms += len(of_kind) / len(seen)
    return shares / uniforms if uniforms else math.nan


@settings(max_examples=60, deadline=None)
@given(
    types=st.lists(st.integers(0, 2), min_size=2, max_size=12),
    seed=st.integers(0, 100),
    rows=st.sampled_from(["all", "last"]),
    window=st.integers(2, 12),
)
def test_both_figures_are_their_definitions(types, seed, rows, window):
    length = len(types)
    visible_LL = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)
    logits_LL = torch.randn(length, length, generator=torch.Generator().manual_seed(seed)) * 3
    attention_LL = logits_LL.masked_fill(~visible_LL, -math.inf).softmax(-1)
    paper_T = published(attention_LL, np.array(types), rows)
    fair_T = corrected(attention_LL, visible_LL, np.array(types), rows)
    a, v = attention_LL.double().tolist(), visible_LL.tolist()
    np.testing.assert_allclose(paper_T, [naive_published(a, types, t, rows) for t in range(3)], rtol=1e-6)
    np.testing.assert_allclose(fair_T, [naive_corrected(a, v, types, t, rows) for t in range(3)], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(types=st.lists(st.integers(0, 2), min_size=3, max_size=30), sink=st.floats(0, 20))
def test_looking_everywhere_alike_is_one_when_corrected_wherever_a_type_stands(types, sink):
    logits_LL = torch.zeros(len(types), len(types))
    logits_LL[:, 0] = sink  # the first token may take as much as it likes
    attention_LL, visible_LL = causal(len(types), logits_LL)
    for rows in ("all", "last"):
        fair_T = corrected(attention_LL, visible_LL, np.array(types), rows)
        np.testing.assert_allclose(fair_T[~np.isnan(fair_T)], 1, rtol=1e-5)


def test_the_published_figure_favours_what_stands_first():
    attention_LL, _ = causal(30)
    system, image, user = published(attention_LL, np.repeat([0, 1, 2], 10), "all")
    assert system > 2 * image > 4 * user


@pytest.fixture(scope="module")
def tiny():
    return Encoder.load("tiny", device="cpu", dtype=torch.float32, prompt="hierarchical", workers=0)


@pytest.fixture(scope="module")
def items():
    task = image_to_text(3)
    both = Item("both", text="the same, but red", image=task.queries[0].image)
    return [*task.queries, *task.candidates, both]


@pytest.mark.parametrize("rows", ["all", "last"])
def test_the_shipped_model_beside_a_naive_twin(tiny, items, rows):
    """The twin loads the model itself with eager attention, and walks over rows and columns."""
    measured = attention_efficiency(tiny, items, "query", rows=rows)
    twin = load_model("tiny", device="cpu", dtype=torch.float32)
    twin.base.set_attn_implementation("eager")
    header = "<|im_start|>user\n"
    paper, fair, sink = [], [], []
    for item in items:
        image = None if item.image is None else item.image
        prepared = tiny.preparer(poolings.get("mean"))(item, "query", image)
        text = tiny.loaded.tokenizer.decode(prepared.ids_L)
        assert text.count(header) == 1
        before = text[: text.index(header) + len(header)]
        assert "one word" in before
        system = len(tiny.loaded.tokenizer(before, add_special_tokens=False)["input_ids"])
        types = [0 if j < system else 1 if k == 2 else 2 for j, k in enumerate(prepared.kinds_L)]
        with torch.inference_mode():
            out = twin.base(**collate([prepared], twin).inputs, output_attentions=True)
        layers = [layer[0].double().mean(0) for layer in out.attentions]
        visible = torch.ones(len(types), len(types)).tril().tolist()
        paper.append([[naive_published(a.tolist(), types, t, rows) for t in range(3)] for a in layers])
        fair.append(
            [[naive_corrected(a.tolist(), visible, types, t, rows) for t in range(3)] for a in layers]
        )
        sink.append([float((a[1:, 0] if rows == "all" else a[-1:, 0]).mean()) for a in layers])
    assert measured.paper_KT.shape == measured.corrected_KT.shape == (measured.layers, len(TYPES))
    np.testing.assert_allclose(measured.paper_KT, np.nanmean(paper, axis=0), rtol=1e-4)
    np.testing.assert_allclose(measured.corrected_KT, np.nanmean(fair, axis=0), rtol=1e-4)
    np.testing.assert_allclose(measured.sink_K, np.mean(sink, axis=0), rtol=1e-4)
    assert measured.items_T.tolist() == [7, 4, 7]
    assert measured.tokens_T[1] == 16
    assert measured.release_layer == measured.layers - 1 == 4
    if rows == "all":
        np.testing.assert_array_equal(measured.release_T, measured.paper_KT[4])


def test_the_model_is_left_as_it_was(tiny, items):
    before = copy.deepcopy(tiny.loaded.base.config.to_dict())
    implementation = tiny.loaded.base.get_decoder().config._attn_implementation
    assert implementation == "sdpa"
    rows_ND = tiny.embed(items).rows_ND
    attention_efficiency(tiny, items)
    with eager_attention(tiny.loaded):
        assert tiny.loaded.base.get_decoder().config._attn_implementation == "eager"
    assert tiny.loaded.base.get_decoder().config._attn_implementation == implementation
    assert tiny.loaded.base.config.to_dict() == before
    assert not any(module._forward_hooks for module in tiny.loaded.base.modules())
    np.testing.assert_array_equal(tiny.embed(items).rows_ND, rows_ND)


@pytest.mark.parametrize("family", GENERATIVE)
def test_every_family_can_be_read(family, folder_of, items):
    loaded = load_model(folder_of(family), dtype=torch.float32)
    configs = [loaded.base.config, *(getattr(loaded.base.config, n) for n in loaded.base.config.sub_configs)]
    before = [config._attn_implementation for config in configs]
    measured = attention_efficiency(Encoder(loaded, prompt="hierarchical", workers=0), items, "query")
    assert [config._attn_implementation for config in configs] == before
    assert measured.items_T[1:].tolist() == [4, 7]
    assert np.isfinite(measured.paper_KT[:, 1:]).all()
    assert np.isfinite(measured.corrected_KT[:, 1:]).all()
    assert ((measured.sink_K > 0) & (measured.sink_K < 1)).all()
    # Each row's attention adds up to one: what the types get is what the rows pay.
    one = attention_efficiency(Encoder(loaded, prompt="hierarchical", workers=0), items[-1:], "query")
    paid = np.nansum(one.paper_KT * np.nan_to_num(one.tokens_T), axis=1)
    np.testing.assert_allclose(paid, np.nansum(one.tokens_T), rtol=1e-4)


def test_what_cannot_be_measured_is_refused(folder_of, items):
    with pytest.raises(UsageError, match="contrastive"):
        attention_efficiency(Encoder(load_model(folder_of("clip")), workers=0), items)
    with pytest.raises(UsageError, match="no items"):
        attention_efficiency(Encoder(load_model(folder_of("llava")), workers=0), [])
