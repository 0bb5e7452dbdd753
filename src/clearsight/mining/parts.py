"""Clusters of several files as one."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from clearsight.mining.clusters import Clusters


def join_clusters(parts: Sequence[Clusters]) -> Clusters:
    """Clusters of several data sets, numbered on; queries left over last. The manifests are not kept."""
    heads, rests, first = [], [], 0
    for part in parts:
        total = int(part.starts_G1[-1])
        head = part.table.slice(0, total)
        place = head.schema.get_field_index("cluster")
        number = pc.add(head.column("cluster"), pa.scalar(first, pa.int64()))
        heads.append(head.set_column(place, head.schema.field(place), number))
        rests.append(part.table.slice(total))
        first += len(part)
    return Clusters(pa.concat_tables([*heads, *rests]).combine_chunks())
