"""Machine code for loops, by numba, which is loaded at first use; and threads for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, *, any_order: bool = False) -> Function:
    """The function as machine code that runs without the interpreter's lock; kept on disk where there is a
    place for it.

    Args:
        any_order: sums may be reordered and fused, which lets them use vector registers: right where no order
            rounds.
    """
    from numba import njit

    options: dict[str, Any] = {"nogil": True}
    if any_order:
        options["fastmath"] = {"reassoc", "contract"}
    try:
        made: Function = njit(cache=True, **options)(function)
    except RuntimeError:  # numba's word for: no folder here can be written
        made = njit(**options)(function)
    return made


def spread(work: Callable[[int, int], object], total: int, piece: int) -> None:
    """Call work(first, last) for every `piece` of 0..total, on as many threads as torch uses.

    Each call writes its own part of the output, so nothing depends on which thread took it. An exception of
    any call is raised here.
    """
    import torch

    starts = range(0, total, piece)
    threads = min(torch.get_num_threads(), len(starts))
    if threads <= 1:
        for first in starts:
            work(first, min(first + piece, total))
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="clearsight-ranking") as crew:
        for _ in crew.map(lambda first: work(first, min(first + piece, total)), starts):
            pass
