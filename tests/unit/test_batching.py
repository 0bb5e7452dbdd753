"""Laws of planning: nothing lost or doubled, budgets kept, the cheapest cut, memory bounded."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.models.batching import ahead, fill_batches, shared_prefix, windows
from clearsight.pooling import IMAGE, PROMPT, TEXT

LENGTHS = st.lists(st.integers(1, 40), max_size=40)


def cost(batches, lengths, call_tokens):
    return sum(call_tokens + len(batch) * max(lengths[i] for i in batch) for batch in batches)


@given(LENGTHS, st.integers(1, 200), st.integers(0, 50))
@settings(deadline=None)
def test_every_item_once_and_the_budget_is_kept(lengths, budget, call_tokens):
    batches = fill_batches(lengths, budget, call_tokens=call_tokens)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    widest = [max(lengths[i] for i in batch) for batch in batches]
    assert widest == sorted(widest, reverse=True)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 20))
@settings(deadline=None, max_examples=60)
def test_no_other_cut_of_the_sorted_items_is_cheaper(lengths, budget, call_tokens):
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    best = None
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        parts, part = [], [order[0]]
        for cut, i in zip(cuts, order[1:], strict=True):
            if cut:
                parts.append(part)
                part = []
            part.append(i)
        parts.append(part)
        if all(len(p) == 1 or len(p) * max(lengths[i] for i in p) <= budget for p in parts):
            total = cost(parts, lengths, call_tokens)
            best = total if best is None else min(best, total)
    assert cost(fill_batches(lengths, budget, call_tokens=call_tokens), lengths, call_tokens) == best


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=2, max_size=6))
@settings(deadline=None)
def test_the_shared_prefix_is_the_longest_that_leaves_each_item_a_token(sequences):
    ids = [np.array(s, dtype=np.int64) for s in sequences]
    kinds = [np.full(len(s), PROMPT, dtype=np.uint8) for s in sequences]
    length = shared_prefix(ids, kinds)
    limit = min(len(s) for s in sequences) - 1
    longest = max(n for n in range(limit + 1) if len({tuple(s[:n]) for s in sequences}) == 1)
    assert length == longest


def test_the_shared_prefix_ends_before_an_image_and_where_kinds_differ():
    ids = [np.array([1, 2, 9, 9, 3]), np.array([1, 2, 9, 9, 4])]
    picture = np.array([PROMPT, PROMPT, IMAGE, IMAGE, TEXT], dtype=np.uint8)
    assert shared_prefix(ids, [picture, picture]) == 2
    own = np.array([PROMPT, TEXT, TEXT, TEXT, TEXT], dtype=np.uint8)
    assert shared_prefix(ids, [picture, own]) == 1


def test_one_item_shares_nothing():
    assert shared_prefix([np.array([1, 2, 3])], [np.zeros(3, dtype=np.uint8)]) == 0


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_ahead_keeps_the_order_and_hands_over_failures(workers):
    def work(n):
        if n % 3 == 1:
            raise ValueError(n)
        return n * n

    seen = [
        (item, future.exception() or future.result())
        for item, future in ahead(work, range(10), workers=workers, depth=4)
    ]
    assert [item for item, _ in seen] == list(range(10))
    for item, result in seen:
        assert (isinstance(result, ValueError) and item % 3 == 1) or result == item * item


def test_ahead_begins_no_more_than_its_depth():
    taken, begun, most = 0, 0, 0

    def source():
        nonlocal begun, most
        for n in range(50):
            begun += 1
            most = max(most, begun - taken)
            yield n

    for _ in ahead(lambda n: n, source(), workers=2, depth=5):
        taken += 1
    assert begun == 50
    assert most <= 6  # five waiting and the one that is being taken


def test_ahead_begins_nothing_while_full():
    full = threading.Event()
    begun = []

    def source():
        for n in range(20):
            begun.append(n)
            yield n

    stream = ahead(lambda n: n, source(), workers=2, depth=4, full=full.is_set)
    next(stream)
    full.set()
    waiting = len(begun)
    for expected in range(1, 20):
        assert next(stream)[0] == expected  # what is due is still done, one at a time
        assert len(begun) <= max(waiting, expected + 1)


def test_ahead_drops_what_has_not_begun_when_its_consumer_leaves():
    before = threading.active_count()
    stream = ahead(lambda n: n, range(1000), workers=2, depth=8)
    next(stream)
    stream.close()
    assert threading.active_count() == before


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 30))
def test_windows_lose_nothing_and_close_when_they_are_heavy_enough(weights, limit):
    parts = list(windows(weights, float, limit))
    assert list(itertools.chain(*parts)) == weights
    for part in parts[:-1]:
        assert sum(part) >= limit > sum(part[:-1])
