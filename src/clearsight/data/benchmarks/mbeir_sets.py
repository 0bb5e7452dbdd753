"""M-BEIR's facts as rows: datasets, tasks, sets, and every name they go by.

A task has two numbers: the release counts from 0 and leaves out 5 (image -> image+text); the paper's tables
count the remaining eight from 1. A set's own name carries the release's number, as its files do:

| words | release | paper | sets |
|---|---|---|---|
| text -> image | task0 | 1 | VisualNews, MSCOCO, Fashion200K |
| text -> text | task1 | 2 | WebQA |
| text -> image+text | task2 | 3 | EDIS, WebQA |
| image -> text | task3 | 4 | VisualNews, MSCOCO, Fashion200K |
| image -> image | task4 | 5 | NIGHTS |
| image+text -> text | task6 | 6 | OVEN, InfoSeek |
| image+text -> image | task7 | 7 | FashionIQ, CIRR |
| image+text -> image+text | task8 | 8 | OVEN, InfoSeek |

`mscoco_task0` is also known as `mscoco_t2i` (words) and `mscoco_paper1` (the paper's number); a data set with
one task also by its bare name (`cirr`). After the name may follow, in this order:

| suffix | means |
|---|---|
| `-reference` | FashionIQ, CIRR: the query's own image is left out of the pool (the release leaves it in) |
| `@global` | the pool of all sets together (5.6 million) instead of the set's own |
| `@val` | the validation split instead of test |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from clearsight.types import Modality


class TaskKind(NamedTuple):
    """A row of the table on top; `short` as in `mscoco_t2i`."""

    release: int
    paper: int
    short: str
    query: Modality
    candidate: Modality

    @property
    def words(self) -> str:
        return f"{self.query} -> {self.candidate} (task{self.release}; the paper's task {self.paper})"


TASK_KINDS = {
    row.release: row
    for row in (
        TaskKind(0, 1, "t2i", "text", "image"),
        TaskKind(1, 2, "t2t", "text", "text"),
        TaskKind(2, 3, "t2it", "text", "image+text"),
        TaskKind(3, 4, "i2t", "image", "text"),
        TaskKind(4, 5, "i2i", "image", "image"),
        TaskKind(6, 6, "it2t", "image+text", "text"),
        TaskKind(7, 7, "it2i", "image+text", "image"),
        TaskKind(8, 8, "it2it", "image+text", "image+text"),
    )
}

CUTS = {"fashion200k": (10, 20, 50), "fashioniq": (10, 20, 50)}
"""Cut-offs of the release's hit rates, the headline first, where they are not (5, 1, 10)."""

WITH_REFERENCE = ("fashioniq_task7", "cirr_task7")
"""Sets whose queries hold an image of their own pool."""

_DATASETS = (
    "visualnews",
    "fashion200k",
    "webqa",
    "edis",
    "nights",
    "oven",
    "infoseek",
    "fashioniq",
    "cirr",
    "mscoco",
)
DATASET_IDS = {name: number for number, name in enumerate(_DATASETS)}
"""The number before the colon of a query's or a candidate's id."""

BASES = (
    "visualnews_task0",
    "mscoco_task0",
    "fashion200k_task0",
    "webqa_task1",
    "edis_task2",
    "webqa_task2",
    "visualnews_task3",
    "mscoco_task3",
    "fashion200k_task3",
    "nights_task4",
    "oven_task6",
    "infoseek_task6",
    "fashioniq_task7",
    "cirr_task7",
    "oven_task8",
    "infoseek_task8",
)
"""The sixteen of the paper's tables, in their order."""

_MODIFIERS = re.compile(r"(?P<base>[^-+@]+)(?P<reference>[-+]reference)?(?P<pool>@global)?(?P<split>@val)?")


@dataclass(frozen=True, slots=True)
class MbeirSet:
    """What a set's name says.

    Attributes:
        base: dataset and task in the names of the release's files, such as "cirr_task7".
        reference: whether the query's own image stays in the pool.
        union: whether the pool is the global one.
        split: "test" or "val".
    """

    base: str
    reference: bool = True
    union: bool = False
    split: str = "test"

    @property
    def dataset(self) -> str:
        return self.base.rpartition("_task")[0]

    @property
    def kind(self) -> TaskKind:
        return TASK_KINDS[int(self.base.rpartition("_task")[2])]

    @property
    def name(self) -> str:
        return (
            self.base
            + ("" if self.reference else "-reference")
            + ("@global" if self.union else "")
            + ("" if self.split == "test" else f"@{self.split}")
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """The release's hit rates, headline first, and the measures that tell more than a hit."""
        cuts = CUTS.get(self.dataset, (5, 1, 10))
        return (*(f"hit_rate@{cut}" for cut in cuts), f"recall@{cuts[0]}", "mrr", "ndcg@10", "map")


def find_set(name: str) -> MbeirSet | None:
    """The set that a name of the kinds on top of this module means; None for none, or for several."""
    parts = _MODIFIERS.fullmatch(name.lower())
    if parts is None or (base := _ALIASES.get(parts["base"])) is None:
        return None
    if parts["reference"] and base not in WITH_REFERENCE:
        return None
    return MbeirSet(
        base,
        reference=parts["reference"] != "-reference",
        union=parts["pool"] is not None,
        split="val" if parts["split"] else "test",
    )


def _aliases() -> dict[str, str]:
    aliases = {}
    for base in BASES:
        one = MbeirSet(base)
        aliases[base] = aliases[f"{one.dataset}_{one.kind.short}"] = base
        aliases[f"{one.dataset}_paper{one.kind.paper}"] = base
        if sum(other.startswith(f"{one.dataset}_") for other in BASES) == 1:
            aliases[one.dataset] = base
    return aliases


_ALIASES = _aliases()

LOCAL = tuple(
    MbeirSet(base, reference)
    for base in BASES
    for reference in ((True, False) if base in WITH_REFERENCE else (True,))
)
GLOBAL = tuple(MbeirSet(one.base, one.reference, union=True) for one in LOCAL)


def averages() -> dict[str, tuple[str, ...]]:
    """Name of an average -> its sets: by task, by data set, and all, over each kind of pool."""
    groups: dict[str, list[str]] = {}
    for base in BASES:
        one = MbeirSet(base)
        for union, pool in ((False, "local pool"), (True, "global pool")):
            name = MbeirSet(base, union=union).name
            for group in (one.kind.words, one.dataset, "all"):
                groups.setdefault(f"{group}, {pool}", []).append(name)
    return {group: tuple(sets) for group, sets in groups.items()}
