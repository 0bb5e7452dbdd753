"""Data files that were written elsewhere, taken into a Lance table in one commit.

Writers on other machines ask nobody: they write files into the table's folder, and a file counts from the
moment that a commit names it. What a killed writer left is named by none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clearsight.errors import DataError
from clearsight.files import sync
from clearsight.store.columns import normal_rows
from clearsight.store.lance_files import Place
from clearsight.store.lance_schema import Layout
from clearsight.store.where_render import stored_name


@dataclass(frozen=True)
class Destination:
    """What a writer elsewhere needs to know of a table; a value that can be sent.

    Attributes:
        options: of the storage, for Lance.
        schema: of the table; rows are written in its columns.
        version: of Lance's files.
    """

    uri: str
    schema: pa.Schema
    version: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, place: Place) -> Destination:
        """The table at a place, as it stands."""
        with place.faults("opened"):
            dataset = place.open()
            return cls(place.uri, dataset.schema, dataset.data_storage_version, place.options)

    def rows(self, rows: pa.Table) -> pa.Table:
        """Rows of the door, each with both vectors, in the columns of the table.

        Raises:
            DataError: as `VectorStore.add`, or a metadata column that the table lacks.
        """
        layout = Layout(self.schema)
        kept = normal_rows(rows, layout.width, layout.vector_width, layout.metadata)
        unknown = [name for name in kept.column_names if layout.stored(name) not in self.schema.names]
        if unknown:
            what = f"The table has no column '{unknown[0]}'."
            raise DataError(what, where=self.uri, do="Add it first (`add_metadata`).")
        return layout.kept(kept)


def add_metadata(place: Place, columns: Mapping[str, pa.DataType]) -> None:
    """Metadata columns (with `META`) that the table lacks, null so far: one commit, no row is written."""
    with place.writing(), place.faults("written"):
        dataset = place.open()
        stored = [(stored_name(name), kind) for name, kind in columns.items()]
        new = [(name, kind) for name, kind in stored if name not in dataset.schema.names]
        if new:
            dataset.add_columns(pa.schema(new))
            place.sync_commit(dataset.version)


def append_files(place: Place, files: Sequence[str], replaced: Sequence[str] = ()) -> None:
    """Take files into the table, and out of it the rows of those ids that they replace: one commit.

    Args:
        files: what Lance says of each fragment, as JSON.
        replaced: ids of rows that are there now and in the files again.

    Raises:
        DataError: the repair in force, or the columns, are others by now than those of the files.
    """
    import lance
    from lance.fragment import FragmentMetadata

    fragments = [FragmentMetadata.from_json(said) for said in files]
    if not fragments:
        return

    def operation(dataset: Any) -> Any:
        known = {one.id() for one in dataset.lance_schema.fields()}
        for said in files:
            written = {number for file in json.loads(said)["files"] for number in file["fields"]}
            if not known <= written:
                raise DataError(
                    "The table was changed while files were written for it.",
                    where=place.uri,
                    do="Do it again: what was committed before is kept.",
                )
        if not replaced:
            return lance.LanceOperation.Append(fragments)
        gone = pa.table({"id": pa.array(list(dict.fromkeys(replaced)), pa.string())})
        transaction, _ = dataset.merge_insert("id").when_matched_delete().execute_uncommitted(gone)
        update = transaction.operation
        update.new_fragments = [*update.new_fragments, *fragments]
        return transaction

    with place.writing(), place.faults("written"):
        if place.folder is not None:
            data = place.folder / "data"
            sync(*(data / file.path for one in fragments for file in one.files), data)
        place.commit(place.open(), operation)
