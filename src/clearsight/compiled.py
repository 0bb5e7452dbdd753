"""Machine code for loops, by numba, which is loaded at first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, *, any_order: bool = False, unchecked: bool = False) -> Function:
    """The function as machine code that runs without the interpreter's lock; the same object at every call.

    It is compiled when it is first run, and kept on disk where there is a place for it.

    Args:
        any_order: sums may be reordered and fused, which lets them use vector registers. NaN and infinity
            keep their meaning.
        unchecked: a division by zero gives infinity or NaN instead of an error, and zero has no sign: loops
            that divide, or take maxima, use vector registers too.
    """
    made: Function = _made(function, any_order, unchecked)
    return made


@cache
def _made(function: Callable[..., Any], any_order: bool, unchecked: bool) -> Any:
    from numba import njit

    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": {"reassoc", "contract"} if any_order else set(),
        "error_model": "numpy" if unchecked else "python",
    }
    if unchecked:
        options["fastmath"].add("nsz")
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba's word for: no folder here can be written
        return njit(**options)(function)
