"""Where a cluster reads items: a folder that all its machines see, Parquet files, or a Lance table.

A source tells the ids first, cheaply and on one machine (what is there already is not read again), then gives
an engine its tables of items.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from clearsight.data.records import FIELDS
from clearsight.data.tables import name_columns
from clearsight.errors import DataError
from clearsight.index.batch import items_table
from clearsight.index.folder import Entry
from clearsight.index.metadata import arrow_type
from clearsight.index.scale_stages import Columns
from clearsight.index.tables import ALIASES
from clearsight.store.columns import kept_type
from clearsight.store.door import META

if TYPE_CHECKING:
    import pyarrow.dataset as ds

IDS_AT_ONCE = 65_536
ROWS_AT_ONCE = 256
"""Rows of a Parquet file, with their images, in a reader's memory."""
MOST_BLOCKS = 4096


class Source(Protocol):
    """Items in parts (files, fragments, ...)."""

    @property
    def parts(self) -> Sequence[Any]: ...
    @property
    def metadata(self) -> Mapping[str, pa.DataType]:
        """The store's metadata columns that rows of this source fill, and their types."""
        ...

    def ids(self, part: Any) -> Iterator[list[str]]:
        """The ids of a part, some at a time, in order."""
        ...

    def read(self, parts: Sequence[Any]) -> Any:
        """An engine's data set of tables of items (see `clearsight.index.batch`)."""
        ...


@dataclass(frozen=True)
class Entries:
    """Entries of a folder; only their names travel, workers read the files.

    Attributes:
        entries: those to be embedded.
        kinds: metadata column -> name of its type.
    """

    entries: Sequence[Entry]
    kinds: Mapping[str, str]
    at_once: int = IDS_AT_ONCE

    @property
    def parts(self) -> Sequence[slice]:
        return [slice(n, n + self.at_once) for n in range(0, len(self.entries), self.at_once)]

    @property
    def metadata(self) -> Mapping[str, pa.DataType]:
        return {META + name: arrow_type(kind) for name, kind in self.kinds.items()}

    def ids(self, part: slice) -> Iterator[list[str]]:
        yield [entry.id for entry in self.entries[part]]

    def read(self, parts: Sequence[slice]) -> Any:
        import ray.data

        return ray.data.from_arrow([items_table(self.entries[part], self.kinds) for part in parts])


class _Tables:
    """Tables with columns of any names."""

    def __init__(self, schema: pa.Schema, where: str, columns: Mapping[str, str] | None, base: str) -> None:
        self.columns = table_columns(schema, where, columns, base)
        self.metadata: Mapping[str, pa.DataType] = {
            name: kept_type(schema.field(own).type) for name, own in self.columns.metadata.items()
        }

    @property
    def _wanted(self) -> list[str]:
        return [*self.columns.names.values(), *self.columns.metadata.values()]

    def _ids(self, batches: Iterator[pa.RecordBatch], where: str) -> Iterator[list[str]]:
        for batch in batches:
            ids = batch.column(0).cast(pa.string())
            if ids.null_count:
                what = f"{ids.null_count} rows have no id."
                raise DataError(what, where=where, do="Give every row an id of its own.")
            yield ids.to_pylist()


class ParquetFiles(_Tables):
    """Parquet files in a folder or on S3-compatible storage, with a column of ids.

    Args:
        place: a file, a folder, or s3://bucket/prefix.
        columns: house's name -> the files' column, where `ALIASES` does not know it.

    Raises:
        DataError: no files, files that cannot be read, or no column of ids and of texts or images.
    """

    def __init__(self, place: str, columns: Mapping[str, str] | None = None) -> None:
        import pyarrow.dataset as ds

        self.place = place
        try:
            self._filesystem, path = filesystem_of(place)
            self._data: ds.FileSystemDataset = ds.dataset(path, format="parquet", filesystem=self._filesystem)
            schema = self._data.schema
        except (OSError, pa.ArrowException) as fault:
            do = "Give Parquet files with one schema, or a folder of them."
            raise DataError(f"The files cannot be read ({fault}).", where=place, do=do) from fault
        self.parts: Sequence[str] = list(self._data.files)
        if not self.parts:
            raise DataError("There are no Parquet files.", where=place, do="Correct the path.")
        local = "://" not in place
        base = str(Path(place).parent if Path(place).is_file() else place) if local else place
        super().__init__(schema, place, columns, os.path.abspath(base) if local else base.rstrip("/"))

    def ids(self, part: str) -> Iterator[list[str]]:
        import pyarrow.parquet as pq

        try:
            with self._filesystem.open_input_file(part) as file:
                batches = pq.ParquetFile(file).iter_batches(IDS_AT_ONCE, columns=[self.columns.names["id"]])
                yield from self._ids(batches, part)
        except (OSError, pa.ArrowException) as fault:
            raise DataError(
                f"The file cannot be read ({fault}).", where=part, do="Write it again."
            ) from fault

    def read(self, parts: Sequence[str]) -> Any:
        import pyarrow.parquet as pq
        import ray.data

        groups = []
        for part in parts:
            with self._filesystem.open_input_file(part) as file:
                groups += [{"file": part, "group": n} for n in range(pq.ParquetFile(file).num_row_groups)]
        rows = RowGroups(self._filesystem, self.columns)
        listed = ray.data.from_items(groups, override_num_blocks=min(len(groups), MOST_BLOCKS))
        return listed.map_batches(rows, batch_format="pyarrow", batch_size=None)


