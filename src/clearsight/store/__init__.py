"""Where vectors are kept: the encoder's cache of what was computed once, and the stores of an index.

Index stores open the door `VectorStore`; `open_store` finds the kind by the address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearsight.lazy import names_from

if TYPE_CHECKING:
    from clearsight.store.cache import VectorCache
    from clearsight.store.door import COLUMNS, META, STORES, Found, Space, StoreKind, VectorStore, View
    from clearsight.store.keys import digests
    from clearsight.store.kinds import open_store, store_kind
    from clearsight.store.rows import StoredRows
    from clearsight.store.vectors import VectorTable
    from clearsight.store.where import Where, parse_where

__all__ = [
    "COLUMNS",
    "META",
    "STORES",
    "Found",
    "Space",
    "StoreKind",
    "StoredRows",
    "VectorCache",
    "VectorStore",
    "VectorTable",
    "View",
    "Where",
    "digests",
    "open_store",
    "parse_where",
    "store_kind",
]

_HOMES = {
    **dict.fromkeys(("COLUMNS", "META", "Found", "Space", "StoreKind", "VectorStore", "View"), "door"),
    **dict.fromkeys(("STORES", "open_store", "store_kind"), "kinds"),  # the kinds are registered there
    **dict.fromkeys(("Where", "parse_where"), "where"),
    "StoredRows": "rows",
    "VectorCache": "cache",
    "VectorTable": "vectors",
    "digests": "keys",
}

__getattr__ = names_from(__name__, _HOMES)  # pyarrow and Lance take a second
