"""An index store as one Lance table, in a folder or on object storage.

A row's repaired vector lies in a column named by the repair (`vector_000003`): a new repair adds its column
in one commit and a later commit drops the old one, so the newest version alone says which repair is in force,
and nothing else of a row is written again. Versions are kept for an hour after they were replaced.

Legend of shapes: N rows, Q queries, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.store.columns import (
    check_width,
    needed_width,
    normal_rows,
    vector_column,
)
from clearsight.store.door import META
from clearsight.store.lance_files import Place
from clearsight.store.lance_schema import Layout, empty_schema, vector_name
from clearsight.store.lance_search import Fragments
from clearsight.store.lance_view import LanceView
from clearsight.store.rewriting import new_vectors, repair_name
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
