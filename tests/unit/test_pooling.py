"""Laws of pooling: padding is invisible, sums are float32, a prefix counts as if it stood in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.errors import UsageError
from clearsight.pooling import IMAGE, PROMPT, TEXT, PrefixSum, last_states, mean_states, pool, poolings

MEANS = [name for name in poolings if poolings.get(name).positions == "mean"]


@st.composite
def batches(draw):
    """States, lengths and kinds of a right-padded batch; every item keeps a text token."""
    seed = draw(st.integers(0, 10_000))
    generator = np.random.default_rng(seed)
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    width = max(lengths)
    hidden = generator.normal(size=(len(lengths), width, 4)).astype(np.float32)
    kinds = generator.integers(0, 3, size=(len(lengths), width)).astype(np.uint8)
    kinds[:, 0] = TEXT
    return hidden, lengths, kinds


def naive(hidden, lengths, kinds, name):
    """The definition, one item and one position at a time, in float64."""
    rows = []
    for states_LD, length, kinds_L in zip(hidden.astype(np.float64), lengths, kinds, strict=True):
        if name == "last":
            rows.append(states_LD[length - 1])
            continue
        dropped = {"mean": None, "mean_no_image": IMAGE, "mean_no_prompt": PROMPT}[name]
        kept = [states_LD[l] for l in range(length) if kinds_L[l] != dropped]  # noqa: E741
        rows.append(sum(kept) / len(kept))
    return np.array(rows)


@given(batches(), st.sampled_from([*MEANS, "last"]))
@settings(deadline=None, max_examples=60)
def test_equals_the_definition(batch, name):
    hidden, lengths, kinds = batch
    mask_BL = torch.arange(hidden.shape[1]) < torch.tensor(lengths)[:, None]
    rows = pool(torch.tensor(hidden), mask_BL, name, kinds_BL=torch.tensor(kinds))
    np.testing.assert_allclose(rows.numpy(), naive(hidden, lengths, kinds, name), rtol=1e-5, atol=1e-6)


@given(batches(), st.sampled_from([*MEANS, "last"]), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_padding_on_either_side_and_what_stands_in_it_change_nothing(batch, name, more):
    hidden, lengths, kinds = batch
    mask_BL = torch.arange(hidden.shape[1]) < torch.tensor(lengths)[:, None]
    rows = pool(torch.tensor(hidden), mask_BL, name, kinds_BL=torch.tensor(kinds))
    junk = torch.full((len(hidden), more, 4), torch.nan)
    padded = torch.cat([junk, torch.tensor(hidden), junk], dim=1)
    mask = torch.cat(
        [torch.zeros(len(hidden), more, dtype=bool), mask_BL, torch.zeros(len(hidden), more)], dim=1
    )
    filler = torch.zeros(len(hidden), more, dtype=torch.uint8)
    kinds_BL = torch.cat([filler, torch.tensor(kinds), filler], dim=1)
    torch.testing.assert_close(pool(padded, mask, name, kinds_BL=kinds_BL), rows, rtol=1e-6, atol=1e-6)


@given(batches(), st.sampled_from(MEANS), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_a_shared_prefix_counts_as_if_it_stood_in_the_batch(batch, name, length):
    hidden, lengths, kinds = batch
    generator = np.random.default_rng(len(lengths) * 100 + length)
    prefix_PD = torch.tensor(generator.normal(size=(length, 4)), dtype=torch.float32)
    kinds_P = generator.integers(0, 2, size=length).astype(np.uint8)
    keep_P = torch.tensor(poolings.get(name).keeps(kinds_P))
    mask_BL = torch.arange(hidden.shape[1]) < torch.tensor(lengths)[:, None]
    reused = pool(
        torch.tensor(hidden),
        mask_BL,
        name,
        kinds_BL=torch.tensor(kinds),
        prefix=PrefixSum(prefix_PD[keep_P].sum(0), int(keep_P.sum())),
    )
    whole = pool(
        torch.cat([prefix_PD.expand(len(hidden), -1, -1), torch.tensor(hidden)], dim=1),
        torch.cat([torch.ones(len(hidden), length, dtype=bool), mask_BL], dim=1),
        name,
        kinds_BL=torch.cat([torch.tensor(kinds_P).expand(len(hidden), -1), torch.tensor(kinds)], dim=1),
    )
    torch.testing.assert_close(reused, whole, rtol=1e-5, atol=1e-6)


def test_half_precision_states_are_summed_in_float32():
    """In bfloat16 a running sum of ones stops at 256; the mean of 4096 ones and 4096 twos is 1.5."""
    hidden_BLD = torch.cat([torch.ones(1, 4096, 2), torch.full((1, 4096, 2), 2.0)], dim=1).bfloat16()
    rows = mean_states(hidden_BLD, torch.ones(1, 8192, dtype=bool))
    assert rows.dtype == torch.float32
    assert rows.tolist() == [[1.5, 1.5]]


def test_the_last_position_is_the_last_valid_one_even_behind_a_gap():
    hidden_BLD = torch.arange(8.0).reshape(2, 4, 1)
    mask_BL = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 1]])
    assert last_states(hidden_BLD, mask_BL).tolist() == [[2.0], [7.0]]


def test_an_item_that_keeps_no_token_is_nan_and_not_a_plausible_zero():
    rows = pool(torch.ones(1, 2, 3), torch.ones(1, 2), "mean_no_image", kinds_BL=torch.full((1, 2), IMAGE))
    assert rows.isnan().all()


def test_a_pooling_that_leaves_kinds_out_needs_them():
    with pytest.raises(ValueError, match="kinds"):
        pool(torch.ones(1, 2, 3), torch.ones(1, 2), "mean_no_prompt")


def test_an_unknown_pooling_is_named_with_its_nearest():
    with pytest.raises(UsageError, match="mean_no_image"):
        pool(torch.ones(1, 2, 3), torch.ones(1, 2), "mean_no_images")
