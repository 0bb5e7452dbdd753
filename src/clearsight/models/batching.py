"""Which items go through the model together: lengths in, batches out. No model, no tensors.

Legend of shapes: N items, L tokens of one item, P tokens of a shared prefix.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from clearsight.pooling import IMAGE

if TYPE_CHECKING:
    import torch

A = TypeVar("A")
B = TypeVar("B")

CALLS_IN_BUDGET = 32
"""A forward pass costs a 32nd of a full budget of tokens before the first token: it weighs padding
against smaller batches (measured: docs/log.md)."""
FEW_CORES = 4
"""With fewer, on a CPU, threads ahead of the model only take its cores from it: measured 10% slower."""
MOST_WORKERS = 8


def fill_batches(
    lengths_N: Sequence[int] | NDArray[np.int64], budget: int, *, call_tokens: int | None = None
) -> list[NDArray[np.int64]]:
    """Positions of `lengths_N`, each exactly once, in batches of like length that cost the least.

    Among all ways to cut the items, sorted by length, into batches of at most `budget` padded tokens (width
    times items; a longer item stands alone), the one with the smallest sum of `call_tokens + width * items`.
    Exact, by dynamic programming over the cuts:
    best[j] = min_i best[i] + call_tokens + (j - i) * length[j - 1].

    Args:
        lengths_N: true token counts, at least 1.
        budget: padded tokens of one forward pass.
        call_tokens: fixed cost of a forward pass in tokens; 0 never pads, a large value always fills the
            budget, None is a 32nd of the budget.

    Returns:
        Batches, longest items first, so that memory runs out early or not at all.
    """
    call_tokens = budget // CALLS_IN_BUDGET if call_tokens is None else call_tokens
    lengths = np.asarray(lengths_N, dtype=np.int64)
    order_N = np.argsort(lengths, kind="stable")
    sorted_N = lengths[order_N]
    best = np.zeros(len(lengths) + 1, dtype=np.int64)
    cut = np.zeros(len(lengths) + 1, dtype=np.int64)
    for j in range(1, len(lengths) + 1):
        width = int(sorted_N[j - 1])
        first = max(0, j - max(1, budget // width))
        cost = best[first:j] + width * np.arange(j - first, 0, -1)
        at = int(cost.argmin())
        best[j], cut[j] = cost[at] + call_tokens, first + at
    batches = []
    end = len(lengths)
    while end > 0:
        batches.append(order_N[cut[end] : end])
        end = int(cut[end])
    return batches


def shared_prefix(ids: Sequence[NDArray[np.int64]], kinds: Sequence[NDArray[np.uint8]]) -> int:
    """Length of the longest prefix that all items share, in token ids and in kinds.

    It ends before the first image token, and leaves every item at least one token of its own. One item alone
    shares nothing.
    """
    if len(ids) < 2:
        return 0
    first_ids, first_kinds = ids[0], kinds[0]
    images = np.flatnonzero(first_kinds == IMAGE)
    length = min(min(len(one) for one in ids) - 1, int(images[0]) if len(images) else len(first_ids))
    for one_ids, one_kinds in zip(ids[1:], kinds[1:], strict=True):
        differs = (one_ids[:length] != first_ids[:length]) | (one_kinds[:length] != first_kinds[:length])
        if differs.any():
            length = int(differs.argmax())
    return length


def threads_ahead(workers: int | None, device: torch.device) -> int:
    """How many threads prepare items for a model on a device; `workers`, where it is given."""
    if workers is not None:
        return workers
    cores = os.cpu_count() or 1
    return 0 if device.type == "cpu" and cores < FEW_CORES else min(MOST_WORKERS, cores)


def ahead(
    work: Callable[[A], B],
    items: Iterable[A],
    *,
    workers: int,
    depth: int,
    full: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[A, Future[B]]]:
    """`work` done for each item by `workers` threads, at most `depth` items ahead of the consumer, order
    kept.

    Yields the item and its finished future, so that the consumer decides what a failure means. While
    `full()` is true nothing new is begun (beyond the one item that is due). When the consumer stops early,
    what has not begun is dropped.

    Args:
        work: called in a thread.
        items: consumed lazily.
        workers: 0 does the work in the consumer's own thread, at the moment it is due.
        depth: items begun or finished and not yet taken; bounds the memory.
        full: asked before an item is begun.
    """
    if workers == 0:
        for item in items:
            future: Future[B] = Future()
            try:
                future.set_result(work(item))
            except Exception as error:
                future.set_exception(error)
            yield item, future
        return
    source = iter(items)
    pending: deque[tuple[A, Future[B]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        exhausted = False
        while True:
            while not exhausted and len(pending) < depth and not (pending and full()):
                try:
                    item = next(source)
                except StopIteration:
                    exhausted = True
                else:
                    pending.append((item, pool.submit(work, item)))
            if not pending:
                return
            item, future = pending.popleft()
            future.exception()
            yield item, future
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def windows(items: Iterable[A], weight: Callable[[A], float], limit: float) -> Iterator[list[A]]:
    """Consecutive items in lists whose weights add up to at least `limit` (the last one apart)."""
    window: list[A] = []
    total = 0.0
    for item in items:
        window.append(item)
        total += weight(item)
        if total >= limit:
            yield window
            window, total = [], 0.0
    if window:
        yield window
