"""Visual enhancement: equal to plain loops, the same however a sequence is cut, and gone without a trace."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from clearsight.errors import UsageError
from clearsight.models.forward import Forward
from clearsight.models.load import load_model
from clearsight.models.prepare import Prepared, Preparer, collate
from clearsight.models.prompts import get_template
from clearsight.models.retrace import ENHANCEMENTS, Enhancement, Retrace
from clearsight.models.retrace_parts import activation, first_weight
from clearsight.pooling import IMAGE
from clearsight.types import Item
from families.build import qwen2_vl

FORMS = ("paper", "release", "release_all_inputs")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(
        qwen2_vl(tmp_path_factory.mktemp("deep"), layers=8), device="cpu", dtype=torch.float32, head=True
    )


def batch_of(loaded, *items):
    preparer = Preparer(loaded, get_template("plain"), generation_prompt=True)
    prepared = [preparer(item, "query", item.image) for item in items]
    return prepared, collate(prepared, loaded)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def both(seed=0, text="is there a red square?"):
    return Item(f"both-{seed}", text=text, image=picture(seed))


@torch.inference_mode()
def states_of(loaded, batch, retrace=None, where_BL=None):
    """(last hidden states, what the pass told)."""
    if retrace is None:
        return loaded.base(**batch.inputs, use_cache=False).last_hidden_state, None
    with retrace.during(batch.kinds_BL, batch.mask_BL, where_BL=where_BL) as told:
        return loaded.base(**batch.inputs, use_cache=False).last_hidden_state, told


@torch.inference_mode()
def parts_of(loaded, batch, layers):
    """Of a plain pass over one item: each layer's input, and what its feed-forward part reads and writes."""
    found, handles = {}, []
    decoder = loaded.base.get_decoder()
    for k in range(layers):
        handles.append(
            decoder.layers[k].register_forward_pre_hook(
                lambda _, args, k=k: found.__setitem__(("in", k), args[0][0].double().numpy())
            )
        )
        handles.append(
            decoder.layers[k].mlp.register_forward_hook(
                lambda _, args, out, k=k: found.__setitem__(
                    ("ffn", k), (args[0][0].double().numpy(), out[0].double().numpy())
                )
            )
        )
    loaded.base(**batch.inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def plain_entropy(loaded, state_D, *, normed):
    """The entropy of the ten likeliest tokens, by loops."""
    state = torch.from_numpy(state_D).float()
    if normed:
        state = loaded.base.get_decoder().norm(state)
    weight = loaded.model.get_output_embeddings().weight.detach().double().numpy()
    logits = [sum(w * s for w, s in zip(row, state.tolist(), strict=True)) for row in weight]
    best = sorted(logits)[-10:]
    total = sum(math.exp(one - best[-1]) for one in best)
    shares = [math.exp(one - best[-1]) / total for one in best]
    return sum(-p * math.log(p) for p in shares) / math.log(10)


def plain_mixture(form, mlp, x_LD, ffn_LD, z_JD, scale_over):
    """The enhanced output of one item's positions as the release writes it: W1, W2, token by token.

    `scale_over`: lists of positions that share one scale.
    """
    z = z_JD.tolist()
    mean_z = sum(abs(v) for row in z for v in row) / sum(map(len, z))
    first = 1.0
    second = 1.0
    if form.scaled:
        first = float(mlp.gate_proj.weight.detach().double().abs().mean()) / mean_z
        second = float(mlp.down_proj.weight.detach().double().abs().mean()) / mean_z
    mixed = {}
    for positions in scale_over:
        deltas = {}
        for position in positions:
            delta = [0.0] * len(z[0])
            for row in z:
                inner = sum(first * a * b for a, b in zip(row, x_LD[position], strict=True))
                weight = inner / (1 + math.exp(-inner))  # SiLU
                delta = [d + weight * second * v for d, v in zip(delta, row, strict=True)]
            deltas[position] = delta
        scale = 1.0
        if form.scaled:
            of_ffn = sum(abs(v) for p in positions for v in ffn_LD[p])
            scale = of_ffn / sum(abs(v) for p in positions for v in deltas[p])
        for position in positions:
            mixed[position] = [
                (1 - form.ratio) * f + form.ratio * scale * d
                for f, d in zip(ffn_LD[position], deltas[position], strict=True)
            ]
    return mixed


@torch.inference_mode()
def put(loaded, batch, layer, mixed):
    """The pass with the feed-forward output of one layer replaced at some positions."""

    def replaced(_, args, output):
        output = output.clone()
        for position, values in mixed.items():
            output[0, position] = torch.tensor(values, dtype=output.dtype)
        return output

    handle = loaded.base.get_decoder().layers[layer].mlp.register_forward_hook(replaced)
    states = loaded.base(**batch.inputs, use_cache=False).last_hidden_state
    handle.remove()
    return states


@pytest.mark.parametrize("name", FORMS)
def test_equals_the_transcription_with_loops(loaded, name):
    """A threshold between two layers' entropies, so that the one set off is neither the first nor none."""
    _, batch = batch_of(loaded, both())
    found = parts_of(loaded, batch, 8)
    form = ENHANCEMENTS.get(name)
    watched = form.watched(8)
    assert watched == range(2, 5)
    entropies = {k: plain_entropy(loaded, found["in", k + 1][-1], normed=form.normed) for k in watched}
    below = sorted(entropies.values())
    form = replace(form, threshold=(below[0] + below[1]) / 2)
    layer = 1 + min(k for k in watched if entropies[k] > form.threshold)
    z_JD = found["in", 0][batch.kinds_BL[0] == IMAGE] if form.memory == "visual" else found["in", 0]
    everywhere = list(range(len(found["in", 0])))
    mlp = loaded.base.get_decoder().layers[layer].mlp
    want = put(loaded, batch, layer, plain_mixture(form, mlp, *found["ffn", layer], z_JD, [everywhere]))
    got, told = states_of(loaded, batch, Retrace(loaded, form))
    plain, _ = states_of(loaded, batch)
    assert (told.layer_BL == layer).all()
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert (got - plain).abs().max() > 1e-3


def test_positions_that_decide_for_themselves_equal_the_transcription(loaded):
    _, batch = batch_of(loaded, both())
    found = parts_of(loaded, batch, 8)
    form = replace(ENHANCEMENTS.get("release"), threshold=0.0)
    length = len(found["in", 0])
    where = [length - 4, length - 2, length - 1]
    where_BL = torch.zeros_like(batch.mask_BL)
    where_BL[0, where] = 1
    z_JD = found["in", 0][batch.kinds_BL[0] == IMAGE]
    mlp = loaded.base.get_decoder().layers[3].mlp
    mixed = plain_mixture(form, mlp, *found["ffn", 3], z_JD, [[position] for position in where])
    got, told = states_of(loaded, batch, Retrace(loaded, form), where_BL)
    torch.testing.assert_close(got, put(loaded, batch, 3, mixed), atol=1e-5, rtol=1e-5)
    assert (told.layer_BL[0] == 3).nonzero().squeeze(1).tolist() == where


def test_each_position_waits_for_its_own_entropy(loaded):
    _, batch = batch_of(loaded, both())
    found = parts_of(loaded, batch, 8)
    form = ENHANCEMENTS.get("release")
    length = len(found["in", 0])
    entropies = {
        (k, p): plain_entropy(loaded, found["in", k + 1][p], normed=False)
        for k in form.watched(8)
        for p in range(length - 6, length)
    }
    threshold = float(np.median(list(entropies.values())))
    where_BL = torch.zeros_like(batch.mask_BL)
    where_BL[0, length - 6 :] = 1
    _, told = states_of(loaded, batch, Retrace(loaded, replace(form, threshold=threshold)), where_BL)
    # Up to the first enhancement the states are those of a plain pass.
    first = {
        p: next((k + 1 for k in form.watched(8) if entropies[k, p] > threshold), -1)
        for p in range(length - 6, length)
    }
    earliest = min(k for k in first.values() if k > 0)
    for position, layer in first.items():
        assert (told.layer_BL[0, position] == earliest) == (layer == earliest)


def test_a_threshold_never_met_changes_nothing(loaded):
    _, batch = batch_of(loaded, both(), Item("text", text="a red square"))
    plain, _ = states_of(loaded, batch)
    got, told = states_of(loaded, batch, Retrace(loaded, replace(ENHANCEMENTS.get("release"), threshold=1.0)))
    assert torch.equal(got, plain)
    assert (told.layer_BL == -1).all()


def test_items_without_an_image_pass_as_always(loaded):
    text = Item("text", text="a red square")
    _, batch = batch_of(loaded, both(), text)
    form = replace(ENHANCEMENTS.get("release"), threshold=0.0)
    plain, _ = states_of(loaded, batch)
    got, told = states_of(loaded, batch, Retrace(loaded, form))
    valid_L = batch.mask_BL[1].bool()
    assert torch.equal(got[1, valid_L], plain[1, valid_L])
    assert (told.layer_BL[1] == -1).all()
    assert not torch.equal(got[0], plain[0])
    assert [len(z) for z in told.memory] == [int((batch.kinds_BL[0] == IMAGE).sum()), 0]


def test_no_trace_is_left_also_after_an_exception(loaded):
    _, batch = batch_of(loaded, both())
    before, plain = fingerprint(loaded.model), states_of(loaded, batch)[0]
    retrace = Retrace(loaded, replace(ENHANCEMENTS.get("release"), threshold=0.0))
    states_of(loaded, batch, retrace)
    assert fingerprint(loaded.model) == before
    with (  # noqa: PT012 - it rises inside the pass
        pytest.raises(RuntimeError, match="stop"),
        retrace.during(batch.kinds_BL, batch.mask_BL),
    ):
        loaded.base(**batch.inputs, use_cache=False)
        raise RuntimeError("stop")
    with (
        pytest.raises(UsageError, match="was said to"),
        retrace.during(batch.kinds_BL[:, 1:], batch.mask_BL[:, 1:]),
    ):
        loaded.base(**batch.inputs, use_cache=False)
    assert fingerprint(loaded.model) == before
    assert torch.equal(states_of(loaded, batch)[0], plain)


def fingerprint(model):
    """Names of all attributes and hooks of all modules."""
    return {
        name: (sorted(vars(module)), [*module._forward_hooks], [*module._forward_pre_hooks])
        for name, module in model.named_modules()
    }


@torch.inference_mode()
def test_a_cached_prefix_gives_what_the_whole_sequence_gives(loaded):
    """The image lies in the prefix, two questions share it."""
    prepared, batch = batch_of(loaded, both(0, "is it red?"), both(0, "is it a large blue circle?"))
    form = replace(ENHANCEMENTS.get("release"), threshold=0.5)
    retrace = Retrace(loaded, form)
    after_image = int((prepared[0].kinds_L == IMAGE).nonzero()[0].max()) + 1
    where_BL = torch.zeros_like(batch.mask_BL)
    where_BL[:, after_image:] = batch.mask_BL[:, after_image:]
    whole, told = states_of(loaded, batch, retrace, where_BL)
    assert (told.layer_BL >= 0).any()
    start = Prepared(prepared[0].ids_L[:after_image], prepared[0].kinds_L[:after_image], prepared[0].pixels)
    alone = collate([start], loaded)
    with retrace.watching(alone.kinds_BL, alone.mask_BL) as prefix_told:
        prefix = Forward(loaded).prefix(start.ids_L, start.kinds_L, alone.inputs)
    assert (prefix_told.layer_BL == -1).all()
    inputs = {name: value[..., after_image:] for name, value in batch.inputs.items() if "ids" in name}
    with retrace.during(
        batch.kinds_BL[:, after_image:],
        batch.mask_BL[:, after_image:],
        where_BL=where_BL[:, after_image:],
        seen=prefix_told.memory[0],
    ) as rest_told:
        rest = loaded.base(**inputs, past_key_values=prefix.expanded(2), use_cache=True).last_hidden_state
    assert torch.equal(rest_told.layer_BL, told.layer_BL[:, after_image:])
    valid = batch.mask_BL[:, after_image:].bool()
    torch.testing.assert_close(rest[valid], whole[:, after_image:][valid], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_each_item_may_have_its_own_seen_tokens(loaded):
    """As if the pictures of two items had been seen before: the same as when they stand in the pass."""
    _, batch = batch_of(loaded, both(0), both(1))
    retrace = Retrace(loaded, replace(ENHANCEMENTS.get("release"), threshold=0.0))
    want, told = states_of(loaded, batch, retrace)
    nothing_BL = torch.zeros_like(batch.kinds_BL)
    with retrace.during(nothing_BL, batch.mask_BL, seen=told.memory):
        got = loaded.base(**batch.inputs, use_cache=False).last_hidden_state
    torch.testing.assert_close(got, want)
    with retrace.during(nothing_BL, batch.mask_BL) as empty:
        plain = loaded.base(**batch.inputs, use_cache=False).last_hidden_state
    assert torch.equal(plain, states_of(loaded, batch)[0])
    assert [len(z) for z in empty.memory] == [0, 0]
    with (
        pytest.raises(UsageError, match="1 items"),
        retrace.during(nothing_BL, batch.mask_BL, seen=told.memory[:1]),
    ):
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("layers", "watched"), [(28, range(6, 16)), (36, range(8, 20)), (5, range(1, 4)), (2, range(1))]
)
def test_watched_layers_scale_with_the_depth(layers, watched):
    assert ENHANCEMENTS.get("release").watched(layers) == watched


def test_what_cannot_be_enhanced_is_refused(loaded, folder_of):
    with pytest.raises(UsageError, match="one layer"):
        ENHANCEMENTS.get("release").watched(1)
    with pytest.raises(UsageError, match="no language head"):
        Retrace(load_model(folder_of("clip"), device="cpu"))
    with pytest.raises(UsageError, match="no language head"):
        Retrace(load_model(folder_of("qwen2_vl"), device="cpu"))
    with pytest.raises(UsageError, match="enhancement 'relaese'"):
        Retrace(loaded, "relaese")
    with pytest.raises(UsageError, match="ratio of 2"):
        Enhancement(ratio=2, scaled=True, memory="visual", normed=True)
    for wrong in ({"threshold": 1.5}, {"first": 0.6, "last": 0.4}):
        with pytest.raises(UsageError, match="is no enhancement"):
            replace(ENHANCEMENTS.get("paper"), **wrong)


class Block(nn.Module):
    """A decoder layer with a feed-forward part of these children."""

    def __init__(self, **parts):
        super().__init__()
        if parts:
            self.mlp = nn.Module()
            for name, part in parts.items():
                self.mlp.add_module(name, part)


class Config:
    def __init__(self, **known):
        self.known = known

    def to_dict(self):
        return self.known


def test_feed_forward_parts_of_other_kinds_are_read():
    """A fused gate (Phi-3), none (GPT-2, Falcon); a mixture of experts is refused by name."""
    fused, act = nn.Linear(4, 12), nn.GELU()
    block = Block(gate_up_proj=fused, down_proj=nn.Linear(6, 4), activation_fn=act)
    assert torch.equal(first_weight(block), fused.weight[:6])
    assert activation(block, Config()) is act
    plain = nn.Linear(4, 8)
    bare = Block(c_fc=plain)
    assert torch.equal(first_weight(bare), plain.weight)
    assert activation(bare, Config(hidden_act="relu"))(torch.tensor(-1.0)) == 0
    with pytest.raises(UsageError, match="feed-forward"):
        first_weight(Block(gate=nn.Linear(4, 2), experts=nn.ModuleList([nn.Linear(4, 4)])))
    with pytest.raises(UsageError, match="feed-forward"):
        activation(bare, Config())
    with pytest.raises(UsageError, match="feed-forward"):
        first_weight(Block())
