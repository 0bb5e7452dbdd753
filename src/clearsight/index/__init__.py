"""Collections of items with their vectors, repaired without labels, and search in them."""

from typing import TYPE_CHECKING

from clearsight.lazy import names_from

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

__getattr__ = names_from(__name__, _HOMES)  # the store and the repairs take a second
