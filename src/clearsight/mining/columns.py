"""Clusters to and from the columns other houses train on.

* sentence-transformers: anchor, positive, negative_1 ... negative_k; a row is a cluster.
* MMEB-train: qry, qry_image_path, pos_text, pos_image_path, neg_text, neg_image_path; a row is a pair with
  one hard negative.

Both hold items in place of ids, and know no cluster: a negative's own query does not come along. Back from
them, every row is a cluster of an anchor and negatives that stand alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from clearsight.errors import DataError
from clearsight.mining.clusters import SCHEMA, Clusters
from clearsight.names import row_numbers
from clearsight.types import Item, Task, ids_of

MMEB_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")


def to_sentence_transformers(
    clusters: Clusters, tasks: Mapping[str, Task], negatives: int | None = None
) -> dict[str, list[Any]]:
    """Columns anchor, positive, negative_1 ...: one row a cluster that has so many negatives.

    An item that is a text alone stands as its text, an image alone as its image, both as
    {"text": ..., "image": ...}. `datasets.Dataset.from_dict` takes the result.

    Args:
        tasks: by data set, as in the clusters.
        negatives: columns of negatives: the hardest of a cluster, so many. Clusters with fewer are left out,
            for the trainer takes rows of one length. Default: of the largest cluster.

    Raises:
        DataError: a data set or id that the tasks do not have.
    """
    most = int(clusters.sizes_G.max(initial=1)) - 1
    kept = most if negatives is None else negatives
    names = ("anchor", "positive", *(f"negative_{i + 1}" for i in range(kept)))
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for task, members in _read(clusters, tasks):
        if len(members) <= kept:
            continue
        row = [members[0][0], members[0][1], *(one[1] for one in members[::-1][:kept])]
        for name, item in zip(names, row, strict=True):
            assert item is not None, task.name  # an anchor has a query
            columns[name].append(_value(item))
    return columns


def to_mmeb_train(clusters: Clusters, tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """MMEB-train's columns: one row for each negative of a cluster, with the anchor's pair.

    Texts and image paths as they are; an empty string is none. The benchmark's image token is not written.

    Raises:
        DataError: a data set or id that the tasks do not have, or an image that is no path.
    """
    columns: dict[str, list[str]] = {name: [] for name in MMEB_COLUMNS}
    for _, members in _read(clusters, tasks):
        for negative in members[1:]:
            items = (members[0][0], members[0][1], negative[1])
            for place, item in enumerate(items):
                assert item is not None
                columns[MMEB_COLUMNS[2 * place]].append(item.text or "")
                columns[MMEB_COLUMNS[2 * place + 1]].append(_path(item))
    return columns


def from_sentence_transformers(columns: Mapping[str, Sequence[Any]], dataset: str) -> tuple[Task, Clusters]:
    """A task and its clusters from columns anchor, positive, negative_1 ... (or one column `negative`).

    Values: a text, an image (PIL), or {"text": ..., "image": ...}; a negative may be None. Equal texts are
    one item.

    Raises:
        DataError: no columns `anchor` and `positive`, columns of different lengths, no row.
    """
    lacking = [name for name in ("anchor", "positive") if name not in columns]
    if lacking:
        raise DataError(
            f"There is no column '{lacking[0]}'; there are {', '.join(columns)}.",
            where=dataset,
            do="Rename the columns to anchor, positive, negative_1 and so on.",
        )
    others = sorted(
        (name for name in columns if name == "negative" or name.startswith("negative_")),
        key=lambda name: (len(name), name),
    )
    if len({len(columns[name]) for name in ("anchor", "positive", *others)}) != 1:
        raise DataError("The columns differ in length.", where=dataset, do="Give one value for each row.")
    rows = zip(*(columns[name] for name in ("anchor", "positive", *others)), strict=True)
    return _gather(dataset, ([_item(value) for value in row] for row in rows))


def from_mmeb_train(columns: Mapping[str, Sequence[str]], dataset: str) -> tuple[Task, Clusters]:
    """A task and its clusters from MMEB-train's columns; rows of one pair are one cluster.

    Raises:
        DataError: a column of the pair is missing, no row.
    """
    lacking = [name for name in MMEB_COLUMNS[:4] if name not in columns]
    if lacking:
        raise DataError(
            f"There is no column '{lacking[0]}'.", where=dataset, do=f"Columns: {', '.join(MMEB_COLUMNS)}."
        )
    count = len(columns["qry"])
    filled = [columns.get(name) or [""] * count for name in MMEB_COLUMNS]
    together: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for row in zip(*filled, strict=True):
        together.setdefault(row[:4], []).append((row[4], row[5]))

    def items() -> Iterator[list[Item | None]]:
        for pair, negatives in together.items():
            both = [_of(pair[0], pair[1]), _of(pair[2], pair[3])]
            yield both + [_of(text, image) for text, image in negatives if text or image]

    return _gather(dataset, items())


def _read(
    clusters: Clusters, tasks: Mapping[str, Task]
) -> Iterator[tuple[Task, list[tuple[Item | None, Item]]]]:
    finders: dict[str, tuple[Callable[[str], Item], Callable[[str], Item]]] = {}
    for dataset, members in zip(clusters.dataset_G, clusters, strict=True):
        if dataset not in tasks:
            raise DataError(
                f"The clusters are of the data set '{dataset}'.", do="Give its task under that name."
            )
        task = tasks[dataset]
        if dataset not in finders:
            finders[dataset] = (_finder(task.queries, dataset), _finder(task.candidates, dataset))
        query, candidate = finders[dataset]
        yield task, [(None if m.query is None else query(m.query), candidate(m.positive)) for m in members]


def _finder(items: Sequence[Item], dataset: str) -> Callable[[str], Item]:
    ids = ids_of(items)
    row_of = row_numbers(ids, tuple(ids))

    def find(name: str) -> Item:
        if name not in row_of:
            raise DataError(
                "The clusters name an item that is not in the data.",
                where=f"{dataset}, '{name}'",
                do="Give the data that was mined.",
            )
        return items[row_of[name]]

    return find


def _value(item: Item) -> Any:
    if item.image is None:
        return item.text
    return item.image if item.text is None else {"text": item.text, "image": item.image}


def _path(item: Item) -> str:
    if item.image is None:
        return ""
    if not isinstance(item.image, str | os.PathLike):
        raise DataError(
            "MMEB-train names images by path; this one is in memory.",
            where=item.id,
            do="Save the images and read the data from there.",
        )
    return os.fspath(item.image)


def _of(text: str, image: str) -> Item | None:
    return Item("", text or None, image or None) if text or image else None


def _item(value: Any) -> Item | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return Item("", value.get("text"), value.get("image"))
    return Item("", text=value) if isinstance(value, str) else Item("", image=value)


def _gather(dataset: str, rows: Iterator[list[Item | None]]) -> tuple[Task, Clusters]:
    """Items by content, their relevance, and a cluster for each row; negatives hardest first."""
    queries: dict[Any, Item] = {}
    candidates: dict[Any, Item] = {}
    relevance: dict[str, dict[str, float]] = {}
    members: list[tuple[Any, ...]] = []

    def named(item: Item, side: dict[Any, Item], letter: str) -> str:
        image = item.image if isinstance(item.image, str | None) else id(item.image)
        kept = side.setdefault(
            (item.text, image), Item(f"{letter}{len(side)}", item.text, item.image, item.instruction)
        )
        return kept.id

    for number, row in enumerate(rows):
        if row[0] is None or row[1] is None:
            raise DataError(
                "A row has no anchor or no positive.", where=f"{dataset}, row {number + 1}", do="Drop it."
            )
        query, positive = named(row[0], queries, "q"), named(row[1], candidates, "c")
        relevance.setdefault(query, {})[positive] = 1.0
        members.append((dataset, number, 0, query, positive, 1.0, 1, None))
        alone = [named(item, candidates, "c") for item in row[:1:-1] if item is not None]
        # Their cosines are not in the columns: the order is, and 0 keeps it.
        members += [(dataset, number, i + 1, None, name, 0.0, 1, None) for i, name in enumerate(alone)]
    if not members:
        raise DataError("There is no row.", where=dataset, do="Give at least one.")
    columns = zip(*members, strict=True)
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
    task = Task(dataset, tuple(queries.values()), tuple(candidates.values()), relevance)
    return task, Clusters(table)
