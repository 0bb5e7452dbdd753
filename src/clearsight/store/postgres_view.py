"""One version of a PostgreSQL store, and search in it.

Legend of shapes: Q queries, D width, P candidates, K hits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.store.columns import fields_of, known_columns, known_where
from clearsight.store.door import Found, Space
from clearsight.store.exact import Best, ordered, scores, unit_queries, unit_rows
from clearsight.store.postgres_rows import selected, table_of
from clearsight.store.postgres_server import Server, State
from clearsight.store.where import Where

MOST_PROBED = 1000
"""The server's own limit of hnsw.ef_search."""
_NEAR = 1e-6
_MOST_TIES = 10_000


@dataclass(frozen=True)
class PostgresView:
    """The rows born at or before `version` that had not died then."""

    server: Server = field(repr=False)
    state: State = field(repr=False)
    rows: int

    @property
    def version(self) -> int:
        return self.state.version

    @property
    def repair(self) -> str:
        return self.state.repair

    @property
    def fields(self) -> Mapping[str, pa.DataType]:
        return fields_of(self.state.metadata)

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
        width = self._widths["raw" if space == "raw" else "vector"]
        query_QD = unit_queries(query_QD, width if self.rows else None, top)
        columns = known_columns(columns, self.state.metadata)
        condition, values = self._condition(where)
        column = "raw" if space == "raw" else self.state.column
        found = []
        with self.server.connection("searched") as connection:
            self._check_age(connection)
            for query_D in query_QD:
                near = None
                if self.rows and not exact and self.state.notes.get(column, {}).get("kind"):
                    near = self._near(connection, column, query_D, top, condition, values)
                if near is None and self.rows:
                    near = self._exact(connection, column, query_D, top, condition, values)
                best = near or Best((), np.empty(0, np.int64), np.empty(0, np.float32))
                found.append(Found(self._shown(connection, best, columns), best.score_K))
        return found

    def read(
        self,
        columns: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        where: Where | None = None,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        columns = known_columns(columns, self.state.metadata)
        condition, values = self._condition(where)
        for column, named in (("id", ids), ("key", keys)):
            if named is not None:
                condition, values = f"{condition} and {column} = any(%s)", [*values, list(named)]
        with self.server.connection("read") as connection:
            self._check_age(connection)
            with connection.cursor(name="rows", binary=True) as cursor:
                cursor.execute(
                    self._sql(f"select {self._list(columns)} from {{rows}} where {condition} order by row"),
                    values,
                )
                while found := cursor.fetchmany(batch_rows):
                    table = table_of(found, columns, self.state.metadata, self._widths)
                    yield from table.combine_chunks().to_batches()

    def facts(self) -> dict[str, Any]:
        with self.server.connection("read") as connection:
            size = "select pg_total_relation_size(%s::regclass)"
            total = connection.execute(size, (self.server.name,)).fetchone()[0]
        notes = self.state.notes
        return {
            "kind": "postgres",
            "rows": self.rows,
            "bytes": int(total),
            "index": {"raw" if column == "raw" else "vector": note for column, note in notes.items()} or None,
        }

    @property
    def _widths(self) -> dict[str, int]:
        return {"raw": self.state.width, "vector": self.state.vector_width}

    def _condition(self, where: Where | None) -> tuple[str, list[Any]]:
        """What holds for the rows of the view that a filter chooses: text of constants, and values."""
        text, values = "born <= %s and (died is null or died > %s)", [self.version, self.version]
        if where is None:
            return text, values
        known_where(where, self.state.metadata)
        more, parameters = where.postgres()
        return f"{text} and ({more})", [*values, *parameters]

    def _sql(self, text: str) -> Any:
        return self.server.sql(text, vector=self.state.column)

    def _list(self, columns: Sequence[str]) -> str:
        return ", ".join("{vector}" if name == "vector" else name for name in selected(columns))

    def _exact(
        self,
        connection: Any,
        column: str,
        query_D: NDArray[np.float32],
        top: int,
        condition: str,
        values: list[Any],
    ) -> Best:
        """Every row compared; rows as near as the last are scored again here, so that equal ones tie."""
        text = f"""
            with scored as materialized (
              select row, coalesce(nullif({{column}} <=> %s, 'NaN'), 1) as far from {{rows}} where {condition}
            ), last as (select max(far) as far from (select far from scored order by far limit %s) as nearest)
            select row, id, {{column}} from {{rows}} join scored using (row)
            where scored.far <= (select far from last) + %s order by scored.far limit %s
            """
        statement = self.server.sql(text, column=column)
        found = connection.execute(
            statement, [query_D, *values, top, _NEAR, top + _MOST_TIES], binary=True
        ).fetchall()
        return self._ordered(found, query_D, top)

    def _near(
        self,
        connection: Any,
        column: str,
        query_D: NDArray[np.float32],
        top: int,
        condition: str,
        values: list[Any],
    ) -> Best | None:
        """The rows that the approximate index finds; None where it finds fewer than were asked for."""
        note = self.state.notes[column]
        probed = str(min(MOST_PROBED, max(int(note["ef_search"]), 2 * top)))
        connection.execute("select set_config('hnsw.ef_search', %s, true)", (probed,))
        connection.execute("select set_config('hnsw.iterative_scan', 'strict_order', true)")
        kind = f"{note['type']}({len(query_D)})"  # our own words and a number
        text = f"""
            select row, id, {{column}} from {{rows}} where {condition}
            order by ({{column}}::{kind}) <=> %s::{kind} limit %s
            """
        statement = self.server.sql(text, column=column)
        found = connection.execute(statement, [*values, query_D, top], binary=True).fetchall()
        return self._ordered(found, query_D, top) if len(found) == top else None

    def _ordered(self, found: Sequence[tuple[Any, ...]], query_D: NDArray[np.float32], top: int) -> Best:
        if not found:
            return Best((), np.empty(0, np.int64), np.empty(0, np.float32))
        unit_PD = unit_rows(np.stack([row[2].to_numpy() for row in found]))
        place_P = np.array([row[0] for row in found], dtype=np.int64)
        return ordered([row[1] for row in found], place_P, scores(query_D, unit_PD), top)

    def _shown(self, connection: Any, best: Best, columns: Sequence[str]) -> pa.Table:
        if columns == ["id"]:
            return pa.table({"id": pa.array(best.ids, pa.string())})
        statement = self._sql(f"select row, {self._list(columns)} from {{rows}} where row = any(%s)")
        found = connection.execute(statement, [best.place_K.tolist()], binary=True).fetchall()
        by_row = {row[0]: row[1:] for row in found}
        rows = [by_row[place] for place in best.place_K.tolist()]
        return table_of(rows, columns, self.state.metadata, self._widths)

    def _check_age(self, connection: Any) -> None:
        (purged,) = connection.execute(self.server.sql("select purged from {state}")).fetchone()
        if self.version < purged:
            raise DataError(
                f"Version {self.version} of the store has been cleaned up.",
                where=self.server.where,
                do="Open a new view; old ones are kept for an hour.",
            )
