"""MMEB-train: pairs of a query and its positive, in 20 sets; some have a hard negative.

| column | holds |
|---|---|
| qry, qry_image_path | the query; an empty string is none |
| pos_text, pos_image_path | its positive |
| neg_text, neg_image_path | its hard negative; not in every set |

Every set has the splits `original` and `diverse_instruction`; the instructions of the latter vary from row
to row and stay in the text. Read as pairs for mining and training (`mmeb_train_pairs`), or as a task: every
query among the positives of its set.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, need_own_columns, not_this
from clearsight.data.benchmarks.mmeb_sets import (
    GROUPS,
    TRAIN_SETS,
    Place,
    image_place,
    known_as,
    make_item,
)
from clearsight.data.benchmarks.on_disk import image_folder, missing_images
from clearsight.data.hub import Hub, data_of
from clearsight.data.parquet import has_columns, need_shards
from clearsight.data.tables import Faults, Row, read_rows
from clearsight.errors import DataError, UsageError
from clearsight.types import Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

Split: TypeAlias = Literal["original", "diverse_instruction"]

SPLITS: tuple[Split, ...] = ("original", "diverse_instruction")
_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
_DIVERSE = "_diverse"
_SEEN = 3


class Pair(NamedTuple):
    """One row.

    Attributes:
        query, positive: their ids are `q` and `p` with the row's number from 0.
        negative: `n` with the number; None where the row has none.
        place: where the query's text had its image token. Diverse instructions put it anywhere.
    """

    query: Item
    positive: Item
    negative: Item | None
    place: Place


def mmeb_train_pairs(
    data: Path | Hub,
    name: str,
    split: Split = "original",
    *,
    n: int | None = None,
    faults: Faults | None = None,
) -> Iterator[Pair]:
    """The rows of one set as pairs, one at a time; images are paths, not looked at.

    Args:
        data: the folder of `<set>/<split>-*.parquet` and images/, or the data set of the hub.
        name: of the set, as MMEB-train writes it (`ImageNet_1K`).
        n: the first n rows only.
        faults: told of bad rows; without it the first raises.

    Raises:
        UsageError: no set or split of that name.
        DataError: a table is missing or broken, a row has no query or no positive.
    """
    faults = faults or Faults()
    if name not in TRAIN_SETS or split not in SPLITS:
        raise UsageError(
            f"MMEB-train has no '{name}', split '{split}'.",
            do=f"Sets: {', '.join(TRAIN_SETS)}. Splits: {', '.join(SPLITS)}.",
        )
    rows, folder = _open(data, name, split, n)
    for number, row in enumerate(islice(rows, n)):
        try:
            yield _pair(number, row, name, folder)
        except DataError as fault:
            faults.meet(fault)


def _pair(number: int, row: Row, name: str, folder: Path) -> Pair:
    facts, values = TRAIN_SETS[name], row.values
    if row.fault is not None:
        raise DataError(row.fault, where=row.where, do="Fetch the file again.")

    def item(letter: str, text: str | None, image: str | None, instructions: tuple[str, ...]) -> Item:
        try:
            return make_item(f"{letter}{number}", text, str(folder / image) if image else None, instructions)
        except DataError as fault:
            raise DataError(fault.what, where=row.where, do=fault.do) from None

    query = item("q", values["qry"], values["qry_image_path"], facts.query)
    positive = item("p", values["pos_text"], values["pos_image_path"], facts.candidate)
    negative = None
    if values.get("neg_text") or values.get("neg_image_path"):
        negative = item("n", values.get("neg_text"), values.get("neg_image_path"), facts.candidate)
    return Pair(query, positive, negative, image_place(values["qry"] or ""))


def _load(name: str, options: TaskOptions) -> Task:
    """Every query among its set's positives; queries of one content are one, with all their positives."""
    own, split = (name.removesuffix(_DIVERSE), SPLITS[1]) if name.endswith(_DIVERSE) else (name, SPLITS[0])
    source = data_of(options, f"mmeb_train/{name}")
    queries: dict[tuple[object, ...], Item] = {}
    candidates: dict[tuple[object, ...], Item] = {}
    relevant: list[tuple[tuple[object, ...], tuple[object, ...]]] = []
    for pair in mmeb_train_pairs(source, own, split, n=options.n, faults=options.faults):
        keys = [(i.text, i.image, i.instruction) for i in (pair.query, pair.positive)]
        queries.setdefault(keys[0], pair.query)
        candidates.setdefault(keys[1], pair.positive)
        relevant.append((keys[0], keys[1]))
    if not queries:
        raise DataError("The set has no usable row.", where=f"mmeb_train/{name}", do="Fetch its table again.")
    used = [str(i.image) for side in (queries, candidates) for i in side.values() if i.image is not None]
    missing = missing_images(used, Path(), options.faults)
    for side in (queries, candidates):
        for key in [key for key, i in side.items() if str(i.image) in missing]:
            del side[key]
    relevance: dict[str, dict[str, float]] = {}
    for query, positive in relevant:
        if query in queries and positive in candidates:
            relevance.setdefault(queries[query].id, {})[candidates[positive].id] = 1.0
    sides = (tuple(queries.values()), tuple(candidates.values()))
    return Task(f"mmeb_train/{name}", *sides, relevance)


