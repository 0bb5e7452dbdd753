"""How the kernels of a training step are compiled."""

from __future__ import annotations

from clearsight.compiled import Function
from clearsight.compiled import compiled as _compiled


def compiled(function: Function) -> Function:
    """Sums in any order, nothing checked: this is what lets them use vector registers."""
    return _compiled(function, any_order=True, unchecked=True)
