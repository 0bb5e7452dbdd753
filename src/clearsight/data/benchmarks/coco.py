"""COCO-Caption in its parquet form: one row an image with its captions (five; a few images have more)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, looks_like, need_columns, not_this
from clearsight.data.benchmarks.on_disk import columns_of, has_columns
from clearsight.data.content import check_text
from clearsight.data.hub import Hub, data_of
from clearsight.data.own_tasks import Direction, image_text_task
from clearsight.data.tables import Faults, Row, read_rows
from clearsight.errors import DataError
from clearsight.types import Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

_COLUMNS = ("question_id", "image", "answer")


def coco_task(
    data: Path | Hub, direction: Direction, *, n: int | None = None, faults: Faults | None = None
) -> Task:
    """COCO-Caption, image -> text (every caption of the image is relevant) or text -> image.

    Ids are the rows' `question_id`, and for captions `question_id#j`, j from 0. Images are kept as their
    encoded bytes: 5,000 of them take about 0.8 GB, so give `n` where that is too much.

    Args:
        data: a parquet file, or a folder of them (`val-*.parquet` where there are such, else all), read in
            the order of their names; or a dataset of the hub (its split val).
        n: the first n images only.

    Raises:
        DataError: no parquet file, a column is missing, an id repeats, a caption is empty.
    """
    faults = faults or Faults()
    images: dict[str, Item] = {}
    texts: list[Item] = []
    image_of: dict[str, str] = {}
    base = Path() if isinstance(data, Hub) else data if data.is_dir() else data.parent
    for row in islice(_rows(data, n), n):
        try:
            image, captions = _image_and_captions(row, base)
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


def _rows(data: Path | Hub, n: int | None) -> Iterator[Row]:
    if isinstance(data, Hub):
        yield from data.rows(None, "val", n)
        return
    for path in _files(data):
        yield from read_rows(path)


def _files(data: Path) -> list[Path]:
    """The parquet files to read, their header checked.

    Raises:
        DataError: there is none, it is broken, or it is another benchmark's.
    """
    paths = [data]
    if data.is_dir():
        paths = sorted(data.rglob("val-*.parquet")) or sorted(data.rglob("*.parquet"))
        if not paths:
            raise not_this("coco", data, "a parquet file (val-*.parquet)")
    if paths[0].suffix == ".parquet" and paths[0].is_file():
        columns = columns_of(paths[0])
        if not set(_COLUMNS).issubset(columns) and data.is_dir() and looks_like(data) is not None:
            raise not_this("coco", data, "a parquet file with question_id, image and answer")
        need_columns(columns, _COLUMNS, str(paths[0]))
    return paths


def _image_and_captions(row: Row, base: Path) -> tuple[Item, list[Item]]:
    values: Mapping[str, Any] = row.values
    missing = [name for name in _COLUMNS if values.get(name) is None]
    if row.fault is not None or missing:
        raise DataError(
            row.fault or f"The row lacks {', '.join(missing)}; it has {', '.join(values)}.",
            where=row.where,
            do="Give COCO-Caption's parquet with question_id, image{bytes, path} and answer[].",
        )
    name = str(values["question_id"])
    content, path = (values["image"].get(field) for field in ("bytes", "path"))
    if content is None and path is None:
        raise DataError("The image has neither bytes nor path.", where=row.where, do="Fetch the file again.")
    if content is None and not (base / path).is_file():
        raise DataError(
            f"The image '{path}' is missing.", where=row.where, do=f"Put it into {base}, or skip bad rows."
        )
    image = Item(name, image=base / path if content is None else content)
    captions = []
    for j, caption in enumerate(values["answer"]):
        check_text(caption, item_id=f"{row.where}, {name}#{j}")
        captions.append(Item(f"{name}#{j}", text=caption))
    return image, captions


def _load(direction: str, options: TaskOptions) -> Task:
    data = data_of(options, f"coco/{direction}")
    way: Direction = "i2t" if direction == "i2t" else "t2i"
    return coco_task(data, way, n=options.n, faults=options.faults)


def _looks(folder: Path) -> bool:
    paths = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    return bool(paths) and has_columns(paths[0], _COLUMNS)


BENCHMARKS.add(
    "coco",
    Benchmark(
        name="coco",
        title="COCO-Caption",
        sets=get_args(Direction),
        load=_load,
        looks=_looks,
        found=lambda folder: get_args(Direction) if _looks(folder) else (),
        layout="val-*.parquet with question_id, image{bytes, path} and answer[], in the folder or below it.",
        source="hub:lmms-lab/COCO-Caption (40,504 images of 2014) or hub:lmms-lab/COCO-Caption2017 (5,000)",
        licence="annotations CC BY 4.0; images: terms of use of Flickr",
        size="6.6 GB (val of COCO-Caption), 0.8 GB (val of COCO-Caption2017)",
        measures=("hit_rate@1", "hit_rate@5", "hit_rate@10"),
        citation="Chen et al. 2015, Microsoft COCO Captions",
    ),
)
