"""Rows in this process' memory: exact, gone when it ends. For tests and small collections."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.store.columns import (
    PLAIN,
    VECTORS,
    check_width,
    fields_of,
    known_columns,
    known_where,
    matrix,
    needed_width,
    normal_rows,
    vector_column,
)
from clearsight.store.door import META, Found, Space
from clearsight.store.exact import Block, best_rows, unit_queries, unit_rows
from clearsight.store.rewriting import new_vectors, repair_name
from clearsight.store.where import Where

_REWRITE_ROWS = 4096


@dataclass(frozen=True)
class MemoryView:
    """A table that never changes."""

    table: pa.Table = field(repr=False)
    width: int
    version: int
    repair: str

    @property
    def rows(self) -> int:
        return len(self.table)

    @property
    def metadata(self) -> dict[str, pa.DataType]:
        return {one.name: one.type for one in self.table.schema if one.name.startswith(META)}

    @property
    def vector_width(self) -> int | None:
        """E; None while there is no row."""
        return self.table.schema.field("vector").type.list_size if self.rows else None

    @property
    def fields(self) -> Mapping[str, pa.DataType]:
        return fields_of(self.metadata)

    @cached_property
    def _raw_ND(self) -> NDArray[np.float32]:
        return unit_rows(matrix(self.table.column("raw").combine_chunks()))

    @cached_property
    def _vector_ND(self) -> NDArray[np.float32]:
        return unit_rows(matrix(self.table.column("vector").combine_chunks()))

    def search(
        self,
        query_QD: NDArray[np.float32],
        top: int,
        *,
        space: Space = "repaired",
        where: Where | None = None,
        columns: Sequence[str] = ("id",),
        exact: bool = False,
    ) -> list[Found]:
        width = self.width if space == "raw" else self.vector_width
        query_QD = unit_queries(query_QD, width if self.rows else None, top)
        columns = known_columns(columns, self.metadata)
        if not self.rows:
            nothing = self._shown(columns).slice(0, 0)
            return [Found(nothing, np.empty(0, np.float32)) for _ in query_QD]
        unit_ND = self._raw_ND if space == "raw" else self._vector_ND
        place_N = self._places(where)
        ids = self.table.column("id")
        if where is not None:
            unit_ND, ids = unit_ND[place_N], ids.take(pa.array(place_N))
        found = best_rows([Block(ids, place_N, unit_ND)], query_QD, top)
        shown = self._shown(columns)
        return [Found(shown.take(pa.array(one.place_K)), one.score_K) for one in found]

    def read(
        self,
        columns: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        where: Where | None = None,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        shown = self._shown(known_columns(columns, self.metadata))
        place_N = self._places(where) if self.rows else np.empty(0, np.int64)
        for column, values in (("id", ids), ("key", keys)):
            if values is not None:
                named = pc.is_in(self.table.column(column), value_set=pa.array(values, pa.string()))
                place_N = place_N[named.to_numpy()[place_N]]
        for first in range(0, len(place_N), batch_rows):
            yield from shown.take(pa.array(place_N[first : first + batch_rows])).combine_chunks().to_batches()

    def _places(self, where: Where | None) -> NDArray[np.int64]:
        place_N = np.arange(self.rows, dtype=np.int64)
        if where is None:
            return place_N
        known_where(where, self.metadata)
        named = self.table.select(sorted(where.columns)).append_column("#", pa.array(place_N))
        places: NDArray[np.int64] = named.filter(where.arrow()).column("#").to_numpy()
        return places

    def _shown(self, columns: Sequence[str]) -> pa.Table:
        return self.table.select(columns)

    def facts(self) -> dict[str, Any]:
        return {"kind": "memory", "rows": self.rows, "bytes": self.table.nbytes, "index": None}


class MemoryStore:
    """A `VectorStore` in memory.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        columns = dict(PLAIN)
        columns |= dict.fromkeys(VECTORS, pa.list_(pa.float32(), width))
        self._view = MemoryView(pa.schema(columns).empty_table(), width, 0, "")
        self._lock = threading.Lock()

    def view(self) -> MemoryView:
        return self._view

    def add(self, rows: pa.Table) -> None:
        with self._lock:
            now = self._view
            rows = normal_rows(rows, now.width, now.vector_width, now.metadata)
            kept = now.table.filter(pc.invert(pc.is_in(now.table.column("id"), rows.column("id"))))
            if not len(kept):
                kept = rows.schema.empty_table()
            self._commit(pa.concat_tables([kept, rows], promote_options="default").combine_chunks())

    def delete(self, ids: Sequence[str]) -> int:
        with self._lock:
            now = self._view
            gone = pc.is_in(now.table.column("id"), value_set=pa.array(ids, pa.string()))
            count = pc.sum(gone).as_py() or 0
            if count:
                self._commit(now.table.filter(pc.invert(gone)))
            return int(count)

    def rewrite(self, repair: str, vectors: Callable[[pa.RecordBatch], NDArray[np.float32]]) -> None:
        with self._lock:
            now = self._view
            repair_name(repair, now.repair)
            if not now.rows:
                self._view = replace(now, version=now.version + 1, repair=repair)
                return
            batches = now.read(("id", "modality", "raw"), batch_rows=_REWRITE_ROWS)
            parts = [new_vectors(vectors, batch) for batch in batches]
            if len({part.shape[1] for part in parts}) > 1:
                raise DataError("A repair gave vectors of several widths.", do="Give one width.")
            at = now.table.column_names.index("vector")
            table = now.table.set_column(at, "vector", vector_column(np.concatenate(parts)))
            self._commit(table, repair)

    def build(self, *, force: bool = False) -> Mapping[str, Any]:
        return self._view.facts()

    def _commit(self, table: pa.Table, repair: str | None = None) -> None:
        now = self._view
        self._view = MemoryView(table, now.width, now.version + 1, now.repair if repair is None else repair)


_NAMED: dict[str, MemoryStore] = {}


def open_memory(address: str, width: int | None = None, *, create: bool = False) -> MemoryStore:
    """`memory:NAME`, one store for the process under each name; `memory:` a new one each time."""
    name = address.partition(":")[2]
    store = _NAMED.get(name) if name else None
    if store is not None:
        check_width(store.view().width, width, address)
        return store
    if not create:
        raise DataError("There is no store.", where=address, do="Create it first.")
    store = MemoryStore(needed_width(width))
    if name:
        _NAMED[name] = store
    return store
