"""COCO-Caption in its parquet form: one row an image with its captions (five; a few images have more)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from clearsight.data.content import check_text
from clearsight.data.own_tasks import Direction, image_text_task
from clearsight.data.tables import Faults, Row, read_rows
from clearsight.errors import DataError
from clearsight.types import Item, Task


def coco_task(
    data: Path, direction: Direction, *, n: int | None = None, faults: Faults | None = None
) -> Task:
    """COCO-Caption, image -> text (every caption of the image is relevant) or text -> image.

    Ids are the rows' `question_id`, and for captions `question_id#j`, j from 0. Images are kept as their
    encoded bytes: 5,000 of them take about 0.8 GB, so give `n` where that is too much.

    Args:
        data: a parquet file, or a folder of them (`val-*.parquet` where there are such, else all), read in
            the order of their names.
        n: the first n images only.

    Raises:
        DataError: no parquet file, a column is missing, an id repeats, a caption is empty.
    """
    faults = faults or Faults()
    images: dict[str, Item] = {}
    texts: list[Item] = []
    image_of: dict[str, str] = {}
    for row in islice(_rows(data), n):
        try:
            image, captions = _image_and_captions(row, data)
            if image.id in images:
                raise DataError(
                    f"The question_id '{image.id}' appears twice.", where=row.where, do="Ids must be unique."
                )
        except DataError as fault:
            faults.meet(fault)
            continue
        images[image.id] = image
        texts.extend(captions)
        image_of.update({caption.id: image.id for caption in captions})
    return image_text_task(f"coco/{direction}", list(images.values()), texts, image_of, direction)


def _rows(data: Path) -> Iterator[Row]:
    paths = [data]
    if data.is_dir():
        paths = sorted(data.rglob("val-*.parquet")) or sorted(data.rglob("*.parquet"))
        if not paths:
            raise DataError(
                "The folder holds no parquet file.", where=str(data), do="Give the folder of val-*.parquet."
            )
    for path in paths:
        yield from read_rows(path)


def _image_and_captions(row: Row, data: Path) -> tuple[Item, list[Item]]:
    values: Mapping[str, Any] = row.values
    missing = [name for name in ("question_id", "image", "answer") if values.get(name) is None]
    if row.fault is not None or missing:
        raise DataError(
            row.fault or f"The row lacks {', '.join(missing)}; it has {', '.join(values)}.",
            where=row.where,
            do="Give COCO-Caption's parquet with question_id, image{bytes, path} and answer[].",
        )
    name = str(values["question_id"])
    content = values["image"].get("bytes")
    if content is None and values["image"].get("path") is None:
        raise DataError("The image has neither bytes nor path.", where=row.where, do="Fetch the file again.")
    base = data if data.is_dir() else data.parent
    image = Item(name, image=base / values["image"]["path"] if content is None else content)
    captions = []
    for j, caption in enumerate(values["answer"]):
        check_text(caption, item_id=f"{row.where}, {name}#{j}")
        captions.append(Item(f"{name}#{j}", text=caption))
    return image, captions
