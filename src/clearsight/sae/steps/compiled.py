"""The one place that touches numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., object])

# Sums may be reordered (that is what lets them use vector units); NaN and infinity keep their meaning.
FREEDOM = {"reassoc", "contract", "nsz"}


def compiled(function: Kernel) -> Kernel:
    """The function as machine code that releases the interpreter's lock; kept on disk between processes."""
    return cast(Kernel, numba.njit(nogil=True, cache=True, fastmath=FREEDOM, error_model="numpy")(function))
