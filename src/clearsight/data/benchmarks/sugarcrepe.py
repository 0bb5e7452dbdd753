"""SugarCrepe: an image and two captions that differ in one detail; which fits?

Seven JSON files, each {"0": {filename, caption, negative_caption}, ...}; 7,511 rows in all. The images are
those of COCO val2017. Every image is a query with a pool of its two captions, so that accuracy is
`hit_rate@1`. A tie counts one half there; the benchmark's own rule, by which a tie is no win, is
`Score.pessimistic`. Over the files the mean is unweighted (`groups`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, not_this
from clearsight.data.benchmarks.on_disk import image_folder, missing_images, read_json
from clearsight.data.content import check_text
from clearsight.data.tables import Faults, Row, need_columns
from clearsight.errors import DataError
from clearsight.types import Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

FILES = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
IMAGES = ("val2017", "images/val2017", "images", "coco/images/val2017", "../val2017", "../images/val2017")

_COLUMNS = ("filename", "caption", "negative_caption")


def sugarcrepe_task(name: str, options: TaskOptions) -> Task:
    """One file of SugarCrepe.

    Args:
        name: of the file, without .json.
        options: `data` the folder with the files, or with data/, and COCO's val2017/; `n` the first n rows.

    Raises:
        UsageError: no data. DataError: a file is missing, broken or SugarCrepe++'s, bad rows, missing images.
    """
    path = json_file(options.need_data(f"sugarcrepe/{name}"), name, "sugarcrepe")
    if "caption2" in first_row(path):
        raise not_this("sugarcrepe", path.parent, f"rows with one positive caption in {path.name}")
    rows = read_rows("sugarcrepe", path, _COLUMNS, options.n, options.faults)
    queries, captions = [], []
    for row, image in with_images(rows, options.need_data(name), options.faults):
        item_id = f"{name}/{row.values['id']}"
        queries.append(Item(item_id, image=image))
        captions += [
            Item(f"{item_id}+", row.values["caption"]),
            Item(f"{item_id}-", row.values["negative_caption"]),
        ]
    return Task(
        f"sugarcrepe/{name}",
        tuple(queries),
        tuple(captions),
        {query.id: {f"{query.id}+": 1.0} for query in queries},
        pools={query.id: (f"{query.id}+", f"{query.id}-") for query in queries},
        measures=("hit_rate@1",),
    )


def json_file(data: Path, name: str, benchmark: str) -> Path:
    """The file of a set, in the folder or its data/; or `data` itself.

    Raises:
        DataError: it is not there; says what the folder looks like.
    """
    if data.is_file():
        return data
    for place in (data, data / "data"):
        if (place / f"{name}.json").is_file():
            return place / f"{name}.json"
    raise not_this(benchmark, data, f"{name}.json")


def read_rows(benchmark: str, path: Path, columns: Sequence[str], n: int | None, faults: Faults) -> list[Row]:
    """The first n rows of a file, {key: row} or [row]; `id` is the key, or the row's own, or its place.

    Raises:
        DataError: the file is no JSON (a download that broke off), of the other layout, or lacks columns;
            with `faults` that raise, a row with an empty text or an id that repeats.
    """
    content = read_json(path)
    if not isinstance(content, Mapping | list):
        content = [content]  # told below
    given = content.items() if isinstance(content, Mapping) else enumerate(content)
    rows: dict[str, Row] = {}
    for key, values in islice(given, n):
        where = f"{path.name} row {key}"
        if not isinstance(values, Mapping):
            raise not_this(benchmark, path.parent, f"rows with {', '.join(columns)} in {path.name}")
        need_columns(values, columns, where)
        row = Row(where, {**values, "id": str(values.get("id", key))})
        try:
            _check(row, columns, rows)
        except DataError as fault:
            faults.meet(fault)
            continue
        rows[row.values["id"]] = row
    return list(rows.values())


def _check(row: Row, columns: Iterable[str], rows: Mapping[str, Row]) -> None:
    for column in columns:
        value = row.values[column]
        if not isinstance(value, str):
            raise DataError(f"{column} is {value!r}.", where=row.where, do="Give a string.")
        check_text(value, item_id=row.where, field=column)
    if row.values["id"] in rows:
        raise DataError(f"The id '{row.values['id']}' appears twice.", where=row.where, do="Keep one.")


def with_images(rows: Sequence[Row], data: Path, faults: Faults) -> Iterator[tuple[Row, str]]:
    """Each row with the path of its image; rows without are left out where bad rows are skipped.

    Raises:
        DataError: images are missing, or no row is left.
    """
    base = data if data.is_dir() else data.parent
    names = [row.values["filename"] for row in rows]
    folder = image_folder(base, names, IMAGES)
    missing = missing_images(names, folder, faults)
    if not set(names) - missing:
        raise DataError("No usable row is left.", where=str(data), do="Give the images of COCO val2017.")
    for row in rows:
        if row.values["filename"] not in missing:
            yield row, str(folder / row.values["filename"])


def first_row(path: Path) -> Mapping[str, Any]:
    """The first row of a file, for looking; nothing where it cannot be read."""
    try:
        content = read_json(path)
    except DataError:
        return {}
    rows = content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
    row: Any = next(iter(rows), None)
    return row if isinstance(row, Mapping) else {}


def found_files(folder: Path, files: Sequence[str], columns: Sequence[str], lacks: str) -> tuple[str, ...]:
    """Those of `files` in the folder whose rows have `columns` and not `lacks`."""
    found = []
    for name in files:
        path = next(
            (p for p in (folder / f"{name}.json", folder / "data" / f"{name}.json") if p.is_file()), None
        )
        row: Mapping[str, Any] = {} if path is None else first_row(path)
        if set(columns).issubset(row) and lacks not in row:
            found.append(name)
    return tuple(found)


def _found(folder: Path) -> tuple[str, ...]:
    return found_files(folder, FILES, _COLUMNS, lacks="caption2")


BENCHMARKS.add(
    "sugarcrepe",
    Benchmark(
        name="sugarcrepe",
        title="SugarCrepe",
        sets=FILES,
        load=sugarcrepe_task,
        looks=lambda folder: bool(_found(folder)),
        found=_found,
        layout="<set>.json of {number: {filename, caption, negative_caption}}, in the folder or in data/; "
        "the images of COCO val2017 in val2017/.",
        source="https://github.com/RAIVNLab/sugar-crepe; images: http://images.cocodataset.org/zips/val2017.zip",
        licence="MIT; images: terms of use of Flickr",
        size="1.7 MB, and 1 GB of images",
        measures=("hit_rate@1",),
        groups={
            **{
                kind: tuple(name for name in FILES if name.startswith(kind))
                for kind in ("add", "replace", "swap")
            },
            "all": FILES,
        },
        citation="Hsieh et al. 2023, SugarCrepe (NeurIPS)",
    ),
)
