"""COCO-Caption in its parquet form: one row an image with its captions (five; a few images have more)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, need_own_columns, not_this
from clearsight.data.benchmarks.captioned import Names, captioned_task, of_hub, of_parquet
from clearsight.data.hub import Hub, data_of
from clearsight.data.own_tasks import Direction
from clearsight.data.parquet import has_columns, need_shards
from clearsight.types import Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

_NAMES = Names("question_id", "answer")
_COLUMNS = (*_NAMES.read, _NAMES.image)


def load(direction: str, options: TaskOptions) -> Task:
    """COCO-Caption, image -> text or text -> image. Ids are the rows' `question_id`.

    Args:
        options: `data` a parquet file, or a folder of them (`val-*.parquet` where there are such, else all),
            read in the order of their names; or a dataset of the hub (its split val). `n` the first n images.

    Raises:
        DataError: no parquet file, a column is missing, bad rows, missing images.
    """
    data = data_of(options, f"coco/{direction}")
    way: Direction = "i2t" if direction == "i2t" else "t2i"
    if isinstance(data, Hub):
        source = of_hub(data, "val", _NAMES, options.n, _every)
    else:
        source = of_parquet(_files(data), _NAMES, data if data.is_dir() else data.parent, _every)
    return captioned_task(f"coco/{direction}", way, source, options.n, options.faults)


def _every(_: Mapping[str, Any]) -> bool:
    return True


def _files(data: Path) -> list[Path]:
    """The parquet files to read.

    Raises:
        DataError: there is none, the first is broken, or it is another benchmark's.
    """
    if not data.is_dir():
        return [data]
    paths = sorted(data.rglob("val-*.parquet")) or sorted(data.rglob("*.parquet"))
    if not paths:
        raise not_this("coco", data, "a parquet file (val-*.parquet)")
    need_own_columns("coco", data, paths[0], _COLUMNS)
    need_shards(paths)
    return paths


def _looks(folder: Path) -> bool:
    paths = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    return bool(paths) and has_columns(paths[0], _COLUMNS)


BENCHMARKS.add(
    "coco",
    Benchmark(
        name="coco",
        title="COCO-Caption",
        sets=get_args(Direction),
        load=load,
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
