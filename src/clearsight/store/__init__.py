"""Vectors that were computed once are never computed again: the encoder's cache, on Lance."""

from clearsight.store.cache import VectorCache
from clearsight.store.keys import digests
from clearsight.store.rows import StoredRows
from clearsight.store.vectors import VectorTable

__all__ = ["StoredRows", "VectorCache", "VectorTable", "digests"]
