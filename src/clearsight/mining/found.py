"""Clusters of one data set in rows, before they have names.

Legend of shapes: G clusters, M members (anchors counted), N negatives (members without anchors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.mining.clusters import SCHEMA, Clusters
from clearsight.mining.pairs import Rows, TrainingPairs
from clearsight.names import Names

NO_POSITIVE = "no positive"


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Clusters in rows.

    Attributes:
        size_G: members of each.
        query_M, positive_M: rows of the data set's queries (-1: none) and candidates.
        cosine_M: with the anchor; 1 for the anchor itself.
        phase_G: 1 or 2.
        left_over: query row -> why it is in no cluster.
    """

    size_G: Rows
    query_M: Rows
    positive_M: Rows
    cosine_M: NDArray[np.float32]
    phase_G: NDArray[np.int8]
    left_over: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def joined(
        cls,
        anchor_G: Rows,
        positive_G: Rows,
        count_G: Rows,
        query_N: Rows,
        positive_N: Rows,
        cosine_N: NDArray[np.float32],
        phase: int,
    ) -> Found:
        """Anchors with their negatives, `count_G` of them each, one after the other."""
        at_G = np.cumsum(count_G) - count_G
        return cls(
            count_G + 1,
            np.insert(query_N, at_G, anchor_G),
            np.insert(positive_N, at_G, positive_G),
            np.insert(cosine_N, at_G, np.float32(1)),
            np.full(len(anchor_G), phase, dtype=np.int8),
        )

    @classmethod
    def of(cls, parts: Sequence[Found], left_over: Mapping[int, str]) -> Found:
        """Parts one after the other."""

        def column(name: str, kind: type) -> NDArray[Any]:
            return np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in parts)])

        return cls(
            column("size_G", np.int64),
            column("query_M", np.int64),
            column("positive_M", np.int64),
            column("cosine_M", np.float32),
            column("phase_G", np.int8),
            left_over,
        )


def name_clusters(found: Sequence[tuple[TrainingPairs, Found]]) -> Clusters:
    """The clusters of several data sets under their names, with the queries left over."""
    import pyarrow as pa

    members, rest, first = [], [], 0
    for pairs, one in found:
        queries, candidates = Names.of(pairs.query_ids).column, Names.of(pairs.candidate_ids).column
        left = {int(row): NO_POSITIVE for row in np.flatnonzero(pairs.positive_Q < 0)} | dict(one.left_over)
        rows = np.array(sorted(left), dtype=np.int64)
        cluster_M = np.repeat(np.arange(len(one.size_G)), one.size_G)
        place_M = np.arange(len(cluster_M)) - np.repeat(np.cumsum(one.size_G) - one.size_G, one.size_G)
        members.append(
            pa.table(
                {
                    "dataset": pa.array([pairs.dataset] * len(cluster_M), pa.string()),
                    "cluster": first + cluster_M,
                    "place": pa.array(place_M, pa.int32()),
                    "query": queries.take(pa.array(one.query_M, mask=one.query_M < 0)),
                    "positive": candidates.take(one.positive_M),
                    "similarity": one.cosine_M,
                    "phase": np.repeat(one.phase_G, one.size_G),
                    "reason": pa.nulls(len(cluster_M), pa.string()),
                }
            ).cast(SCHEMA)
        )
        own = pairs.positive_Q[rows]
        rest.append(
            pa.table(
                {
                    "dataset": pa.array([pairs.dataset] * len(rows), pa.string()),
                    "cluster": pa.nulls(len(rows), pa.int64()),
                    "place": pa.array(np.zeros(len(rows)), pa.int32()),
                    "query": queries.take(rows),
                    "positive": candidates.take(pa.array(own, mask=own < 0)),
                    "similarity": pa.nulls(len(rows), pa.float32()),
                    "phase": pa.array(np.zeros(len(rows)), pa.int8()),
                    "reason": pa.array([left[row] for row in rows.tolist()], pa.string()),
                }
            ).cast(SCHEMA)
        )
        first += len(one.size_G)
    return Clusters(pa.concat_tables([*members, *rest]).combine_chunks())
