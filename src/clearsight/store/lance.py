"""An index store as one Lance table, in a folder or on object storage.

A row's repaired vector lies in a column named by the repair (`vector_000003`): a new repair adds its column
in one commit and a later commit drops the old one, so the newest version alone says which repair is in force,
and nothing else of a row is written again. Versions are kept for an hour after they were replaced.

Legend of shapes: N rows, Q queries, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.store.columns import (
    VECTORS,
    check_width,
    fields_of,
    known_columns,
    known_where,
    needed_width,
    normal_rows,
    vector_column,
)
from clearsight.store.door import META, Found, Space
from clearsight.store.exact import Best, unit_queries
from clearsight.store.lance_files import INDEX_NOTE, Place, config_of
from clearsight.store.lance_schema import Layout, empty_schema, vector_name
from clearsight.store.lance_search import Fragments, exact_best, near_rows
from clearsight.store.rewriting import new_vectors, repair_name
from clearsight.store.where import Where
from clearsight.store.where_render import stored_name

if TYPE_CHECKING:
    from clearsight.store.lance_index import Create

# Every `add` leaves one small file. This many are merged; a merged file that has reached its full size is
# left alone, so that a row is rewritten a few times at most however large the table grows.
SMALL_FILES = 64
FULL_FILE_ROWS = 16_384
GRACE = timedelta(hours=1)
"""How long a version stays readable after it was replaced."""

_REWRITE_ROWS = 4096
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


class LanceStore:
    """A `VectorStore` in one Lance table.

    * Killed at any moment (kill -9): a table is as it was before a change or as it is after it.
    * Durable on a local disk: see `lance_files`.
    * On a local disk one writer at a time, by a lock on `.writer` beside the table; on object storage writers
      that meet try again.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._cache = Fragments()
        self._view: LanceView | None = None
        # A handle each: who reads does not wait for who writes.
        self._reader: Any = None
        self._writer: Any = None
        self._reading, self._writing = threading.Lock(), threading.RLock()

    @classmethod
    def open(cls, address: str, width: int | None = None, *, create: bool = False) -> LanceStore:
        """The store at `address`; see `open_store`."""
        store = cls(Place.of(address))
        with store.place.faults("opened"):
            if not store.place.exists():
                if not create:
                    raise DataError("There is no store.", where=address, do="Create it, or correct the path.")
                schema = empty_schema(needed_width(width), needed_width(width), "", {})
                with store.place.writing():
                    if not store.place.exists():
                        store.place.created(schema, anew=False)
        check_width(store.view().layout.width, width, address)
        return store

    def view(self) -> LanceView:
        with self._reading, self.place.faults("opened"):
            self._reader = self._newest(self._reader)
            if self._view is None or self._view.version != self._reader.version:
                self._view = LanceView.of(self.place, self._reader, self._cache)
                self._cache.keep(self._view.dataset)
            return self._view

    def add(self, rows: pa.Table) -> None:
        with self._written() as dataset:
            layout = Layout(dataset.schema)
            filled = dataset.count_rows() > 0
            vector_width = layout.vector_width if filled else None
            rows = normal_rows(rows, layout.width, vector_width, layout.metadata)
            if not len(rows):
                return
            if not filled and rows.schema.field("vector").type.list_size != layout.vector_width:
                dataset = self._of_width(layout, rows)
            else:
                self._add_metadata(dataset, rows)
            kept = Layout(dataset.schema).kept(rows)
            self._merge(dataset, kept, _upsert)
            self._compact()

    def delete(self, ids: Sequence[str]) -> int:
        named = pa.table({"id": pa.array(list(dict.fromkeys(ids)), pa.string())})
        with self._written() as dataset:
            if not len(named) or not dataset.count_rows():
                return 0
            return self._merge(dataset, named, lambda newest: newest.merge_insert("id").when_matched_delete())

    def rewrite(self, repair: str, vectors: Callable[[pa.RecordBatch], NDArray[np.float32]]) -> None:
        with self._written() as dataset:
            layout = Layout(dataset.schema)
            column = vector_name(repair_name(repair, layout.repair))
            if dataset.count_rows():
                self._writer = self.place.again(
                    dataset,
                    lambda newest: self.place.commit(newest, lambda now: _with_vectors(now, column, vectors)),
                )
            else:
                schema = empty_schema(layout.width, layout.vector_width, repair, layout.metadata)
                self._writer = self.place.created(schema, anew=True)
            self._tidy()

    def build(self, *, force: bool = False, create: Create | None = None) -> Mapping[str, Any]:
        """As `VectorStore.build`; `create` builds the index in place of this machine."""
        from clearsight.store.lance_index import build_indexes, create_here

        with self._written() as dataset:
            build_indexes(self.place, dataset, force=force, create=create or create_here)
        return self.view().facts()

    def _newest(self, dataset: Any) -> Any:
        if dataset is None:
            return self.place.open()
        if dataset.latest_version != dataset.version:
            dataset.checkout_latest()
        return dataset

    @contextmanager
    def _written(self) -> Iterator[Any]:
        """The newest table, for the one who may write it."""
        with self._writing, self.place.writing(), self.place.faults("written"):
            self._writer = self._newest(self._writer)
            self._tidy()
            yield self._writer

    def _merge(self, dataset: Any, rows: pa.Table, builder: Callable[[Any], Any]) -> int:
        """Merge rows in one commit; returns how many were deleted."""
        if self.place.folder is None:  # `execute` tells Lance more about what meets, and nothing is to sync
            return self.place.again(dataset, lambda newest: _executed(builder(newest), newest, rows))
        counts = {}

        def make(newest: Any) -> Any:
            transaction, made = builder(newest).execute_uncommitted(rows)
            counts.update(made)
            return transaction

        self._writer = self.place.commit(dataset, make)
        return int(counts["num_deleted_rows"])

    def _add_metadata(self, dataset: Any, rows: pa.Table) -> None:
        """A column for all metadata of the rows: null so far, nothing is rewritten."""
        stored = [(stored_name(one.name), one.type) for one in rows.schema if one.name.startswith(META)]

        def extend(newest: Any) -> None:
            new = [(name, kind) for name, kind in stored if name not in newest.schema.names]
            if new:
                newest.add_columns(pa.schema(new))

        self.place.again(dataset, extend)
        self.place.sync_commit(dataset.version)

    def _of_width(self, layout: Layout, rows: pa.Table) -> Any:
        """The table, still empty, for vectors of another width."""
        width = rows.schema.field("vector").type.list_size
        metadata = {one.name: one.type for one in rows.schema if one.name.startswith(META)}
        self._writer = self.place.created(
            empty_schema(layout.width, width, layout.repair, metadata), anew=True
        )
        return self._writer

    def _tidy(self) -> None:
        """Drop the vectors of repairs that are no longer in force; versions before this one keep theirs."""

        def drop(newest: Any) -> None:
            old = Layout(newest.schema).vectors[:-1]
            if old:
                newest.drop_columns(old)
                self.place.sync_commit(newest.version)

        self.place.again(self._writer, drop)

    def _compact(self) -> None:
        """Rewrite small files as few large ones, and forget versions that were replaced an hour ago."""
        fragments = self._writer.get_fragments()
        if sum(fragment.count_rows() < FULL_FILE_ROWS for fragment in fragments) >= SMALL_FILES:
            self.place.compact(self._writer, FULL_FILE_ROWS)
            self._writer.cleanup_old_versions(older_than=GRACE)


