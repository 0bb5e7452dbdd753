"""From clusters of ids to the items of a step.

Legend of shapes: M members.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.mining.clusters import Clusters
from clearsight.names import missing
from clearsight.types import ROLES, Item, Modality, Role, Task, ids_of

_SHOWN = 3
_OTHER = "Give the data that the clusters were mined from, or mine again."


class Place(NamedTuple):
    """One side's item: its data set, "query" or "candidate", and its row there."""

    dataset: int
    side: Role
    row: int


class Member(NamedTuple):
    """A pair of a step; `query` is None for a negative that stands alone."""

    query: Place | None
    positive: Place


@dataclass(frozen=True)
class Asked:
    """An item as it is worded in training: as its task's evaluation words it."""

    item: Item
    role: Role
    counterpart: Modality


class Pairs:
    """Clusters and the tasks that their ids refer to.

    Args:
        tasks: by the data set's name in the clusters.

    Raises:
        DataError: a data set, query or candidate that the tasks lack, or a pair that its task does not hold
            relevant: the clusters were mined from other data.
    """

    def __init__(self, clusters: Clusters, tasks: Mapping[str, Task]) -> None:
        self.clusters, self.names = clusters, tuple(tasks)
        self.tasks = tuple(tasks.values())
        unknown = sorted({*clusters.dataset_G} - {*self.names})
        if unknown:
            raise DataError(
                f"The clusters name the data set '{unknown[0]}', which was not given.",
                where=", ".join(self.names),
                do="Give the data of every set that was mined.",
            )
        self._ids = [{side: ids_of(items) for side, items in _sides(task)} for task in self.tasks]
        self._rows = [
            {side: {name: row for row, name in enumerate(ids)} for side, ids in sides.items()}
            for sides in self._ids
        ]
        self._kinds = [(_modality(task.queries), _modality(task.candidates)) for task in self.tasks]
        self._sets_G = [self.names.index(name) for name in clusters.dataset_G]
        self._check()

    @property
    def sets_G(self) -> Sequence[str]:
        """The data set of each cluster."""
        return self.clusters.dataset_G

    def members(self, cluster: int) -> Iterator[Member]:
        """The pairs of a cluster, the anchor first."""
        dataset = self._sets_G[cluster]
        rows = self._rows[dataset]
        for one in self.clusters[cluster]:
            query = None if one.query is None else Place(dataset, "query", rows["query"][one.query])
            yield Member(query, Place(dataset, "candidate", rows["candidate"][one.positive]))

    def asked(self, place: Place) -> Asked:
        """The item at a place, and how it is worded."""
        task, (query_kind, candidate_kind) = self.tasks[place.dataset], self._kinds[place.dataset]
        if place.side == "query":
            return Asked(task.queries[place.row], "query", candidate_kind)
        return Asked(task.candidates[place.row], task.candidate_role, query_kind)

    def known(self, queries: Sequence[Place], candidates: Sequence[Place]) -> NDArray[np.bool_]:
        """(queries, candidates): which candidates the data says are no negatives of a query: relevant to it,
        or excluded for it."""
        table = np.zeros((len(queries), len(candidates)), bool)
        columns: dict[tuple[int, str], list[int]] = {}
        for column, place in enumerate(candidates):
            columns.setdefault((place.dataset, self._id(place)), []).append(column)
        for row, place in enumerate(queries):
            task, name = self.tasks[place.dataset], self._id(place)
            for candidate in (*self._relevant(place.dataset, name), *task.excluded.get(name, ())):
                table[row, columns.get((place.dataset, candidate), [])] = True
        return table

    def _relevant(self, dataset: int, query: str) -> Iterator[str]:
        grades = self.tasks[dataset].relevance.get(query, {})
        return (name for name, grade in grades.items() if grade > 0)

    def _id(self, place: Place) -> str:
        return self._ids[place.dataset][place.side][place.row]

    def _check(self) -> None:
        table = self.clusters.table.slice(0, int(self.clusters.starts_G1[-1]))
        set_M, query_M, positive_M = (table.column(n).to_pylist() for n in ("dataset", "query", "positive"))
        members: dict[str, list[int]] = {}
        for i, name in enumerate(set_M):
            members.setdefault(name, []).append(i)
        for name, here in members.items():
            dataset = self.names.index(name)
            for side, column in zip(ROLES, (query_M, positive_M), strict=True):
                used = tuple(dict.fromkeys(column[i] for i in here if column[i] is not None))
                lost = missing(used, set(self._rows[dataset][side]))
                if lost:
                    shown = ", ".join(sorted(lost)[:_SHOWN])
                    raise DataError(
                        f"{len(lost):,} of {len(used):,} {side} ids of the clusters are not in '{name}'.",
                        where=shown,
                        do=_OTHER,
                    )
            for i in here:
                query, positive = query_M[i], positive_M[i]
                if query is not None and positive not in set(self._relevant(dataset, query)):
                    raise DataError(
                        f"In '{name}', '{positive}' is not relevant to '{query}'.", where=query, do=_OTHER
                    )


def _sides(task: Task) -> tuple[tuple[Role, Sequence[Item]], ...]:
    return ("query", task.queries), ("candidate", task.candidates)


def _modality(items: Sequence[Item]) -> Modality:
    """The modality of a side: that of its first item that has an image, else text."""
    return next((item.modality for item in items if item.image is not None), "text")
