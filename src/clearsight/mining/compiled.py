"""The one place of this room that touches numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function as machine code that runs without the interpreter's lock; kept on disk where there is a
    place for it.
    """
    from numba import njit

    try:
        made: Function = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba's word for: no folder here can be written
        made = njit(nogil=True)(function)
    return made
