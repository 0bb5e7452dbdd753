"""Clusters of training pairs: what mining writes and training reads.

One parquet file, ids in place of items; `write_clusters` and `read_clusters` are its two ends. A row is one
member of one cluster; the rows of a cluster are neighbours.

| column | type | holds |
|---|---|---|
| dataset | string | the data set the pair is from; ids are unique within it |
| cluster | int64, null | number of the cluster, from 0, ascending, without gaps; null: a query left over |
| place | int32 | place in the cluster: 0 is the anchor, then ascending similarity |
| query | string, null | id of the query; null: a negative that stands alone, without a query of its own |
| positive | string, null | id of the candidate: the query's positive; null only for a query left over |
| similarity | float32, null | cosine with the anchor: of the query, where there is none of the candidate |
| phase | int8 | 1 or 2: when SaHa made the cluster (1 for other strategies); 0: left over |
| reason | string, null | why a query is left over |

Rows of queries left over come last. The schema's metadata entry `clearsight.clusters` is JSON: `version` and
`manifest`: what made the clusters (model, prompt, pooling, strategy, seed, negatives, pool ...).

In training every member with a query is a pair of its own: all positives of a batch are its negatives, except
those equal to its own positive. A cluster may be smaller than others, and may hold an anchor alone.

Legend of shapes: G clusters, M members.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.files import to_plain, write_atomic

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("cluster", pa.int64()),
        ("place", pa.int32()),
        ("query", pa.string()),
        ("positive", pa.string()),
        ("similarity", pa.float32()),
        ("phase", pa.int8()),
        ("reason", pa.string()),
    ]
)
KEY = b"clearsight.clusters"
"""Entry of the schema's metadata that holds version and manifest as JSON."""
VERSION = 1
_MAKE = "Write clusters with `clearsight mine`."


class Member(NamedTuple):
    """A pair in a cluster; the anchor is the first. See the table on top of this module."""

    query: str | None
    positive: str
    similarity: float


class LeftOver(NamedTuple):
    """A query in no cluster, and why."""

    dataset: str
    query: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Clusters of training pairs, and the queries left over.

    Attributes:
        table: Arrow table of the schema on top of this module.
        manifest: what made them; read from the file, empty until they are written.

    Raises:
        DataError: a column is missing or of another type, the clusters are not numbered from 0 in order, the
            members of one not placed from 0 anchor first and by ascending similarity, or a member lacks its
            candidate or the anchor its query.
    """

    table: pa.Table
    manifest: Mapping[str, Any] = field(default_factory=dict)
    starts_G1: NDArray[np.int64] = field(init=False)
    """Cluster g holds the rows starts_G1[g] to starts_G1[g + 1] of the table."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts_G1", _checked(self.table))

    def __len__(self) -> int:
        return len(self.starts_G1) - 1

    def __getitem__(self, cluster: int) -> tuple[Member, ...]:
        """The members of a cluster, the anchor first."""
        if not 0 <= cluster < len(self):
            raise IndexError(cluster)
        return next(self.members(cluster, cluster + 1))

    def __iter__(self) -> Iterator[tuple[Member, ...]]:
        return self.members()

    def members(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Member, ...]]:
        """The clusters from `start` to `stop`, a block of rows at a time."""
        last = len(self) if stop is None else min(stop, len(self))
        for first in range(start, last, _AT_ONCE):
            end = min(first + _AT_ONCE, last)
            low, high = int(self.starts_G1[first]), int(self.starts_G1[end])
            part = self.table.slice(low, high - low)
            columns = (part.column(name).to_pylist() for name in ("query", "positive", "similarity"))
            rows = [Member(*row) for row in zip(*columns, strict=True)]
            for g in range(first, end):
                yield tuple(rows[self.starts_G1[g] - low : self.starts_G1[g + 1] - low])

    @property
    def sizes_G(self) -> NDArray[np.int64]:
        """Members of each cluster, the anchor counted."""
        return np.diff(self.starts_G1)

    @property
    def phase_G(self) -> NDArray[np.int8]:
        """The phase each cluster was made in."""
        phase: NDArray[np.int8] = self.table.column("phase").to_numpy()[self.starts_G1[:-1]]
        return phase

    @property
    def dataset_G(self) -> tuple[str, ...]:
        """The data set of each cluster."""
        return tuple(self.table.column("dataset").take(self.starts_G1[:-1]).to_pylist())

    @property
    def left_over(self) -> tuple[LeftOver, ...]:
        """The queries that are in no cluster."""
        part = self.table.slice(int(self.starts_G1[-1]))
        columns = (part.column(name).to_pylist() for name in ("dataset", "query", "reason"))
        return tuple(LeftOver(*row) for row in zip(*columns, strict=True))


