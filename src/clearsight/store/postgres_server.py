"""The PostgreSQL side of a store: connections, tables, the state row.

Two tables for a store NAME: `NAME` holds rows, each with the version that brought it (`born`) and the one
that took it away (`died`, null while it is there); `NAME_state` is one row: the version, the repair in force,
widths, types of metadata. A writer locks the state row; a commit is one transaction.
"""

from __future__ import annotations

import queue
import re
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clearsight.errors import ClearsightError, DataError, UsageError

GRACE = "1 hour"
"""How long what a newer version replaced stays readable to views opened before."""
WAIT_SECONDS = 60
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
KINDS = {
    str(kind): kind
    for kind in (
        pa.string(),
        pa.int64(),
        pa.float64(),
        pa.bool_(),
        pa.date32(),
        pa.timestamp("us"),
        pa.timestamp("us", tz="UTC"),
    )
}


@dataclass(frozen=True)
class State:
    """What the state row says.

    Attributes:
        width, vector_width: D and E.
        metadata: types of metadata columns, by their names in the store (with `META`).
        purged: views older than this version have lost rows.
        notes: the approximate indexes, by column.
    """

    version: int
    repair: str
    width: int
    vector_width: int
    metadata: Mapping[str, pa.DataType]
    retired: Mapping[str, str]
    purged: int
    notes: Mapping[str, Any]

    @property
    def column(self) -> str:
        """The column of the vectors in force."""
        return f"vector_{self.repair}" if self.repair else "vector"


class Server:
    """A store's tables on a server, and idle connections to it.

    Args:
        address: postgresql://user:password@host/database#NAME; NAME is `items` unless given.

    Raises:
        UsageError: the name is no plain lower-case word, or psycopg or pgvector is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            import pgvector.psycopg
            import psycopg
        except ImportError:
            raise UsageError(
                "A PostgreSQL store needs psycopg and pgvector.", do="pip install 'clearsight[postgres]'"
            ) from None
        self._psycopg, self._register = psycopg, pgvector.psycopg.register_vector
        self.conninfo, _, name = address.partition("#")
        self.name = name or "items"
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"'{self.name}' is no name for a store.",
                do="Use at most 40 of a-z, 0-9 and _, a letter first.",
            )
        self.where = f"{re.sub(r'//[^/@]*@', '//', self.conninfo)}#{self.name}"  # no password in messages
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        weakref.finalize(self, _close_all, self._idle)

    def sql(self, text: str, **names: str) -> Any:
        """A statement: {rows} and {state} are the tables, other {names} identifiers; values are %s."""
        from psycopg import sql

        tables = {"rows": self.name, "state": f"{self.name}_state"}
        known = {name: sql.Identifier(value) for name, value in {**tables, **names}.items()}
        return sql.SQL(text).format(**known)

    @contextmanager
    def connection(self, verb: str) -> Iterator[Any]:
        """A connection in a transaction of its own, which is rolled back when anything fails."""
        try:
            connection = self._connected()
            try:
                with connection.transaction():
                    yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.put(connection)
        except ClearsightError:
            raise
        except self._psycopg.Error as fault:
            said = " ".join(str(fault).split())[:300]
            raise DataError(
                f"The store cannot be {verb} ({said}).",
                where=self.where,
                do="Check the address, the server and its log; what was committed before stays as it was.",
            ) from fault

    def _connected(self) -> Any:
        while True:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                break
            if not connection.closed:
                return connection
        connection = self._psycopg.connect(self.conninfo, autocommit=True)
        try:
            if connection.execute("select 1 from pg_extension where extname = 'vector'").fetchone():
                self._register(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def exists(self, connection: Any) -> bool:
        row = connection.execute("select to_regclass(%s) is not null", (f"{self.name}_state",)).fetchone()
        return bool(row[0])

    def create(self, connection: Any, width: int) -> None:
        """The tables, where they are not there."""
        connection.execute("select pg_advisory_xact_lock(hashtext(%s))", (self.name,))
        connection.execute("create extension if not exists vector")
        self._register(connection)
        if self.exists(connection):
            return
        connection.execute(self.sql(_TABLES))
        connection.execute(
            self.sql("insert into {state} values (true, 0, '', %s, %s, '{{}}', '{{}}', 0, '{{}}')"),
            (width, width),
        )

    def state(self, connection: Any, *, lock: bool = False) -> State:
        """The state; with `lock`, for the one writer.

        Raises:
            DataError: another writer kept the lock for a minute.
        """
        text = "select version, repair, width, vector_width, metadata, retired, purged, notes from {state}"
        if lock:
            connection.execute("select set_config('lock_timeout', %s, true)", (f"{WAIT_SECONDS}s",))
        try:
            row = connection.execute(self.sql(text + (" for update" if lock else ""))).fetchone()
        except self._psycopg.errors.LockNotAvailable:
            raise DataError(
                f"The store is being written by another session (this one waited {WAIT_SECONDS} s).",
                where=self.where,
                do="Wait until it is done, or end it (select * from pg_stat_activity).",
            ) from None
        kinds = {name: KINDS[kind] for name, kind in row[4].items()}
        return State(row[0], row[1], row[2], row[3], kinds, row[5], row[6], row[7])

    def commit(self, connection: Any, state: State, **changes: Any) -> None:
        """The state of the next version."""
        from psycopg.types.json import Jsonb

        changes = {"version": state.version + 1, **changes}
        values = [Jsonb(value) if isinstance(value, Mapping) else value for value in changes.values()]
        text = ", ".join(f"{name} = %s" for name in changes)  # our own field names
        connection.execute(self.sql(f"update {{state}} set {text}"), values)


def _close_all(idle: queue.LifoQueue[Any]) -> None:
    while True:
        try:
            idle.get_nowait().close()
        except queue.Empty:
            return


_TABLES = """
create table {rows} (
  row bigint generated always as identity primary key,
  born bigint not null,
  died bigint,
  died_at timestamptz,
  id text collate "C" not null,
  key text not null,
  source text,
  stamp text,
  modality text not null,
  text text,
  thumbnail bytea,
  meta jsonb not null,
  raw vector not null,
  vector vector
);
create unique index on {rows} (id) where died is null;
create index on {rows} (id);
create index on {rows} (key);
create index on {rows} (died_at) where died is not null;
create table {state} (
  one boolean primary key default true check (one),
  version bigint not null,
  repair text not null,
  width integer not null,
  vector_width integer not null,
  metadata jsonb not null,
  retired jsonb not null,
  purged bigint not null,
  notes jsonb not null
)
"""
