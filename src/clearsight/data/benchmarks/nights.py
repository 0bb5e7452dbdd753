"""NIGHTS (Fu et al. 2023, DreamSim, arXiv:2306.09344): which of two distortions is more like the reference?

| file | holds |
|---|---|
| data.csv | id, votes, right_vote (0 or 1), ref_path, left_path, right_path, split, is_imagenet, ... |
| ref/, distort/ | the images |

Triplets with fewer than six votes are left out, as in the paper (the unfiltered release holds many).

| set | is |
|---|---|
| `test`, `val` | two-alternative forced choice (2AFC): each reference ranks its own two distortions |
| `test_imagenet`, `test_no_imagenet` | the parts of `test` by where the category comes from |
| `test_retrieval`, `val_retrieval` | as in M-BEIR: each reference ranks the distortions of all splits |

2AFC is hit_rate@1; a tie counts one half, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, not_this
from clearsight.data.benchmarks.on_disk import missing_images
from clearsight.data.tables import Faults, Row, check_file, need_columns, read_rows
from clearsight.errors import DataError, UsageError
from clearsight.types import Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

VOTES = 6
"""Fewest votes of a triplet that counts."""
SETS = ("test", "test_imagenet", "test_no_imagenet", "val", "test_retrieval", "val_retrieval")

_COLUMNS = ("id", "votes", "right_vote", "ref_path", "left_path", "right_path", "split", "is_imagenet")
_IMAGENET = {"test_imagenet": "true", "test_no_imagenet": "false"}
_ALIASES = {"2afc": "test", "retrieval": "test_retrieval"}


class _Triplet(NamedTuple):
    id: str
    reference: str
    left: str
    right: str
    chosen: str
    split: str
    is_imagenet: str


def load(name: str, options: TaskOptions) -> Task:
    """The task of a set. Query ids are the triplets' ids, candidate ids the distortions' paths.

    A triplet of which an image is missing is left out whole: one alternative alone would be a hit for free.

    Args:
        options: `n` keeps the first n triplets of the set; the pool for retrieval is always whole.

    Raises:
        UsageError: no set has that name. DataError: data.csv is missing or lacks columns, an image is
            missing, a row is broken, no triplet has votes enough.
    """
    if name not in SETS:
        raise UsageError(f"NIGHTS has no set '{name}'.", do=f"There are: {', '.join(SETS)}.")
    folder = options.need_data(f"nights/{name}")
    retrieval = name.endswith("_retrieval")
    split = name.partition("_")[0]
    triplets = list(_triplets(folder, options.faults))
    asked = [t for t in triplets if t.split == split and _IMAGENET.get(name, t.is_imagenet) == t.is_imagenet]
    if not asked:
        raise DataError(
            f"No triplet of '{name}' has {VOTES} votes or more.",
            where=str(folder / "data.csv"),
            do="Fetch the whole data.csv.",
        )
    paths = [path for t in (triplets if retrieval else asked) for path in (t.left, t.right)]
    missing = missing_images([*(t.reference for t in asked), *paths], folder, options.faults)
    asked = [t for t in asked if not missing.intersection((t.reference, t.left, t.right))][: options.n]
    if not retrieval:
        paths = [path for t in asked for path in (t.left, t.right)]
    return Task(
        f"nights/{name}",
        tuple(Item(t.id, image=str(folder / t.reference)) for t in asked),
        tuple(Item(path, image=str(folder / path)) for path in dict.fromkeys(paths) if path not in missing),
        {t.id: {t.chosen: 1.0} for t in asked},
        pools={} if retrieval else {t.id: [t.left, t.right] for t in asked},
        measures=("hit_rate@5", "hit_rate@1", "hit_rate@10", "mrr", "ndcg@10")
        if retrieval
        else ("hit_rate@1",),
    )


def looks(folder: Path) -> bool:
    """Whether the folder's data.csv has the columns of triplets."""
    path = folder / "data.csv"
    if not path.is_file():
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = file.readline().strip().split(",")
    return {"ref_path", "left_path", "right_path"}.issubset(header)


def found(folder: Path) -> tuple[str, ...]:
    """All sets or none: one file holds them."""
    return SETS if looks(folder) else ()


def _triplets(folder: Path, faults: Faults) -> Iterator[_Triplet]:
    path = folder / "data.csv"
    if not path.is_file():
        raise not_this("nights", folder, "data.csv")
    check_file(path)
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path)):
        if number == 0 and row.fault is None:
            need_columns(row.values, _COLUMNS, path.name)
        try:
            triplet = _triplet(row)
            if triplet is not None and triplet.id in seen:
                raise DataError(f"The id '{triplet.id}' appears twice.", where=row.where)
        except DataError as fault:
            faults.meet(fault)
            continue
        if triplet is not None:
            seen.add(triplet.id)
            yield triplet


def _triplet(row: Row) -> _Triplet | None:
    """The triplet of a row; None where it has too few votes."""
    if row.fault is not None:
        raise DataError(row.fault, where=row.where, do="Correct the row, or fetch the file again.")
    values = {name: str(row.values[name] or "").strip() for name in _COLUMNS}
    empty = [name for name, value in values.items() if not value]
    if empty:
        raise DataError(f"The row has no {empty[0]}.", where=row.where, do="Fetch the file again.")
    try:
        votes, right = float(values["votes"]), float(values["right_vote"])
    except ValueError as fault:
        raise DataError("Votes are no numbers.", where=row.where, do="Fetch the file again.") from fault
    if votes < VOTES:
        return None
    if right not in (0.0, 1.0):
        raise DataError(
            f"right_vote is {values['right_vote']}: the votes disagree.",
            where=row.where,
            do="Triplets with six votes or more are unanimous: 0 (left) or 1 (right).",
        )
    left_right = values["left_path"], values["right_path"]
    return _Triplet(
        values["id"],
        values["ref_path"],
        *left_right,
        left_right[int(right)],
        values["split"],
        values["is_imagenet"].lower(),
    )


BENCHMARKS.add(
    "nights",
    Benchmark(
        name="nights",
        title="NIGHTS",
        sets=SETS,
        load=load,
        looks=looks,
        found=found,
        layout="data.csv with the images in ref/ and distort/ beside it.",
        source="https://data.csail.mit.edu/nights/nights.zip (https://github.com/ssundaram21/dreamsim)",
        licence="MIT",
        size="58 GB unpacked",
        measures=("hit_rate@1", "hit_rate@5"),
        groups={"2AFC": ("test_imagenet", "test_no_imagenet")},
        citation="Fu et al. 2023, DreamSim, arXiv:2306.09344",
        known_as=_ALIASES.get,
    ),
)