@dataclass(frozen=True)
class RowGroups:
    """Reads the row groups that a table names (`file`, `group`), a few rows at a time.

    Not the engine's own reader: Ray's lists files in threads that fail each other where aiohttp is missing,
    and its options change with its versions.
    """

    filesystem: Any
    columns: Columns

    def __call__(self, groups: pa.Table) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        wanted = list(dict.fromkeys([*self.columns.names.values(), *self.columns.metadata.values()]))
        for one in groups.to_pylist():
            with self.filesystem.open_input_file(one["file"]) as file:
                batches = pq.ParquetFile(file).iter_batches(
                    ROWS_AT_ONCE, row_groups=[one["group"]], columns=wanted
                )
                for batch in batches:
                    yield self.columns(pa.Table.from_batches([batch]))


class LanceTable(_Tables):
    """A Lance table with a column of ids.

    Args:
        place: a folder ending in .lance, or s3://bucket/name.lance.
        columns: as for `ParquetFiles`.

    Raises:
        DataError: no table, or no column of ids and of texts or images.
    """

    def __init__(self, place: str, columns: Mapping[str, str] | None = None) -> None:
        from clearsight.store.lance_files import Place

        self.place = Place.of(place)
        with self.place.faults("read"):
            self._dataset = self.place.open()
        super().__init__(self._dataset.schema, place, columns, "")

    @cached_property
    def parts(self) -> Sequence[int]:
        return [fragment.fragment_id for fragment in self._dataset.get_fragments()]

    def ids(self, part: int) -> Iterator[list[str]]:
        with self.place.faults("read"):
            fragment = self._dataset.get_fragment(part)
            batches = fragment.to_batches(columns=[self.columns.names["id"]], batch_size=IDS_AT_ONCE)
            yield from self._ids(batches, self.place.uri)

    def read(self, parts: Sequence[int]) -> Any:
        import lance_ray

        data = lance_ray.read_lance(
            self.place.uri,
            columns=self._wanted,
            fragment_ids=list(parts),
            storage_options=self.place.options or None,
            dataset_options={"version": self._dataset.version},
        )
        return data.map_batches(self.columns, batch_format="pyarrow", batch_size=None)


def address_of(items: str | os.PathLike[str]) -> str:
    """A path or address as text; `Path` drops a slash of s3://."""
    return re.sub(r"^(\w{2,}):/(?!/)", r"\1://", os.fspath(items))


def tables_at(place: str) -> Callable[[str, Mapping[str, str] | None], ParquetFiles | LanceTable] | None:
    """What reads a place whose rows are items; None for a folder of pictures and texts."""
    if place.rstrip("/").endswith(".lance"):
        return LanceTable
    if place.endswith(".parquet") or "://" in place:
        return ParquetFiles
    if not os.path.isdir(place):
        return None
    visible = [name for name in os.listdir(place) if not name.startswith((".", "_"))]
    return ParquetFiles if visible and all(name.endswith(".parquet") for name in visible) else None


def table_columns(
    schema: pa.Schema, where: str, columns: Mapping[str, str] | None, base: str = ""
) -> Columns:
    """How a table's columns become items; the others are metadata, where a store keeps their type.

    Raises:
        DataError: no column of ids, or none of texts and none of images.
    """
    given = name_columns(columns, FIELDS, where) if columns else {}
    names: dict[str, str] = {}
    for ours, aliases in ALIASES.items():
        candidates = [given[ours]] if ours in (columns or {}) else list(aliases)
        own = next((name for name in candidates if name in schema.names), None)
        if own is not None:
            names[ours] = own
        elif ours in (columns or {}):
            what = f"There is no column '{candidates[0]}'."
            raise DataError(what, where=where, do=f"There are: {', '.join(schema.names)}.")
    if "id" not in names or not {"text", "image"} & names.keys():
        lacks = "ids" if "id" not in names else "texts or images"
        raise DataError(
            f"The table has no column of {lacks}; it has {', '.join(schema.names)}.",
            where=where,
            do='Name it: columns={"id": "..."}. Rows read on several machines have no number to go by.',
        )
    beside = [name for name in schema.names if name not in names.values() and name not in FIELDS]
    metadata = {META + name: name for name in beside if kept_type(schema.field(name).type) is not None}
    return Columns(names, metadata, base)


def filesystem_of(place: str) -> tuple[Any, str]:
    """Arrow's file system and the path in it; S3-compatible storage by the AWS_* variables."""
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if place.startswith("s3://") and endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        scheme, _, host = endpoint.rpartition("://")
        there = fs.S3FileSystem(endpoint_override=host, scheme=scheme or "https", region=region)
        return there, place.removeprefix("s3://").rstrip("/")
    if "://" in place:
        found: tuple[Any, str] = fs.FileSystem.from_uri(place)
        return found
    return fs.LocalFileSystem(), os.path.abspath(place)