_AT_ONCE = 4096


def write_clusters(path: str | os.PathLike[str], clusters: Clusters, manifest: Mapping[str, Any]) -> None:
    """Write clusters and their manifest to one parquet file, whole or not at all."""
    import pyarrow.parquet as pq

    entry = json.dumps({"version": VERSION, "manifest": to_plain(manifest)}, ensure_ascii=False)
    file = io.BytesIO()
    pq.write_table(clusters.table.replace_schema_metadata({KEY: entry.encode()}), file, compression="zstd")
    write_atomic(path, file.getvalue())


def read_clusters(path: str | os.PathLike[str]) -> Clusters:
    """The clusters of a file, with their manifest.

    Raises:
        DataError: no such file, no parquet, no file of clusters, of a newer version, or broken inside.
    """
    import pyarrow.parquet as pq

    place = Path(path)
    if not place.is_file():
        raise DataError("There is no such file of clusters.", where=str(place), do=_MAKE)
    try:
        with pq.ParquetFile(place) as file:
            table = file.read()
    except (OSError, pa.ArrowException) as fault:
        raise DataError(f"This is no parquet file ({fault}).", where=str(place), do=_MAKE) from fault
    entry = (table.schema.metadata or {}).get(KEY)
    if entry is None:
        raise DataError(
            f"This parquet file holds no clusters; its columns are {', '.join(table.column_names)}.",
            where=str(place),
            do=_MAKE,
        )
    written = json.loads(entry)
    if written["version"] != VERSION:
        raise DataError(
            f"The clusters are of version {written['version']}; this version reads {VERSION}.",
            where=str(place),
            do="Mine again, or use the version that wrote them.",
        )
    try:
        return Clusters(table.replace_schema_metadata(None), written["manifest"])
    except DataError as fault:
        raise DataError(fault.what, where=str(place), do=fault.do) from None


def _checked(table: pa.Table) -> NDArray[np.int64]:
    """The offsets of the clusters, once everything the class promises is seen to hold."""
    wrong = [
        f"'{want.name}' ({want.type})"
        for want in SCHEMA
        if want.name not in table.column_names or table.schema.field(want.name).type != want.type
    ]
    if wrong:
        raise DataError(f"Clusters need the columns {', '.join(wrong)}.", do=_MAKE)
    total = table.num_rows - table.column("cluster").null_count
    head, rest = table.slice(0, total), table.slice(total)
    if head.column("cluster").null_count:
        raise DataError("Queries left over do not stand at the end.", do=_MAKE)
    cluster_M, place_M = (head.column(name).to_numpy() for name in ("cluster", "place"))
    starts_G = np.flatnonzero(place_M == 0)
    size_G = np.diff(np.append(starts_G, total))
    number_M = np.repeat(np.arange(len(starts_G)), size_G)
    if total and (not len(starts_G) or starts_G[0]):
        raise DataError("The first cluster has no anchor (place 0).", do=_MAKE)
    if not np.array_equal(cluster_M, number_M):
        raise DataError("The clusters are not numbered from 0 in order.", do=_MAKE)
    if not np.array_equal(place_M, np.arange(total) - np.repeat(starts_G, size_G)):
        raise DataError("The places in a cluster do not count from 0.", do=_MAKE)
    for name in ("positive", "dataset", "similarity", "phase"):
        if head.column(name).null_count:
            raise DataError(f"A member has no {name}.", do=_MAKE)
    if pc.any(pc.is_null(head.column("query").take(starts_G))).as_py():
        raise DataError("An anchor has no query.", do=_MAKE)
    if rest.column("query").null_count or rest.column("reason").null_count:
        raise DataError("A query left over lacks its id or its reason.", do=_MAKE)
    similarity_M = head.column("similarity").to_numpy()
    follows_M = place_M[1:] > 1
    if (similarity_M[1:][follows_M] < similarity_M[:-1][follows_M]).any():
        raise DataError("The members of a cluster do not ascend in similarity to its anchor.", do=_MAKE)
    return np.append(starts_G, total).astype(np.int64)
