"""One's own items: jsonl, csv, parquet, a folder of images, a dataset of the `datasets` library.

Documented columns (all optional but one of text and image; other names by `columns={"text": "caption"}`):

| column | holds |
|---|---|
| id | a unique name; without the column, the row's number from 1 |
| text | the item's text; null or absent: none |
| image | a path (relative to the file's folder), encoded bytes, or {bytes, path} |
| instruction | the task in words, for prompts that have a place for it |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from PIL import Image

from clearsight.data.content import check_text
from clearsight.data.tables import Faults, OnError, Row, Skipped, name_columns, read_rows
from clearsight.errors import DataError, ItemError
from clearsight.types import ImageSource, Item

FIELDS = ("id", "text", "image", "instruction")

_KINDS = "avif bmp dib gif ico j2k jfif jp2 jpeg jpg pbm pcx pgm png pnm ppm qoi tga tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{kind}" for kind in _KINDS.split())
"""Files of a folder that are taken for images; hidden files, and files of other kinds, are not items."""


@dataclass(frozen=True, slots=True)
class LoadedItems(Sequence[Item]):
    """The items of a file in its order, and what was left out (`on_error="skip"`)."""

    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        return self.items[index]


def load_items(
    path: str | os.PathLike[str] | Any,
    *,
    columns: Mapping[str, str] | None = None,
    on_error: OnError = "raise",
) -> LoadedItems:
    """The items of a file, a folder of images, or a dataset.

    Args:
        path: .jsonl, .csv, .tsv or .parquet; a folder of images (ids are relative paths without suffix, or
            with it where two would be equal; `x.txt` beside `x.png` is its text); a folder that
            `datasets` saved; or a `datasets.Dataset` itself.
        columns: documented name -> the file's column, where they differ.
        on_error: "skip" leaves bad rows out and names them in `.skipped`.

    Raises:
        DataError: the file is missing, of no known kind, broken, or empty; with "raise" also a bad row
            (its line is named), a duplicate id, an empty text, a row with neither text nor image.
    """
    faults = Faults(on_error)
    items = tuple(unique(items_of_file(path, columns=columns, faults=faults), faults))
    if not items:
        first = (
            f" ({len(faults.skipped)} were skipped; {': '.join(faults.skipped[0])})" if faults.skipped else ""
        )
        raise DataError(f"There are no items{first}.", where=str(path), do="Give at least one good row.")
    return LoadedItems(items, tuple(faults.skipped))


def items_of_rows(
    rows: Iterable[Row],
    *,
    base: Path,
    where: str,
    faults: Faults,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Item]:
    """Items of the rows of one table.

    Args:
        base: folder at which relative image paths start.
        where: the table's name in errors about its columns.
        faults: told of every bad row.
    """
    told = items_and_rows(rows, base=base, where=where, faults=faults, columns=columns)
    return (item for item, _ in told)


def items_and_rows(
    rows: Iterable[Row],
    *,
    base: Path,
    where: str,
    faults: Faults,
    columns: Mapping[str, str] | None = None,
) -> Iterator[tuple[Item, Row]]:
    """As `items_of_rows`, each item with the row it was made of, for what else the row says."""
    names = name_columns(columns, FIELDS, where)
    unseen = set((columns or {}).values())
    for number, row in enumerate(rows, 1):
        unseen -= row.values.keys()
        try:
            if row.fault is not None:
                raise DataError(row.fault, where=row.where, do="Correct the row.")
            yield _item(row, names, number, base), row
        except ItemError as fault:
            faults.meet(ItemError(fault.what, where=f"{row.where}, item '{fault.where}'", do=fault.do))
        except DataError as fault:
            faults.meet(fault)
    if unseen:  # a line of jsonl may leave out what is null, so only the end knows
        raise DataError(
            f"No row has a column '{min(unseen)}'.", where=where, do="Correct the mapping of columns."
        )


def items_of_file(path: Any, *, columns: Mapping[str, str] | None = None, faults: Faults) -> Iterator[Item]:
    """The items `load_items` reads, one at a time, ids as they come."""
    if not isinstance(path, str | os.PathLike):
        return _dataset_items(path, columns, faults)
    place = Path(path)
    if not place.is_dir():
        return items_of_rows(
            read_rows(place), base=place.parent, where=place.name, faults=faults, columns=columns
        )
    if (place / "dataset_info.json").is_file() or (place / "dataset_dict.json").is_file():
        return _dataset_items(_saved_dataset(place), columns, faults)
    return _folder_items(place, faults)


def unique(items: Iterable[Item], faults: Faults, *, what: str = "items") -> Iterator[Item]:
    """The items, of those with one id only the first; the others are faults."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            faults.meet(DataError(f"The id '{item.id}' appears twice.", where=what, do="Ids must be unique."))
            continue
        seen.add(item.id)
        yield item


