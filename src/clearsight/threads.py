"""A small crew of threads for compiled kernels that release the interpreter's lock.

torch's own thread count is honoured (`torch.set_num_threads`, OMP_NUM_THREADS). numba's parallel loops are
not used: they load a second OpenMP library beside torch's, with threads of its own on the same cores.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import numpy.typing as npt

CHUNKS = 4
"""Pieces of work for each thread: a thread that was held up leaves the rest to the others."""


@lru_cache(maxsize=4)
def _crew(helpers: int, process: int) -> ThreadPoolExecutor:
    # The process number is part of the key: after a fork the parent's threads do not exist.
    return ThreadPoolExecutor(helpers, thread_name_prefix="clearsight")


def spread(work: Callable[[int, int], object], edges: Sequence[int]) -> None:
    """Call work(edges[i], edges[i + 1]) for every i, on as many threads as torch uses; returns when all
    ended.

    Each call writes its own part of the output, so nothing depends on which thread took it. An exception of
    any call is raised here.
    """
    threads = min(_threads(), len(edges) - 1)
    if threads <= 1:
        for first, last in itertools.pairwise(edges):
            work(first, last)
        return
    number = itertools.count()  # next() on it is atomic

    def take() -> None:
        while (i := next(number)) < len(edges) - 1:
            work(edges[i], edges[i + 1])

    crew = _crew(threads - 1, os.getpid())
    helpers = [crew.submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        for helper in helpers:
            helper.result()


def edges_every(total: int, piece: int) -> list[int]:
    """Edges that cut 0..total into pieces of one size, the last of what is left."""
    return [*range(0, total, piece), total]


def even_edges(total: int) -> list[int]:
    """Edges that cut 0..total into CHUNKS pieces a thread, none of them empty."""
    pieces = max(1, min(total, CHUNKS * _threads()))
    return [total * i // pieces for i in range(pieces + 1)]


def weighted_edges(offset: npt.NDArray[np.int64], fixed: float) -> list[int]:
    """Edges over 0..len(offset) - 1 that share out the work `offset[i + 1] - offset[i] + fixed` of each i."""
    total = len(offset) - 1
    cost = offset + fixed * np.arange(total + 1)
    pieces = max(1, min(total, CHUNKS * _threads()))
    inner = np.searchsorted(cost, cost[-1] * np.arange(1, pieces) / pieces)
    return [0, *(int(edge) for edge in inner), total]


def _threads() -> int:
    import torch

    return torch.get_num_threads()
