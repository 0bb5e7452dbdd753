"""What lies in a folder, or in a file of items, as entries of a collection; contents are read late.

| in the folder | becomes |
|---|---|
| a picture | an item; `x.txt` beside `x.png` is its text |
| a .txt without a picture of its name, a .md | an item of text |
| a .csv, .tsv, .jsonl, .parquet at the top, with texts or pictures | items; texts, metadata of pictures |
| what is hidden, lies in hidden or linked folders | nothing |

An item's id is its file's path in the folder with / between the parts, or what its row says.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from clearsight.data.content import check_text
from clearsight.data.records import IMAGE_SUFFIXES, items_and_rows, visible_files
from clearsight.data.tables import READERS, Faults, Row, read_rows
from clearsight.errors import DataError, ItemError
from clearsight.index.metadata import converted, narrowest
from clearsight.index.tables import Sheet, check_given
from clearsight.types import ImageSource, Item

TEXT_SUFFIXES = (".txt", ".md")
_TICK = 20_000_000
_COARSE = 2_000_000_000
"""Nanoseconds in which a file system may give two changes one time: 20 ms, or 2 s where times are whole."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An item that may be indexed.

    Attributes:
        source: the picture's or text's file, relative to the folder; None where there is none in it.
        stamp: changes when a file or row behind the item does; None for what no file or row stands behind.
        text: from a row; `text_file`: where the text is otherwise.
        image: a file, or encoded bytes.
    """

    id: str
    source: str | None
    stamp: str | None
    text: str | None = None
    text_file: Path | None = None
    image: ImageSource | None = None
    instruction: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> tuple[Item, str | None]:
        """The item with its picture as bytes, and the stamp of what was read.

        A file that changes meanwhile keeps a stamp that no file has: it is taken again next time.

        Raises:
            ItemError: a file is missing or cannot be read, or a text is empty or none.
        """
        changed = False
        text, image = self.text, self.image
        if self.text_file is not None:
            content, moved = _bytes_of(self.text_file, self.id)
            changed |= moved
            text = _words(content, self.text_file, self.id)
            if not text.strip() and image is not None:
                text = None
        if isinstance(image, str | os.PathLike):
            image, moved = _bytes_of(Path(image), self.id)
            changed |= moved
        if text is not None:
            check_text(text, item_id=self.id)
        stamp = f"{self.stamp} changing" if changed else self.stamp
        return Item(self.id, text, image, self.instruction), stamp


class Collection:
    """The entries of a folder and of the tables that belong to it.

    Args:
        place: a folder, or a file of items.
        tables: further files of rows (captions, metadata); their pictures' paths start at the folder.
        columns: house's name -> the tables' column, where `ALIASES` does not know it.
        kinds: metadata column -> type, of an index that is there already.
        faults: told of folders and names that cannot be read.

    Raises:
        DataError: no such folder or file, a table that cannot be read, a column that is not there.
    """

    def __init__(
        self,
        place: Path,
        *,
        tables: Sequence[Path] = (),
        columns: Mapping[str, str] | None = None,
        kinds: Mapping[str, str] | None = None,
        faults: Faults,
    ) -> None:
        place = Path(os.path.abspath(place))
        self.place, self.columns = place, dict(columns or {})
        self.folder = place if place.is_dir() else place.parent
        self.passed_over = 0
        """Files of kinds that are not read."""
        self.unlisted: list[str] = []
        """Folders that could not be listed, relative; what lies there is not gone."""
        if not place.exists():
            raise DataError(
                "There is no such folder or file.",
                where=str(place),
                do="Give a folder of pictures and texts.",
            )
        self._files = self._listed(faults) if place.is_dir() else {}
        own = [self.folder / name for name in self._files if self._is_table(name)]
        sheets = [Sheet.of(path, self.columns) for path in own]
        self.passed_over += sum(not sheet.holds_items for sheet in sheets)
        named = [Sheet.of(path, self.columns) for path in (*(() if place.is_dir() else (place,)), *tables)]
        self.sheets = [*(sheet for sheet in sheets if sheet.holds_items), *named]
        check_given(self.columns, self.sheets)
        self.kinds = {**narrowest(sheet.fits for sheet in self.sheets), **(kinds or {})}

    def entries(self, faults: Faults) -> Iterator[Entry]:
        """All entries; contents of files are not read, tables are. May be asked for again.

        Args:
            faults: told of rows and files that cannot be entries.
        """
        seen: set[str] = set()
        claimed: set[str] = set()
        for entry in self._of_tables(claimed, faults):
            if entry.id in seen:
                what = f"The id '{entry.id}' appears twice."
                faults.meet(DataError(what, where=entry.id, do="Give the rows ids of their own."))
                continue
            seen.add(entry.id)
            yield entry
        for entry in self._of_files(claimed, faults):
            if entry.id not in seen:
                yield entry

    def _listed(self, faults: Faults) -> dict[str, Path]:
        """Relative names of the files that may be items, captions or tables, in order."""

        def unread(fault: OSError) -> None:
            place = Path(fault.filename or self.folder)
            self.unlisted.append(place.relative_to(self.folder).as_posix())
            what = f"The folder cannot be listed ({fault.strerror})."
            faults.meet(DataError(what, where=str(place), do="Check its permissions."))

        found: dict[str, Path] = {}
        for path in visible_files(self.folder, unread=unread):
            kind = path.suffix.lower()
            if kind not in IMAGE_SUFFIXES and kind not in TEXT_SUFFIXES and kind not in READERS:
                self.passed_over += 1
                continue
            name = path.as_posix()
            try:
                name.encode()
            except UnicodeEncodeError:
                shown = name.encode(errors="replace").decode()
                what = "The file's name is not UTF-8."
                faults.meet(ItemError(what, where=shown, do="Rename it."))
                continue
            found[name] = self.folder / path
        return dict(sorted(found.items()))

    @cached_property
    def _pictures(self) -> dict[str, Path]:
        return {name: path for name, path in self._files.items() if path.suffix.lower() in IMAGE_SUFFIXES}

    @cached_property
    def _stems(self) -> set[str]:
        return {str(PurePosixPath(name).with_suffix("")) for name in self._pictures}

    def _is_table(self, name: str) -> bool:
        return "/" not in name and PurePosixPath(name).suffix.lower() in READERS

    def _of_tables(self, claimed: set[str], faults: Faults) -> Iterator[Entry]:
        for sheet in self.sheets:
            inside = self.place.is_dir() or sheet.path.parent == self.folder
            told = items_and_rows(
                read_rows(sheet.path),
                base=self.folder if inside else sheet.path.parent,
                where=sheet.path.name,
                faults=faults,
                columns=sheet.names,
            )
            for item, row in told:
                try:
                    yield self._of_row(item, row, sheet, claimed)
                except DataError as fault:
                    faults.meet(fault)

    def _of_row(self, item: Item, row: Row, sheet: Sheet, claimed: set[str]) -> Entry:
        metadata = converted(sheet.more(row.values), self.kinds, item_id=item.id)
        source, stamp, text_file = None, "", None
        if isinstance(item.image, str):
            source = self._inside(Path(item.image))
            stamp = _stamp(Path(item.image), item.id)
            if source is not None:
                claimed.add(source)
                text_file = self._caption(source) if item.text is None else None
                stamp += "" if text_file is None else f"+{_stamp(text_file, item.id)}"
        has_id = sheet.names.get("id", "id") in row.values
        name = item.id if has_id else source or f"{sheet.path.name}#{item.id}"
        digest = hashlib.blake2b(digest_size=12)
        for part in (item.text, item.instruction, sorted(metadata.items(), key=lambda pair: pair[0])):
            digest.update(repr(part).encode("utf-8", "backslashreplace"))
        if isinstance(item.image, bytes):
            digest.update(item.image)
        return Entry(
            name,
            source,
            f"{stamp}#{digest.hexdigest()}",
            text=item.text,
            text_file=text_file,
            image=item.image,
            instruction=item.instruction,
            metadata=metadata,
        )

    def _inside(self, path: Path) -> str | None:
        """Where a picture lies in the folder; None where it lies elsewhere."""
        path = Path(os.path.abspath(path))
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else None

    def _caption(self, source: str) -> Path | None:
        return self._files.get(str(PurePosixPath(source).with_suffix(".txt")))

    def _of_files(self, claimed: set[str], faults: Faults) -> Iterator[Entry]:
        tables = {sheet.path.name for sheet in self.sheets}
        for name, path in self._files.items():
            kind = path.suffix.lower()
            if name in claimed or name in tables or kind in READERS:
                continue
            is_caption = kind == ".txt" and str(PurePosixPath(name).with_suffix("")) in self._stems
            if is_caption:
                continue
            try:
                yield self._of_file(name, path, picture=kind in IMAGE_SUFFIXES)
            except ItemError as fault:
                faults.meet(fault)

    def _of_file(self, name: str, path: Path, *, picture: bool) -> Entry:
        stamp = _stamp(path, name)
        text_file = self._caption(name) if picture else path
        if picture and text_file is not None:
            stamp += f"+{_stamp(text_file, name)}"
        entry = Entry(name, name, stamp, text_file=text_file, metadata={})
        return replace(entry, image=path) if picture else entry


def _stamp(path: Path, item_id: str) -> str:
    """Size and time of change of a file.

    Raises:
        ItemError: it does not exist (a link may lead nowhere), or is no file.
    """
    try:
        found = os.stat(path)
    except OSError as fault:
        what = f"'{path.name}' cannot be read ({fault.strerror})."
        raise ItemError(what, where=item_id, do="Check the path, the link or its permissions.") from fault
    if not stat.S_ISREG(found.st_mode):
        raise ItemError(f"'{path.name}' is not a file.", where=item_id, do="Give a file.")
    return _said(found)


def _said(found: os.stat_result) -> str:
    return f"{found.st_size}:{found.st_mtime_ns}"


def _bytes_of(path: Path, item_id: str) -> tuple[bytes, bool]:
    """A file's bytes, and whether they may be others by now."""
    try:
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            content = file.read()
            after = os.fstat(file.fileno())
    except OSError as fault:
        what = f"'{path.name}' cannot be read ({fault.strerror})."
        raise ItemError(what, where=item_id, do="Check the path and its permissions.") from fault
    coarse = before.st_mtime_ns % 1_000_000_000 == 0
    fresh = 0 <= time.time_ns() - before.st_mtime_ns < (_COARSE if coarse else _TICK)
    return content, fresh or _said(before) != _said(after) or len(content) != before.st_size


def _words(content: bytes, path: Path, item_id: str) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as fault:
        what = f"'{path.name}' is not UTF-8."
        raise ItemError(what, where=item_id, do="Convert it.") from fault