def _item(row: Row, names: Mapping[str, str], number: int, base: Path) -> Item:
    values = {name: row.values.get(column) for name, column in names.items()}
    item_id = _id(values["id"], row.where) if names["id"] in row.values else str(number)
    for name in ("text", "instruction"):
        value = values[name]
        if value is not None and not isinstance(value, str):
            raise ItemError(
                f"The {name} is of type {type(value).__name__}.", where=item_id, do="Give a string or null."
            )
        if value is not None:
            check_text(value, item_id=item_id, field=name)
    image = _image(values["image"], base, item_id)
    if values["text"] is None and image is None:
        raise ItemError(
            f"The row has neither text nor image (columns '{names['text']}', '{names['image']}').",
            where=item_id,
            do=f"It has {', '.join(row.values)}; name yours with columns={{'text': ...}}.",
        )
    return Item(item_id, values["text"], image, values["instruction"])


def _id(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"The id is {value!r}.", where=where, do="Give a string or a whole number.")
    check_text(str(value), item_id=where, field="id")
    return str(value)


def _image(value: Any, base: Path, item_id: str) -> ImageSource | None:
    if isinstance(value, Mapping):  # the `datasets` library's own form; bytes win, as there
        content = value.get("bytes")
        value = content if content is not None else value.get("path")
    if value is None or isinstance(value, bytes | Image.Image):
        return value
    if isinstance(value, str) and value:
        return value if "://" in value else str(base / value)
    raise ItemError(
        f"The image is of type {type(value).__name__}.",
        where=item_id,
        do="Give a path, encoded bytes, or {bytes, path}.",
    )


def _folder_items(folder: Path, faults: Faults) -> Iterator[Item]:
    paths = sorted(path for path in visible_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(
            "The folder holds no image.",
            where=str(folder),
            do="Give a folder of images, or a .jsonl, .csv or .parquet file.",
        )
    bare = [path.with_suffix("") for path in paths]
    names = bare if len(set(bare)) == len(bare) else paths
    for path, name in zip(paths, names, strict=True):
        caption = (folder / path).with_suffix(".txt")
        try:
            text = caption.read_text(encoding="utf-8").strip() if caption.is_file() else None
            if text is not None:
                check_text(text, item_id=name.as_posix())
            yield Item(name.as_posix(), text, folder / path)
        except UnicodeDecodeError:
            faults.meet(ItemError(f"'{caption.name}' is not UTF-8.", where=name.as_posix(), do="Convert it."))
        except ItemError as fault:
            faults.meet(fault)


def visible_files(folder: Path, *, unread: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Relative paths of the files in `folder` and below, without hidden ones and what lies in hidden folders.

    Linked folders are not entered, so that a link to a folder above ends nowhere.

    Args:
        unread: told of each folder that cannot be listed.
    """
    for root, folders, files in os.walk(folder, onerror=unread):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield (Path(root) / name).relative_to(folder)


def _saved_dataset(folder: Path) -> Any:
    try:
        import datasets
    except ImportError as fault:
        raise DataError(
            "The folder is a saved `datasets` dataset, and that library is not installed.",
            where=str(folder),
            do="Run: pip install 'clearsight[datasets]'.",
        ) from fault
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(p.parent.name for p in folder.glob("*/dataset_info.json"))
        raise DataError(
            f"The folder holds several splits: {', '.join(splits)}.",
            where=str(folder),
            do=f"Give one of them, such as {folder / (splits[0] if splits else 'train')}.",
        )
    try:
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as fault:
        raise DataError(
            f"The dataset cannot be read ({fault}).", where=str(folder), do="Save it again."
        ) from fault


def _dataset_items(dataset: Any, columns: Mapping[str, str] | None, faults: Faults) -> Iterator[Item]:
    try:
        import datasets
    except ImportError:
        datasets = None
    if datasets is None or not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"Items cannot be read from a {type(dataset).__name__}.",
            do="Give a path or a datasets.Dataset (one split, not streaming).",
        )
    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):  # images stay encoded until the encoder wants them
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    rows = (Row(f"dataset row {n}", values) for n, values in enumerate(dataset, 1))
    return items_of_rows(rows, base=Path(), where="the dataset", faults=faults, columns=columns)
