"""The nearest candidates of some queries: exact through `clearsight.ranking`, or approximate by faiss.

Legend of shapes: B queries, N candidates, K depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError
from clearsight.types import Embeddings, RowSource

if TYPE_CHECKING:
    from clearsight.ranking import Prepared

SearchName: TypeAlias = Literal["exact", "approximate"]
SAMPLE = 256
"""Queries on which the recall of an approximate index is measured."""


class Search(Protocol):
    """Candidates that can be searched."""

    def nearest(self, queries: Embeddings, depth: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and cosines (B, K), best first, K = min(depth, N); row -1 where there is none."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the manifest says of the search."""
        ...


@dataclass(frozen=True, eq=False)
class ExactSearch:
    """Every candidate is compared; equal scores are ordered by row. See `clearsight.ranking.rank`."""

    candidates: RowSource
    device: str | None = None

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"search": "exact"}

    @cached_property
    def _prepared(self) -> Prepared:
        from clearsight.ranking import Prepared

        return Prepared(self.candidates, device=self.device)

    def nearest(self, queries: Embeddings, depth: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = self._prepared.rank(queries, depth)
        return found.rows_QK, found.scores_QK


class ApproximateSearch:
    """An inverted-file index of faiss: candidates in cells around centres, the nearest cells searched.

    Args:
        cells: number of cells; 4 sqrt(N) unless given.
        probed: cells searched for a query; an eighth of the cells, at most 64, unless given.
        seed: of the centres.

    Attributes:
        facts: cells, probed, and the recall of the best 10 against the exact answer, over a sample of
            candidates taken as queries.

    Raises:
        UsageError: faiss is not installed.
    """

    def __init__(
        self, candidates: RowSource, *, cells: int | None = None, probed: int | None = None, seed: int = 0
    ) -> None:
        faiss = _faiss()
        count = len(candidates)
        self.cells = max(1, min(cells or int(4 * np.sqrt(count)), count))
        self.probed = min(probed or min(64, -(-self.cells // 8)), self.cells)
        self._index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(candidates.width), candidates.width, self.cells, faiss.METRIC_INNER_PRODUCT
        )
        self._index.cp.seed = seed
        self._index.cp.min_points_per_centroid = 1
        drawn = np.random.default_rng(seed).permutation(count)[: 64 * self.cells]
        self._index.train(_unit(candidates.take(np.sort(drawn)).rows_ND))
        for start in range(0, count, _AT_ONCE):
            self._index.add(_unit(candidates.take(np.arange(start, min(start + _AT_ONCE, count))).rows_ND))
        self._index.nprobe = self.probed
        self.facts = {"search": "approximate", "cells": self.cells, "probed": self.probed}
        sample = candidates.take(np.sort(drawn[:SAMPLE]))
        exact = ExactSearch(candidates).nearest(sample, min(10, count))[0]
        near = self.nearest(sample, min(10, count))[0]
        hits = [len(np.intersect1d(a, b)) for a, b in zip(exact, near, strict=True)]
        self.facts["recall@10"] = round(sum(hits) / exact.size, 4)

    def nearest(self, queries: Embeddings, depth: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        scores, rows = self._index.search(_unit(queries.rows_ND), min(depth, self._index.ntotal))
        return rows.astype(np.int64), scores


_AT_ONCE = 16384


def open_search(name: SearchName, candidates: RowSource, *, seed: int = 0) -> Search:
    """A search over candidates.

    Raises:
        UsageError: an unknown name, or faiss is needed and not installed.
    """
    if name == "exact":
        return ExactSearch(candidates)
    if name == "approximate":
        return ApproximateSearch(candidates, seed=seed)
    raise UsageError(f"There is no search '{name}'.", where="--search", do="There are: approximate, exact.")


def _unit(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    length_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (rows_ND / np.where(length_N1 > 0, length_N1, 1)).astype(np.float32)
    return unit


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as fault:
        raise UsageError(
            "An approximate search needs faiss.", where="--search", do="Install faiss-cpu, or search exactly."
        ) from fault
    return faiss
