"""One version of a Lance table: what is read and searched.

Legend of shapes: N rows, Q queries, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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

_IDS_AT_ONCE = 1000


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
            nothing = self._rows_at([], columns)
            return [Found(nothing, np.empty(0, np.float32)) for _ in query_QD]
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
            return [
                self._with_columns([best], columns)[0]
                if rows is None
                else Found(self.layout.shown(rows, columns), best.score_K)
                for best, rows in near
            ]

    def read(
        self,
        columns: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        where: Where | None = None,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        columns = known_columns(columns, self.layout.metadata)
        condition = self._condition(where)
        if ids is None:
            yield from self._scanned(columns, condition, batch_rows)
            return
        wanted = list(dict.fromkeys(ids))
        for first in range(0, len(wanted), _IDS_AT_ONCE):
            named = f"id in ({', '.join(_literal(one) for one in wanted[first : first + _IDS_AT_ONCE])})"
            both = named if condition is None else f"{named} and ({condition})"
            yield from self._scanned(columns, both, batch_rows)

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
        return [Found(self._rows_at(one.place_K.tolist(), columns), one.score_K) for one in found]

    def _rows_at(self, places: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Columns of rows by their Lance row ids, in that order."""
        stored = [self.layout.stored(name) for name in columns]
        schema = pa.schema([self.layout.schema.field(name) for name in stored])
        parts = [schema.append(pa.field("_rowid", pa.uint64())).empty_table()]
        for first in range(0, len(places), _IDS_AT_ONCE):
            named = f"_rowid in ({', '.join(map(str, places[first : first + _IDS_AT_ONCE]))})"
            parts.append(self.dataset.to_table(columns=stored, filter=named, with_row_id=True))
        table = pa.concat_tables(parts)
        at = {row: place for place, row in enumerate(table.column("_rowid").to_pylist())}
        table = table.take(pa.array([at[place] for place in places], pa.int64()))
        return self.layout.shown(table, columns)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
