"""Collections of items with their vectors, repaired without labels, and search in them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearsight.index.index import Index
    from clearsight.index.nouns import Added, Hit, Query, Results
    from clearsight.index.places import find_index

__all__ = ["Added", "Hit", "Index", "Query", "Results", "find_index"]

_HOMES = {
    "Index": "index",
    "find_index": "places",
    **dict.fromkeys(("Added", "Hit", "Query", "Results"), "nouns"),
}


def __getattr__(name: str) -> Any:
    """Names are loaded when they are asked for: the store and the repairs take a second."""
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"clearsight.index.{_HOMES[name]}"), name)
