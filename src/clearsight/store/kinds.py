"""The kinds of index stores, and which of them an address means. Nothing heavy is loaded before one opens."""

from __future__ import annotations

from clearsight.store.door import STORES, StoreKind, VectorStore


def store_kind(address: str) -> str:
    """The name in `STORES` that an address means: by its scheme, or `lance` for a path."""
    scheme, colon, _ = address.partition(":")
    if colon and scheme in ("postgresql", "postgres"):
        return "postgres"
    if colon and scheme in STORES.names():
        return scheme
    return "lance"


def open_store(address: str, width: int | None = None, *, create: bool = False) -> VectorStore:
    """The store at an address: a folder or s3://bucket/folder (ending in .lance), postgresql://..., memory:.

    Args:
        width: D; needed to create a store, compared with the store's own where it is there.
        create: make an empty store where there is none.

    Raises:
        DataError: there is no store at the address (and `create` is False), it cannot be read, or its width
            is another.
        UsageError: the address cannot be understood, or its server's library is not installed.
    """
    return STORES.get(store_kind(address)).open(address, width, create=create)


def _memory(address: str, width: int | None = None, *, create: bool = False) -> VectorStore:
    from clearsight.store.memory import open_memory

    return open_memory(address, width, create=create)


def _lance(address: str, width: int | None = None, *, create: bool = False) -> VectorStore:
    from clearsight.store.lance import LanceStore

    return LanceStore.open(address, width, create=create)


def _postgres(address: str, width: int | None = None, *, create: bool = False) -> VectorStore:
    from clearsight.store.postgres import PostgresStore

    return PostgresStore.open(address, width, create=create)


STORES.add("memory", StoreKind(_memory, False, "this process' memory: exact, gone when it ends"))
STORES.add("lance", StoreKind(_lance, True, "a Lance table in a folder, or on s3:// storage"))
STORES.add(
    "postgres", StoreKind(_postgres, False, "PostgreSQL with pgvector: postgresql://.../database#NAME")
)
