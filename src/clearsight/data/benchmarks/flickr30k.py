"""Flickr30k: the 1,000 test images of Karpathy's split with five captions each, both ways.

| form | holds |
|---|---|
| dataset_flickr30k.json | Karpathy's: images[] of {filename, split, sentences[] of {raw}} |
| flickr_annotations_30k.csv | the hub's: filename, split, raw (a JSON list), img_id |
| *.parquet | the hub's: image{bytes, path}, caption[], filename, split, img_id |

Images of the first two lie in flickr30k-images/ beside them, or in a folder of another name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, need_columns, not_this
from clearsight.data.benchmarks.on_disk import columns_of, has_columns, image_folder, missing_images
from clearsight.data.content import check_text
from clearsight.data.hub import Hub, data_of
from clearsight.data.own_tasks import Direction, image_text_task
from clearsight.data.tables import Faults, Row, read_rows
from clearsight.errors import DataError
from clearsight.types import ImageSource, Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

KARPATHY = "dataset_flickr30k.json"
CSV = "flickr_annotations_30k.csv"
_IMAGES = ("flickr30k-images", "flickr30k_images", "images", "Images")
_COLUMNS = ("image", "caption", "filename")
_CONVERTED = "refs/convert/parquet"
"""Branch of the hub with the tables that a data set's own script once made; scripts are not run."""


def flickr30k_task(
    data: Path | Hub, direction: Direction, *, n: int | None = None, faults: Faults | None = None
) -> Task:
    """Flickr30k's test split, image -> text or text -> image.

    Ids are file names, and for captions `filename#j`, j from 0. Rows of other splits are left out; a table
    without a column `split` is taken whole (the hub's 1,000 test images alone).

    Args:
        data: a folder with one of the forms on top of this module (tried in that order), one of these files,
            or a data set of the hub.
        n: the first n images only.

    Raises:
        DataError: none of the forms is there, a file is broken, images are missing, an id repeats, a caption
            is empty.
    """
    faults = faults or Faults()
    images: dict[str, Item] = {}
    texts: list[Item] = []
    image_of: dict[str, str] = {}
    for row in _test_rows(data, n, faults):
        if n is not None and len(images) >= n:
            break
        try:
            image, captions = _image_and_captions(row)
            if image.id in images:
                raise DataError(f"The image '{image.id}' appears twice.", where=row.where, do="Keep one.")
        except DataError as fault:
            faults.meet(fault)
            continue
        images[image.id] = image
        texts.extend(captions)
        image_of.update({caption.id: image.id for caption in captions})
    return image_text_task(f"flickr30k/{direction}", list(images.values()), texts, image_of, direction)


def _test_rows(data: Path | Hub, n: int | None, faults: Faults) -> Iterator[Row]:
    """Rows {filename, caption[], image} of the test split, whatever form they came in."""
    if isinstance(data, Hub):
        # The converted table has all images under "test", Karpathy's split in a column: how many rows hold n
        # test images is not known beforehand, so rows are streamed until the reader has enough.
        source = Hub(data.name, data.revision or _CONVERTED)
        limit = None if n is None else 2**62
        return _of_split(source.rows(None, "test", limit))
    path = _form(data)
    if path.suffix == ".parquet":
        paths = sorted(data.rglob("*.parquet")) if data.is_dir() else [path]
        for each in paths:
            need_columns(columns_of(each), _COLUMNS, str(each))
        return _of_split(row for each in paths for row in read_rows(each))
    rows = list(_of_split(_karpathy(path) if path.suffix == ".json" else _csv(path, faults)))[:n]
    return _with_images(rows, path.parent, faults)


def _form(data: Path) -> Path:
    if not data.is_dir():
        return data
    for name in (KARPATHY, CSV):
        if (data / name).is_file():
            return data / name
    tables = sorted(data.rglob("*.parquet"))
    if tables and has_columns(tables[0], _COLUMNS):
        return tables[0]
    raise not_this("flickr30k", data, f"{KARPATHY}, {CSV} or its parquet files")


def _of_split(rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if row.fault is not None or row.values.get("split", "test") == "test")


def _karpathy(path: Path) -> Iterator[Row]:
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        rows = [
            {
                "filename": image["filename"],
                "split": image["split"],
                "caption": [sentence["raw"] for sentence in image["sentences"]],
            }
            for image in images
        ]
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"The file is not Karpathy's ({type(fault).__name__}: {fault}).",
            where=str(path),
            do="It holds images[] of {filename, split, sentences[] of {raw}}; fetch it again.",
        ) from fault
    return (Row(f"{path.name} image {number}", values) for number, values in enumerate(rows, 1))


def _csv(path: Path, faults: Faults) -> Iterator[Row]:
    for row in read_rows(path):
        if row.fault is None:
            need_columns(row.values, ("filename", "split", "raw"), str(path))
        try:
            captions = [] if row.fault else json.loads(row.values["raw"] or "[]")
        except ValueError:
            faults.meet(DataError("Column raw is not a JSON list.", where=row.where, do="Fetch it again."))
            continue
        yield row._replace(values={**row.values, "caption": captions})


def _with_images(rows: list[Row], base: Path, faults: Faults) -> Iterator[Row]:
    names = [str(row.values["filename"]) for row in rows if row.fault is None]
    folder = image_folder(base, names, _IMAGES)
    missing = missing_images(names, folder, faults)
    for row in rows:
        if row.fault is None and row.values["filename"] in missing:
            continue
        place = None if row.fault else str(folder / row.values["filename"])
        yield row._replace(values={**row.values, "image": place})


def _image_and_captions(row: Row) -> tuple[Item, list[Item]]:
    values: Mapping[str, Any] = row.values
    if row.fault is not None or not values.get("filename") or not values.get("caption"):
        raise DataError(
            row.fault or "The row has no filename or no caption.",
            where=row.where,
            do="Correct or fetch it again.",
        )
    name = str(values["filename"])
    image: ImageSource | None = values["image"]
    if isinstance(values["image"], Mapping):
        image = values["image"].get("bytes")
    if image is None:
        raise DataError("The row has no image bytes.", where=row.where, do="Fetch the file again.")
    captions = []
    for j, caption in enumerate(values["caption"]):
        check_text(caption, item_id=f"{row.where}, {name}#{j}")
        captions.append(Item(f"{name}#{j}", text=caption))
    return Item(name, image=image), captions


def _load(direction: str, options: TaskOptions) -> Task:
    data = data_of(options, f"flickr30k/{direction}")
    way: Direction = "i2t" if direction == "i2t" else "t2i"
    return flickr30k_task(data, way, n=options.n, faults=options.faults)


def _looks(folder: Path) -> bool:
    if any((folder / name).is_file() for name in (KARPATHY, CSV)):
        return True
    tables = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    return bool(tables) and has_columns(tables[0], _COLUMNS)


BENCHMARKS.add(
    "flickr30k",
    Benchmark(
        name="flickr30k",
        title="Flickr30k",
        sets=get_args(Direction),
        load=_load,
        looks=_looks,
        found=lambda folder: get_args(Direction) if _looks(folder) else (),
        layout=f"{KARPATHY} or {CSV} with the images in flickr30k-images/, or *.parquet with image{{bytes}}, "
        "caption[] and filename; the 1,000 images of split test are used.",
        source="hub:nlphuji/flickr30k, hub:nlphuji/flickr_1k_test_image_text_retrieval",
        licence="unknown (the images are under Flickr's terms)",
        size="4.4 GB",
        measures=("hit_rate@1", "hit_rate@5", "hit_rate@10"),
        citation="Young et al. 2014; split of Karpathy & Fei-Fei 2015",
    ),
)
