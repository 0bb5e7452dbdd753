"""Images with their captions, both ways: what COCO-Caption and Flickr30k share.

Captions are read at once, images when an item is asked for: 5,000 of them are 0.8 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from clearsight.data.benchmarks.on_disk import absent_files, tell_missing
from clearsight.data.content import check_text
from clearsight.data.hub import Hub
from clearsight.data.item_table import ItemTable
from clearsight.data.own_tasks import Direction, image_text_task
from clearsight.data.parquet import ParquetImages, TableImages, columns_of, read_columns
from clearsight.data.tables import Faults, Row, need_columns
from clearsight.errors import DataError
from clearsight.types import Item, Task

Keep = Callable[[Mapping[str, Any]], bool]
"""Whether a row, as the data has it, is of the benchmark's split."""


class Names(NamedTuple):
    """The data's columns: an image's id, its captions, the image; its split, which may be absent."""

    id: str
    captions: str
    image: str = "image"
    split: str = "split"

    @property
    def read(self) -> tuple[str, str]:
        return self.id, self.captions


class Source(NamedTuple):
    """Rows {id, captions, image}, in which an image is a path below `images`, or a number of it."""

    rows: Iterable[Row]
    images: Path | ParquetImages | TableImages


def captioned_task(name: str, direction: Direction, source: Source, n: int | None, faults: Faults) -> Task:
    """Image -> text (every caption of the image is relevant), or text -> image.

    Ids are those of the rows, and for captions `id#j`, j from 0.

    Args:
        n: the first n images only.

    Raises:
        DataError: an id is missing or repeats, a caption is empty, images are missing (they are counted).
    """
    good: dict[str, Row] = {}
    for row in islice(source.rows, n):
        try:
            _check(row)
            if (item_id := str(row.values["id"])) in good:
                raise DataError(
                    f"The id '{item_id}' appears twice.", where=row.where, do="Ids must be unique."
                )
        except DataError as fault:
            faults.meet(fault)
            continue
        good[item_id] = row
    images = {item_id: row.values["image"] for item_id, row in good.items()}
    lost = _lost(source.images, images.values())
    missing = [item_id for item_id, image in images.items() if image in lost]
    tell_missing(missing, len(images), str(source.images), faults)
    for item_id in missing:
        del images[item_id]
    table = ItemTable(pa.table({"id": list(images), "image": list(images.values())}), images=source.images)
    captions = {
        f"{item_id}#{j}": (item_id, text)
        for item_id in images
        for j, text in enumerate(good[item_id].values["captions"])
    }
    texts = tuple(Item(name, text=text) for name, (_, text) in captions.items())
    image_of = {name: item_id for name, (item_id, _) in captions.items()}
    return image_text_task(name, table, texts, image_of, direction)


def _lost(images: Path | ParquetImages | TableImages, wanted: Iterable[Any]) -> set[Any]:
    return absent_files(wanted, images) if isinstance(images, Path) else set(images.absent())


def _check(row: Row) -> None:
    if row.fault is not None:
        raise DataError(row.fault, where=row.where, do="Correct the row, or fetch the file again.")
    lacks = [name for name in ("id", "captions") if not row.values.get(name)]
    if lacks:
        raise DataError(f"The row has no {lacks[0]}.", where=row.where, do="Fetch the file again.")
    for j, caption in enumerate(row.values["captions"]):
        check_text(caption, item_id=f"{row.where}, {row.values['id']}#{j}")


def of_parquet(paths: Sequence[Path], names: Names, folder: Path, keep: Keep) -> Source:
    """The rows of parquet files; images without bytes are files below `folder`.

    Raises:
        DataError: a file is missing or broken, columns are missing.
    """
    for path in paths:
        need_columns(columns_of(path), (*names.read, names.image), str(path))

    def tables() -> Iterator[tuple[str, pa.Table]]:
        for path in paths:
            split = {names.split}.intersection(columns_of(path))
            yield path.name, read_columns([path], (*names.read, *split))

    return Source(_numbered(tables(), names, keep), ParquetImages(paths, names.image, folder))


def of_hub(hub: Hub, split: str, names: Names, n: int | None, keep: Keep) -> Source:
    """The rows of a data set of the hub; with `n` its first n rows to keep, streamed.

    Raises:
        UsageError: the `datasets` library is not installed. DataError: the data set cannot be had, or lacks
            columns.
    """
    table = hub.table(None, split) if n is None else hub.first(None, split, n, keep)
    images = TableImages(table, names.image, hub.name)
    need_columns(table.column_names, names.read, hub.name)
    wanted = [name for name in (*names.read, names.split) if name in table.column_names]
    return Source(_numbered([(hub.name, table.select(wanted))], names, keep), images)


def _numbered(tables: Iterable[tuple[str, pa.Table]], names: Names, keep: Keep) -> Iterator[Row]:
    number = -1
    for where, table in tables:
        for place, values in enumerate(table.to_pylist(), 1):
            number += 1
            if keep(values):
                found = {"id": values[names.id], "captions": values[names.captions], "image": number}
                yield Row(f"{where} row {place}", found)
