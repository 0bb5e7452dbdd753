"""Tables of a collection: which columns are an item's, and which say more about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearsight.data.records import FIELDS
from clearsight.data.tables import read_rows
from clearsight.errors import DataError
from clearsight.index.metadata import fits_of

ALIASES = {
    "id": ("id",),
    "text": ("text", "caption"),
    "image": ("image", "file_name", "filename", "file", "path"),
    "instruction": ("instruction",),
}
"""Columns of tables by the names that people give them, the house's own first (`file_name` is that of the
`datasets` library's image folders)."""


@dataclass(frozen=True)
class Sheet:
    """A table, and what its columns are.

    Attributes:
        names: house's name -> column.
        fits: metadata column -> the types that all its values fit.
    """

    path: Path
    names: Mapping[str, str]
    fits: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, path: Path, given: Mapping[str, str]) -> Sheet:
        """Look through a table.

        Args:
            given: house's name -> column, before `ALIASES`.

        Raises:
            DataError: it cannot be read.
        """
        if path.suffix.lower() == ".parquet":
            return cls._of_parquet(path, given)
        columns: dict[str, None] = {}

        def values() -> Iterator[Mapping[str, Any]]:
            for row in read_rows(path):
                columns.update(dict.fromkeys(row.values))
                yield row.values

        fits = fits_of(values())
        names = _names(list(columns), given)
        return cls(path, names, {name: kinds for name, kinds in fits.items() if _is_more(name, names)})

    @classmethod
    def _of_parquet(cls, path: Path, given: Mapping[str, str]) -> Sheet:
        """As `of`, without reading the pictures."""
        from clearsight.data.parquet import open_parquet, whole

        with open_parquet(path) as file, whole(path):
            columns = file.schema_arrow.names
            names = _names(columns, given)
            more = [name for name in columns if _is_more(name, names)]
            rows = (row for batch in file.iter_batches(columns=more) for row in batch.to_pylist())
            return cls(path, names, fits_of(rows) if more else {})

    @property
    def holds_items(self) -> bool:
        return "text" in self.names or "image" in self.names

    def more(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a row says beside the item."""
        return {name: value for name, value in values.items() if _is_more(name, self.names)}


def check_given(given: Mapping[str, str], sheets: Sequence[Sheet]) -> None:
    """Nothing, where every column that was named is in some table.

    Raises:
        DataError: one is not.
    """
    for ours, column in given.items():
        if not any(sheet.names.get(ours) == column for sheet in sheets):
            where = ", ".join(sheet.path.name for sheet in sheets) or None
            what = f"No table has a column '{column}'."
            raise DataError(what, where=where, do="Correct the mapping of columns.")


def _names(columns: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    known = {ours: next((name for name in names if name in columns), None) for ours, names in ALIASES.items()}
    named = {ours: column for ours, column in given.items() if column in columns}
    return {ours: name for ours, name in known.items() if name is not None} | named


def _is_more(column: str, names: Mapping[str, str]) -> bool:
    return bool(column) and column not in names.values() and column not in FIELDS