def _upsert(dataset: Any) -> Any:
    return dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()


def _executed(merge: Any, dataset: Any, rows: pa.Table) -> int:
    if len(rows.schema) > 1 and rows.schema.names != dataset.schema.names:
        raise DataError("Another writer changed the columns meanwhile.", do="Add the rows again.")
    return int(merge.conflict_retries(0).execute(rows)["num_deleted_rows"])


def _with_vectors(dataset: Any, column: str, vectors: Callable[[pa.RecordBatch], NDArray[np.float32]]) -> Any:
    """The operation that adds a column of vectors, its files written."""
    import lance

    failed: list[BaseException] = []
    widths: set[int] = set()

    def made(batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            rows_NE = new_vectors(vectors, batch)
            widths.add(rows_NE.shape[1])
            if len(widths) > 1:
                raise DataError("A repair gave vectors of several widths.", do="Give one width.")
            return pa.record_batch({column: vector_column(rows_NE)})
        except BaseException as fault:  # Lance would tell it as its own
            failed.append(fault)
            raise

    fragments, schema = [], None
    for fragment in dataset.get_fragments():
        try:
            metadata, schema = fragment.merge_columns(
                made, columns=["id", "modality", "raw"], batch_size=_REWRITE_ROWS
            )
        except BaseException:
            if failed:
                raise failed[0] from None
            raise
        fragments.append(metadata)
    return lance.LanceOperation.Merge(fragments, schema)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
