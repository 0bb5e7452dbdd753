"""One version of a Lance table: what is read and searched.

Legend of shapes: N rows, Q queries, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.store.columns import (
    VECTORS,
    fields_of,
    known_columns,
    known_where,
)
from clearsight.store.door import Found, Space
from clearsight.store.exact import Best, unit_queries
from clearsight.store.lance_files import INDEX_NOTE, Place, config_of
from clearsight.store.lance_schema import Layout
from clearsight.store.lance_search import Fragments, exact_best, near_rows
from clearsight.store.where import Where

_IDS_AT_ONCE = 2048


@dataclass(frozen=True)
class LanceView:
    """One version of a table."""

    place: Place
    dataset: Any = field(repr=False)
    layout: Layout = field(repr=False)
    version: int
    rows: int
    cache: Fragments = field(repr=False)

    @classmethod
    def of(cls, place: Place, dataset: Any, cache: Fragments) -> LanceView:
        pinned = dataset.checkout_version(dataset.version)
        return cls(place, pinned, Layout(pinned.schema), pinned.version, pinned.count_rows(), cache)

    @property
    def repair(self) -> str:
        return self.layout.repair

    @property
    def fields(self) -> Mapping[str, pa.DataType]:
        return fields_of(self.layout.metadata)

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """What is known of the approximate indexes, by the column they are of: raw, vector."""
        notes = json.loads(config_of(self.dataset).get(INDEX_NOTE, "{}"))
        built = {name for index in self.dataset.describe_indices() for name in index.field_names}
        stored = {name: self.layout.stored(name) for name in VECTORS}
        return {name: notes[column] for name, column in stored.items() if column in built and column in notes}

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
        width = self.layout.width if space == "raw" else self.layout.vector_width
        query_QD = unit_queries(query_QD, width if self.rows else None, top)
        columns = known_columns(columns, self.layout.metadata)
        if not self.rows:
            nothing = Best((), np.empty(0, np.int64), np.empty(0, np.float32))
            return self._with_columns([nothing] * len(query_QD), columns)
        shown = "raw" if space == "raw" else "vector"
        column = self.layout.stored(shown)
        condition = self._condition(where)
        with self.place.faults("searched"):
            index = None if exact else self.index.get(shown)
            if index is None:
                best = exact_best(self.dataset, column, condition, query_QD, top, self.cache)
                return self._with_columns(best, columns)
            stored = [self.layout.stored(name) for name in columns]
            probes = int(index["nprobes"])
            near = near_rows(self.dataset, column, condition, query_QD, top, probes, self.cache, stored)
            bare = iter(self._with_columns([best for best, rows in near if rows is None], columns))
            return [
                next(bare) if rows is None else Found(self.layout.shown(rows, columns), best.score_K)
                for best, rows in near
            ]

    def read(
        self,
        columns: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        where: Where | None = None,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        columns = known_columns(columns, self.layout.metadata)
        condition = self._condition(where)
        for both in product(_named("id", ids), _named("key", keys)):
            parts = [f"({one})" for one in (*both, condition) if one is not None]
            yield from self._scanned(columns, " and ".join(parts) or None, batch_rows)

    def facts(self) -> dict[str, Any]:
        index = dict(self.index)
        return {
            "kind": "lance",
            "rows": self.rows,
            "bytes": self.place.bytes(),
            "files": len(self.dataset.get_fragments()),
            "index": index or None,
        }

    def _condition(self, where: Where | None) -> str | None:
        if where is None:
            return None
        known_where(where, self.layout.metadata)
        return where.lance()

    def _scanned(self, columns: Sequence[str], condition: str | None, rows: int) -> Iterator[pa.RecordBatch]:
        stored = [self.layout.stored(name) for name in columns]
        with self.place.faults("read"):
            scanner = self.dataset.scanner(columns=stored, filter=condition, batch_size=rows)
            for batch in scanner.to_batches():
                if len(batch):
                    yield batch.select(stored).rename_columns(list(columns))

    def _with_columns(self, found: Sequence[Best], columns: Sequence[str]) -> list[Found]:
        if columns == ["id"]:
            return [Found(pa.table({"id": pa.array(one.ids, pa.string())}), one.score_K) for one in found]
        wanted = np.unique([place for one in found for place in one.place_K.tolist()]).tolist()
        table = self._rows_at(wanted, columns)  # of all queries at once: a read of its own costs 3 ms
        place_N = table.column("_rowid").to_numpy().astype(np.int64)
        shown, order_N = self.layout.shown(table, columns), np.argsort(place_N)
        at = [order_N[np.searchsorted(place_N, one.place_K, sorter=order_N)] for one in found]
        return [Found(shown.take(pa.array(at_K)), one.score_K) for at_K, one in zip(at, found, strict=True)]

    def _rows_at(self, places: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Stored columns of rows by their Lance row ids, and `_rowid`, in any order."""
        stored = [self.layout.stored(name) for name in columns]
        schema = pa.schema([self.layout.schema.field(name) for name in stored])
        parts = [schema.append(pa.field("_rowid", pa.uint64())).empty_table()]
        for first in range(0, len(places), _IDS_AT_ONCE):
            named = f"_rowid in ({', '.join(map(str, places[first : first + _IDS_AT_ONCE]))})"
            parts.append(self.dataset.to_table(columns=stored, filter=named, with_row_id=True))
        return pa.concat_tables(parts)


def _named(column: str, values: Sequence[str] | None) -> list[str | None]:
    """Conditions that hold for the rows with these values, each for some of them; None holds for all."""
    if values is None:
        return [None]
    literals = [_literal(one) for one in dict.fromkeys(values)]
    parts = (literals[first : first + _IDS_AT_ONCE] for first in range(0, len(literals), _IDS_AT_ONCE))
    return [f"{column} in ({', '.join(part)})" for part in parts]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
