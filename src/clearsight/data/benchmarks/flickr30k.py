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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, not_this
from clearsight.data.benchmarks.captioned import Names, Source, captioned_task, of_hub, of_parquet
from clearsight.data.benchmarks.on_disk import image_folder, read_json
from clearsight.data.hub import Hub, data_of
from clearsight.data.own_tasks import Direction
from clearsight.data.parquet import has_columns, need_shards
from clearsight.data.tables import Faults, Row, check_file, need_columns, read_rows
from clearsight.errors import DataError
from clearsight.types import Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

KARPATHY = "dataset_flickr30k.json"
CSV = "flickr_annotations_30k.csv"
_IMAGES = ("flickr30k-images", "flickr30k_images", "images", "Images")
_NAMES = Names("filename", "caption")
_COLUMNS = (*_NAMES.read, _NAMES.image)
_CONVERTED = "refs/convert/parquet"
"""Branch of the hub with the tables that a data set's own script once made; scripts are not run."""


def load(direction: str, options: TaskOptions) -> Task:
    """Flickr30k's test split, image -> text or text -> image. Ids are file names.

    Rows of other splits are left out; a table without a column `split` is taken whole (the hub's 1,000 test
    images alone).

    Args:
        options: `data` a folder with one of the forms on top of this module (tried in that order), one of
            these files, or a data set of the hub. `n` the first n images.

    Raises:
        DataError: none of the forms is there, a file is broken, bad rows, missing images.
    """
    way: Direction = "i2t" if direction == "i2t" else "t2i"
    source = _source(data_of(options, f"flickr30k/{direction}"), options)
    return captioned_task(f"flickr30k/{direction}", way, source, options.n, options.faults)


def _source(data: Path | Hub, options: TaskOptions) -> Source:
    if isinstance(data, Hub):  # the converted table has all images under "test", their split in a column
        return of_hub(Hub(data.name, data.revision or _CONVERTED), "test", _NAMES, options.n, _of_test)
    path = _form(data)
    if path.suffix == ".parquet":
        paths = [path]
        if data.is_dir():
            paths = sorted(data.rglob("*.parquet"))
            need_shards(paths)
        return of_parquet(paths, _NAMES, path.parent, _of_test)
    rows = list(_karpathy(path) if path.suffix == ".json" else _csv(path, options.faults))
    names = [row.values["image"] for row in rows if row.fault is None]
    return Source(rows, image_folder(path.parent, names, _IMAGES))


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


def _of_test(values: Mapping[str, Any]) -> bool:
    return bool(values.get("split", "test") == "test")


def _row(where: str, name: Any, captions: Sequence[str]) -> Row:
    return Row(where, {"id": name, "captions": captions, "image": str(name)})


def _karpathy(path: Path) -> Iterator[Row]:
    content = read_json(path)
    try:
        for number, image in enumerate(content["images"], 1):
            if _of_test(image):
                captions = [sentence["raw"] for sentence in image["sentences"]]
                yield _row(f"{path.name} image {number}", image["filename"], captions)
    except (KeyError, TypeError) as fault:
        raise DataError(
            f"The file is not Karpathy's ({type(fault).__name__}: {fault}).",
            where=str(path),
            do="It holds images[] of {filename, split, sentences[] of {raw}}; fetch it again.",
        ) from fault


def _csv(path: Path, faults: Faults) -> Iterator[Row]:
    check_file(path)
    for row in read_rows(path):
        if row.fault is None:
            need_columns(row.values, ("filename", "split", "raw"), str(path))
            if not _of_test(row.values):
                continue
        try:
            captions = [] if row.fault else json.loads(row.values["raw"] or "[]")
        except ValueError:
            faults.meet(DataError("Column raw is not a JSON list.", where=row.where, do="Fetch it again."))
            continue
        yield row if row.fault else _row(row.where, row.values["filename"], captions)


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
        load=load,
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
