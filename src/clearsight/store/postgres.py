"""An index store in PostgreSQL with pgvector.

Rows carry the version that brought them and the one that took them away, so a view is a number: it needs no
open transaction, which would keep the server from cleaning up, and any connection can serve it.

Legend of shapes: N rows, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.store.columns import check_width, matrix, needed_width, normal_rows
from clearsight.store.door import META, Space
from clearsight.store.postgres_rows import COPIED, TYPES, copied_rows, table_of
from clearsight.store.postgres_server import GRACE, Server, State
from clearsight.store.postgres_view import PostgresView
from clearsight.store.rewriting import new_vectors, repair_name

INDEX_ROWS = 100_000
"""Below so many rows every row is compared."""
MOST_VECTOR, MOST_HALFVEC = 2_000, 4_000
"""Widths that pgvector can index: as float32, and as float16 (`halfvec`)."""
SAMPLE, TOP = 100, 10
WANTED_RECALL = 0.98
_REWRITE_ROWS = 4096


class PostgresStore:
    """A `VectorStore` on a server; any number of readers, one writer at a time (it locks the state row)."""

    def __init__(self, server: Server) -> None:
        self.server = server

    @classmethod
    def open(cls, address: str, width: int | None = None, *, create: bool = False) -> PostgresStore:
        """The store at postgresql://user:password@host/database#NAME; see `open_store`."""
        server = Server(address)
        with server.connection("opened") as connection:
            if not server.exists(connection):
                if not create:
                    raise DataError("There is no store.", where=server.where, do="Create it first.")
                server.create(connection, needed_width(width))
            check_width(server.state(connection).width, width, server.where)
        return cls(server)

    def view(self) -> PostgresView:
        with self.server.connection("opened") as connection:
            connection.execute("set transaction isolation level repeatable read")
            state = self.server.state(connection)
            count = self.server.sql("select count(*) from {rows} where died is null")
            return PostgresView(self.server, state, connection.execute(count).fetchone()[0])

    def add(self, rows: pa.Table) -> None:
        with self._written() as (connection, state):
            filled = connection.execute(
                self.server.sql("select exists (select from {rows} where died is null)")
            ).fetchone()[0]
            rows = normal_rows(rows, state.width, state.vector_width if filled else None, state.metadata)
            if not len(rows):
                return
            listed = ", ".join(COPIED)
            connection.execute(
                self.server.sql(
                    f"create temporary table arriving on commit drop as select {listed} from {{rows}} limit 0"
                )
            )
            with connection.cursor().copy(f"copy arriving ({listed}) from stdin (format binary)") as copy:
                copy.set_types(TYPES)
                for row in copied_rows(rows):
                    copy.write_row(row)
            self._bury(connection, state, "id in (select id from arriving)", [])
            into = ", ".join("{vector}" if name == "vector" else name for name in COPIED)
            connection.execute(
                self.server.sql(
                    f"insert into {{rows}} (born, {into}) select %s, {listed} from arriving",
                    vector=state.column,
                ),
                (state.version + 1,),
            )
            kinds = {one.name: str(one.type) for one in rows.schema if one.name.startswith(META)}
            width = rows.schema.field("vector").type.list_size
            self.server.commit(connection, state, metadata=kinds, vector_width=width)

    def delete(self, ids: Sequence[str]) -> int:
        with self._written() as (connection, state):
            gone = self._bury(connection, state, "id = any(%s)", [list(ids)])
            if gone:
                self.server.commit(connection, state)
            return gone

    def rewrite(self, repair: str, vectors: Callable[[pa.RecordBatch], NDArray[np.float32]]) -> None:
        with self._written() as (connection, state):
            repair_name(repair, state.repair)
            column = f"vector_{repair}" if repair else "vector"
            self._drop_unused(connection, state, keep=column)
            connection.execute(  # in a transaction of its own: it keeps readers out for a moment
                self.server.sql("alter table {rows} add column if not exists {column} vector", column=column)
            )
        with self._written() as (connection, state):
            repair_name(repair, state.repair)
            width = self._fill(connection, state, column, vectors)
            (now,) = connection.execute("select now()::text").fetchone()
            retired = {name: at for name, at in state.retired.items() if name != column}
            changes = {"repair": repair, "retired": {**retired, state.column: now}}
            notes = {name: note for name, note in state.notes.items() if name == "raw"}
            self.server.commit(connection, state, **changes, vector_width=width, notes=notes)

    def build(self, *, force: bool = False) -> Mapping[str, Any]:
        view = self.view()
        if view.rows and (force or (view.rows >= INDEX_ROWS and _due(view))):
            with self._written() as (connection, state):
                widths = {"raw": state.width, state.column: state.vector_width}
                notes = {column: self._index(connection, column, width) for column, width in widths.items()}
                self.server.commit(connection, state, notes=notes)
            measured = {column: self._measured(column, dict(note)) for column, note in notes.items()}
            with self._written() as (connection, state):
                current = {column: measured[column] for column in ("raw", state.column) if column in measured}
                self.server.commit(connection, state, notes=current)
        return self.view().facts()

    @contextmanager
    def _written(self) -> Iterator[tuple[Any, State]]:
        with self.server.connection("written") as connection:
            yield connection, self.server.state(connection, lock=True)

    def _bury(self, connection: Any, state: State, condition: str, values: list[Any]) -> int:
        """End rows at the next version; those that ended an hour ago are removed."""
        removed = connection.execute(
            self.server.sql(
                "with gone as (delete from {rows} where died is not null and died_at < now() - %s::interval "
                "returning died) select max(died) from gone"
            ),
            (GRACE,),
        ).fetchone()[0]
        if removed is not None:
            connection.execute(
                self.server.sql("update {state} set purged = greatest(purged, %s)"), (removed,)
            )
        ended = connection.execute(
            self.server.sql(
                f"update {{rows}} set died = %s, died_at = now() where died is null and {condition}"
            ),
            [state.version + 1, *values],
        )
        return int(ended.rowcount)

    def _drop_unused(self, connection: Any, state: State, *, keep: str) -> None:
        """Drop vectors of repairs that no view of the last hour reads."""
        there = connection.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and not attisdropped "
            "and (attname = 'vector' or attname like 'vector\\_%%')",
            (self.server.name,),
        ).fetchall()
        recent = connection.execute(
            "select key from jsonb_each_text(%s::jsonb) where value::timestamptz > now() - %s::interval",
            (_json(state.retired), GRACE),
        ).fetchall()
        kept = {state.column, *(row[0] for row in recent)}
        for (column,) in there:
            if column == keep and column in kept:
                raise DataError(
                    f"The repair '{column}' was in force within the last hour.",
                    do="Give the new one another name.",
                )
            if column not in kept:
                connection.execute(self.server.sql("alter table {rows} drop column {column}", column=column))

    def _fill(
        self,
        connection: Any,
        state: State,
        column: str,
        vectors: Callable[[pa.RecordBatch], NDArray[np.float32]],
    ) -> int:
        """The vectors of all rows into a column; returns their width."""
        connection.execute("create temporary table made (row bigint, vector vector) on commit drop")
        widths: set[int] = set()
        names = ("id", "modality", "raw")
        with connection.cursor(name="unmade", binary=True) as cursor:
            listed = self.server.sql(
                "select id, modality, raw, row from {rows} where died is null order by row"
            )
            cursor.execute(listed)
            while found := cursor.fetchmany(_REWRITE_ROWS):
                table = table_of(found, names, {}, {"raw": state.width})
                rows_NE = new_vectors(vectors, table.combine_chunks().to_batches()[0])
                widths.add(rows_NE.shape[1])
                with connection.cursor().copy("copy made from stdin (format binary)") as copy:
                    copy.set_types(("int8", "vector"))
                    for one, vector in zip(found, rows_NE, strict=True):
                        copy.write_row((one[3], vector))
        if len(widths) > 1:
            raise DataError("A repair gave vectors of several widths.", do="Give one width.")
        connection.execute(
            self.server.sql(
                "update {rows} set {column} = made.vector from made where {rows}.row = made.row",
                column=column,
            )
        )
        return widths.pop() if widths else state.vector_width

    def _index(self, connection: Any, column: str, width: int) -> dict[str, Any]:
        """The note of a column's index, built where it is not there; without one, why."""
        if width > MOST_HALFVEC:
            why = f"pgvector indexes at most {MOST_HALFVEC} dimensions, these are {width}"
            return {"kind": None, "why": why}
        kind = "vector" if width <= MOST_VECTOR else "halfvec"
        name = f"{self.server.name}_{blake2b(column.encode(), digest_size=4).hexdigest()}_hnsw"
        began = time.monotonic()
        connection.execute(
            self.server.sql(
                f"create index if not exists {{name}} on {{rows}} "
                f"using hnsw (({{column}}::{kind}({width})) {kind}_cosine_ops)",
                name=name,
                column=column,
            )
        )
        seconds = round(time.monotonic() - began, 1)
        return {"kind": "HNSW", "type": kind, "ef_search": 40, "build_seconds": seconds}

    def _measured(self, column: str, note: dict[str, Any]) -> dict[str, Any]:
        """The note with the smallest `ef_search` that reaches the wanted recall, and the recall."""
        if note["kind"] is None:
            return note
        view = self.view()
        space: Space = "raw" if column == "raw" else "repaired"
        shown = "raw" if column == "raw" else "vector"
        step = max(1, view.rows // SAMPLE)
        ids = [name for batch in view.read(("id",)) for name in batch.column("id").to_pylist()][::step][
            :SAMPLE
        ]
        batches = [batch for batch in view.read(("id", shown), ids=ids) if len(batch)]
        query_SD = np.concatenate([matrix(batch.column(shown)) for batch in batches])
        own = [name for batch in batches for name in batch.column("id").to_pylist()]
        some = np.flatnonzero(query_SD.any(axis=1))
        query_SD, own = query_SD[some], [own[i] for i in some]
        exact = view.search(query_SD, TOP + 1, space=space, exact=True)
        wanted = [_others(found, name) for found, name in zip(exact, own, strict=True)]
        recall = 0.0
        for probed in (40, 80, 160, 320, 640, 1000):
            note["ef_search"] = probed
            notes = {**view.state.notes, column: note}
            tried = PostgresView(view.server, _with_notes(view.state, notes), view.rows)
            near = tried.search(query_SD, TOP + 1, space=space)
            hits = [
                len(_others(found, name) & there)
                for found, name, there in zip(near, own, wanted, strict=True)
            ]
            recall = sum(hits) / max(1, sum(map(len, wanted)))
            if recall >= WANTED_RECALL:
                break
        return {**note, "rows": view.rows, "recall@10": round(recall, 4)}


def _due(view: PostgresView) -> bool:
    """Whether a vector has no index, or its recall was measured on other than about these rows."""
    notes = [view.state.notes.get(column) for column in ("raw", view.state.column)]
    return any(
        note is None or (note["kind"] and abs(view.rows - note.get("rows", 0)) > view.rows // 50)
        for note in notes
    )


def _others(found: Any, own: str) -> set[str]:
    return set(found.rows.column("id").to_pylist()) - {own}


def _with_notes(state: State, notes: Mapping[str, Any]) -> State:
    from dataclasses import replace

    return replace(state, notes=notes)


def _json(value: Mapping[str, Any]) -> Any:
    from psycopg.types.json import Jsonb

    return Jsonb(dict(value))
