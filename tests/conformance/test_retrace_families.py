"""Every generative family: visual enhancement runs, means the same in any batch, and leaves no trace.

Tolerance 1e-5 in float32, relative to the largest value.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.models.load import load_model
from clearsight.models.prepare import Preparer, collate
from clearsight.models.prompts import get_template
from clearsight.models.retrace import ENHANCEMENTS, Retrace
from clearsight.pooling import IMAGE
from clearsight.types import Item
from families.build import GENERATIVE, GENERIC

FAMILIES = [*GENERATIVE, *GENERIC]


def picture(seed, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


ITEMS = (
    Item("text", text="a red square above a small blue circle"),
    Item("image", image=picture(0)),
    Item("both", text="is there a red square?", image=picture(1, (32, 64))),
    Item("long", text="what colour is the large triangle? green or yellow", image=picture(2)),
)


@pytest.fixture(scope="module")
def loaded_of(folder_of):
    return cache(lambda family: load_model(folder_of(family), device="cpu", dtype=torch.float32, head=True))


def prepared_of(loaded):
    preparer = Preparer(loaded, get_template("plain"), generation_prompt=True)
    return [preparer(item, "query", item.image) for item in ITEMS]


@torch.inference_mode()
def states(loaded, prepared, retrace=None, *, each=False):
    """Last hidden states of the valid positions of each item, and what the pass told."""
    batch = collate(prepared, loaded)
    if retrace is None:
        output, told = loaded.base(**batch.inputs, use_cache=False), None
    else:
        where_BL = batch.mask_BL if each else None
        with retrace.during(batch.kinds_BL, batch.mask_BL, where_BL=where_BL) as told:
            output = loaded.base(**batch.inputs, use_cache=False)
    hidden = output.last_hidden_state
    return [hidden[b, mask.bool()] for b, mask in enumerate(batch.mask_BL)], told


def fingerprint(model):
    """Names of all attributes of all modules, and their hooks (transformers sets some of its own)."""
    return {
        name: (sorted(vars(module)), [*module._forward_hooks], [*module._forward_pre_hooks])
        for name, module in model.named_modules()
    }


def assert_close(rows, expected):
    assert (rows - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_alone_equals_batch_and_nothing_stays_behind(family, loaded_of):
    loaded = loaded_of(family)
    prepared = prepared_of(loaded)
    plain, _ = states(loaded, prepared)
    before = fingerprint(loaded.model)
    for name in ENHANCEMENTS:
        retrace = Retrace(loaded, replace(ENHANCEMENTS.get(name), threshold=0.0))
        for each in (False, True):
            together, told = states(loaded, prepared, retrace, each=each)
            for i, one in enumerate(prepared):
                assert_close(together[i], states(loaded, [one], retrace, each=each)[0][0])
            visual = ENHANCEMENTS.get(name).memory == "visual"
            assert torch.equal(together[0], plain[0]) == visual
            for i in (1, 2, 3):
                assert not torch.equal(together[i], plain[i])
            wanted = [int((one.kinds_L == IMAGE).sum()) if visual else len(one.ids_L) for one in prepared]
            assert [len(z) for z in told.memory] == wanted
    after, _ = states(loaded, prepared)
    assert all(torch.equal(a, b) for a, b in zip(after, plain, strict=True))
    assert fingerprint(loaded.model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_the_release_has_its_effect_at_its_own_threshold(family, loaded_of):
    """Random models are unsure of everything: the entropy lies above 0.75, and layer 1 is enhanced."""
    loaded = loaded_of(family)
    prepared = prepared_of(loaded)
    _, told = states(loaded, prepared, Retrace(loaded, "release"))
    lasts = [int(told.layer_BL[b, len(one.ids_L) - 1]) for b, one in enumerate(prepared)]
    assert lasts == [-1, 1, 1, 1]
    for b, one in enumerate(prepared):
        assert (told.layer_BL[b, len(one.ids_L) :] == -1).all()