def _open(source: Path | Hub, name: str, split: Split, n: int | None) -> tuple[Iterator[Row], Path]:
    """The rows, and the folder at which image names start."""
    if isinstance(source, Hub):
        # The archives hold what lies below images/ once they are unpacked where they should be.
        rows = (_below_images(row) for row in source.rows(name, split, n))
        return rows, source.unpacked(f"images_zip/{name}.zip")
    paths = _files(source, name, split)
    if not paths:
        raise not_this("mmeb_train", source, f"the table {name}/{split}-*.parquet")
    need_shards(paths)
    for path in paths:
        need_own_columns("mmeb_train", source, path, _COLUMNS)
    home = source.parent if source.name == name else source
    first = islice((row for path in paths for row in read_rows(path)), _SEEN)
    columns = ("qry_image_path", "pos_image_path")
    names = [row.values[c] for row in first if row.fault is None for c in columns if row.values[c]]
    return (row for path in paths for row in read_rows(path)), image_folder(home, names, ("images", "image"))


def _below_images(row: Row) -> Row:
    paths = {
        column: (row.values.get(column) or "").removeprefix("images/")
        for column in ("qry_image_path", "pos_image_path", "neg_image_path")
    }
    return row._replace(values={**row.values, **paths})


def _files(folder: Path, name: str, split: Split) -> list[Path]:
    for place in (folder / name, folder / "data" / name, *((folder,) if folder.name == name else ())):
        if paths := sorted(place.glob(f"{split}-*.parquet")) or sorted(place.glob(f"{split}/*.parquet")):
            return paths
    return []


def _found(folder: Path) -> tuple[str, ...]:
    found = [(name, paths) for name in TRAIN_SETS if (paths := _files(folder, name, SPLITS[0]))]
    return tuple(name for name, paths in found if has_columns(paths[0], _COLUMNS))


def _known_as(name: str) -> str | None:
    """Names of MMEB-eval too; `<set>_diverse` is the split diverse_instruction."""
    diverse = name.endswith((_DIVERSE, "_diverse_instruction"))
    own = known_as(name.removesuffix("_instruction").removesuffix(_DIVERSE) if diverse else name)
    train = {row.name: key for key, row in TRAIN_SETS.items()}.get(own or "")
    return None if train is None else train + (_DIVERSE if diverse else "")


BENCHMARKS.add(
    "mmeb_train",
    Benchmark(
        name="mmeb_train",
        title="MMEB-train",
        sets=tuple(TRAIN_SETS),
        load=_load,
        looks=lambda folder: bool(_found(folder)),
        found=_found,
        layout="<set>/original-*.parquet and <set>/diverse_instruction-*.parquet with qry, qry_image_path, "
        "pos_text, pos_image_path and, in some sets, neg_text, neg_image_path; images/ beside them. "
        "`<set>_diverse` is the second split.",
        source="hub:TIGER-Lab/MMEB-train",
        licence="Apache-2.0",
        size="unknown",
        measures=("hit_rate@1", "hit_rate@5", "hit_rate@10"),
        groups={
            kind: tuple(name for name, row in TRAIN_SETS.items() if row.name in members)
            for kind, members in GROUPS.items()
            if kind not in ("in-domain", "out-of-domain")
        },
        citation="Jiang et al. 2025, VLM2Vec (ICLR)",
        known_as=_known_as,
    ),
)
