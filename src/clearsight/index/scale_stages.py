"""What runs on the machines of a cluster, batch by batch: rows chosen, named, embedded, written.

All of it is of tables, so that any engine that maps over tables can run it; nothing here knows Ray but the
file writing, which is lance-ray's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clearsight.index.batch import TOLD
from clearsight.store.keys import KeyIndex, digests
from clearsight.store.lance_append import Destination

WRITTEN = pa.schema(
    {
        "files": pa.list_(pa.string()),
        "ids": pa.list_(pa.string()),
        "faults": pa.list_(pa.struct({"id": pa.string(), "why": pa.string()})),
        "cut": pa.list_(pa.struct({"id": pa.string(), "tokens": pa.int64()})),
    }
)
"""One row for a batch of rows: its Lance files as JSON, the ids in them, and what has to be told."""

_RETRIES = 6


@dataclass(frozen=True)
class Columns:
    """From a table of any columns to a table of items.

    Attributes:
        names: house's name -> the table's column.
        metadata: metadata columns of the store (with `META`) -> the table's column.
        base: what paths of images start from.
    """

    names: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)
    base: str = ""

    def __call__(self, batch: pa.Table) -> pa.Table:
        columns = {name: batch.column(own) for name, own in self.names.items()}
        columns["id"] = columns["id"].cast(pa.string())
        for name in ("text", "instruction"):
            if name in columns:
                columns[name] = columns[name].cast(pa.string())
        image = columns.pop("image", None)
        if image is not None:
            columns |= self._pictures(image)
        return pa.table({**columns, **{name: batch.column(own) for name, own in self.metadata.items()}})

    def _pictures(self, image: pa.ChunkedArray) -> dict[str, Any]:
        kind = image.type
        path = None
        if pa.types.is_struct(kind):  # as the `datasets` library keeps them
            inner = [kind.field(n).name for n in range(kind.num_fields)]
            path = pc.struct_field(image, "path") if "path" in inner else None
            image = pc.struct_field(image, "bytes") if "bytes" in inner else pa.nulls(len(image), pa.binary())
            if path is not None:  # where there are bytes the path is their old home
                path = pc.if_else(pc.is_valid(image), pa.scalar(None, pa.string()), path.cast(pa.string()))
        elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            image, path = None, image.cast(pa.string())
        found: dict[str, Any] = {} if image is None else {"image": image.cast(pa.binary())}
        if path is not None:
            found["image_file"] = pc.binary_join_element_wise(self.base, path, "/") if self.base else path
        return found


@dataclass(frozen=True)
class Chosen:
    """The rows of a table that are to be embedded.

    Attributes:
        known: keys are ids that are there already; a reference into the engine's memory.
        below: only ids whose digest lies below: the same part of a collection each time, spread evenly.
    """

    known: Any = None
    below: float = 1.0

    def __call__(self, batch: pa.Table) -> pa.Table:
        own_N = digests(batch.column("id").cast(pa.string()).to_pylist())
        wanted_N = own_N["high"] < self.below * 2.0**64
        if self.known is not None:
            import ray

            index: KeyIndex = ray.get(self.known)
            wanted_N &= index.find(own_N) < 0
        return batch.filter(pa.array(wanted_N))


def written(rows: pa.Table, to: Destination) -> pa.Table:
    """Write rows that came of `EmbedBatch` into files of a table, and say which: one row of `WRITTEN`.

    Raises:
        DataError: rows that the table does not take. OSError: the storage refuses.
    """
    from lance_ray.fragment import write_fragment

    good = rows.filter(pc.is_null(rows.column("fault")))
    files: list[str] = []
    if len(good):
        kept = to.rows(good.drop_columns(list(TOLD)))
        found = write_fragment(
            [kept],
            to.uri,
            schema=kept.schema,
            data_storage_version=to.version,
            storage_options=dict(to.options) or None,
            retry_params={
                "description": "write files of vectors",
                "match": ["LanceError(IO)"],
                "max_attempts": _RETRIES,
                "max_backoff_s": 32,
            },
        )
        files = [json.dumps(fragment.to_json()) for fragment, _ in found]
    return pa.Table.from_pylist([{"files": files, **told(rows)}], schema=WRITTEN)


def told(rows: pa.Table) -> dict[str, Any]:
    """Of rows that came of `EmbedBatch`: the ids of the good ones, why the others failed, what was cut."""
    names, why = rows.column("id").to_pylist(), rows.column("fault").to_pylist()
    cut = rows.column("cut").to_pylist()
    return {
        "ids": [name for name, fault in zip(names, why, strict=True) if fault is None],
        "faults": [{"id": name, "why": fault} for name, fault in zip(names, why, strict=True) if fault],
        "cut": [{"id": name, "tokens": tokens} for name, tokens in zip(names, cut, strict=True) if tokens],
    }
