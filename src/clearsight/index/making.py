"""From entries to rows of a store, chunk by chunk: what is known keeps its vector, the rest is embedded.

Legend of shapes: N rows, D width of raw vectors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import ItemError
from clearsight.index.fitted import Fitted
from clearsight.index.folder import Entry
from clearsight.index.metadata import arrow_type
from clearsight.index.pictures import thumbnail_of
from clearsight.index.reading import Embedded, Ready, read, vectors_of
from clearsight.index.statistics import matrix
from clearsight.progress import Progress
from clearsight.store.door import META

if TYPE_CHECKING:
    import pyarrow as pa

    from clearsight.data.tables import Faults
    from clearsight.models.encoder import Encoder
    from clearsight.store.door import VectorStore, View

CHUNK_SECONDS = 10.0
"""A chunk is committed about so often: what a kill takes."""
FIRST_CHUNK, MOST_CHUNK = 32, 1024
CHUNK_BYTES = 64 << 20


@dataclass
class Done:
    """What came of entries, by numbers; `moved`: of the new ones, those whose content was known."""

    new: int = 0
    changed: int = 0
    same: int = 0
    moved: int = 0
    gone: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)


class Maker:
    """Puts entries into a store.

    Args:
        fitted: the repair of that name.
    """

    def __init__(
        self,
        store: VectorStore,
        encoder: Encoder,
        embedded: Embedded,
        fitted: Callable[[str], Fitted],
        faults: Faults,
    ) -> None:
        self.store, self.encoder, self.embedded, self.fitted = store, encoder, embedded, fitted
        self.faults, self.done = faults, Done()

    def put(self, entries: Iterable[Entry], progress: Progress, total: int | None) -> Done:
        """Read, embed and commit the entries; what was committed stays, whatever comes after.

        Raises:
            ItemError: an entry that cannot be read or embedded, unless the faults are skipped.
            DataError: the store refuses.
        """
        progress.start(total, "indexing")
        try:
            for chunk, met in self._chunks(entries):
                if chunk:
                    self._commit(chunk)
                progress.advance(met)
        finally:
            progress.close()
        return self.done

    def _chunks(self, entries: Iterable[Entry]) -> Iterator[tuple[list[Ready], int]]:
        """Entries that were read, so many that a chunk takes about `CHUNK_SECONDS`, and how many were met."""
        size, started = FIRST_CHUNK, time.monotonic()
        chunk: list[Ready] = []
        met = held = 0
        for entry in entries:
            met += 1
            try:
                ready = read(entry, self.embedded)
            except ItemError as fault:
                self.refuse(entry.id, fault)
                continue
            chunk.append(ready)
            held += ready.nbytes
            if len(chunk) >= size or held >= CHUNK_BYTES:
                yield chunk, met
                took = max(time.monotonic() - started, 1e-3)
                size = int(min(MOST_CHUNK, max(8, len(chunk) * CHUNK_SECONDS / took, 1)))
                chunk, met, held, started = [], 0, 0, time.monotonic()
        yield chunk, met

    def refuse(self, item_id: str, fault: ItemError) -> None:
        """Raise the fault, or note it."""
        self.faults.meet(fault)
        self.done.skipped[item_id] = f"{fault.what} {fault.do or ''}".strip()

    def _commit(self, chunk: list[Ready]) -> None:
        view = self.store.view()
        holder = _holders(view, {ready.key for ready in chunk})
        old = _rows(view, {*holder.values(), *(ready.entry.id for ready in chunk)})
        raw_of = self._embed([ready for ready in chunk if ready.key not in holder])
        rows: list[dict[str, Any]] = []
        for ready in chunk:
            known = old[holder[ready.key]] if ready.key in holder else None
            raw_D = raw_of.get(ready.key) if known is None else known["raw"]
            if raw_D is None:
                continue  # refused by the model, and noted
            try:
                row = self._row(ready, raw_D, known)
            except ItemError as fault:
                self.refuse(ready.entry.id, fault)
                continue
            if self._counted(row, old.get(ready.entry.id), copied=known is not None):
                rows.append(row)
        if rows:
            self.store.add(self._table(rows, view))

    def _embed(self, fresh: list[Ready]) -> dict[str, NDArray[np.float32]]:
        """Content key -> raw vector, each content embedded once."""
        raw_of, refused, cut = vectors_of(fresh, self.encoder)
        for ready in fresh:
            if ready.key in refused:
                self.refuse(ready.entry.id, ItemError(refused[ready.key], where=ready.entry.id))
            elif ready.key in cut:
                self.done.cut[ready.entry.id] = cut[ready.key]
        return raw_of

    def _row(
        self, ready: Ready, raw_D: NDArray[np.float32], known: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        item, entry = ready.item, ready.entry
        small = None
        if item.image is not None:
            pictured = known is not None and "image" in known["modality"] and known["thumbnail"] is not None
            small = known["thumbnail"] if known is not None and pictured else None
            small = thumbnail_of(item.image, item_id=item.id) if small is None else small
        return {
            "id": entry.id,
            "key": ready.key,
            "source": entry.source,
            "stamp": ready.stamp,
            "modality": ready.embedded.modality,
            "text": item.text,
            "thumbnail": small,
            "raw": raw_D,
            **{META + name: value for name, value in entry.metadata.items()},
        }

    def _counted(self, row: dict[str, Any], before: Mapping[str, Any] | None, *, copied: bool) -> bool:
        """Whether the row says anything new; counted either way."""
        if before is None:
            self.done.new += 1
            self.done.moved += copied
            return True
        names = {*row, *(name for name in before if name.startswith(META))} - {"raw", "thumbnail"}
        if all(row.get(name) == before.get(name) for name in names):
            self.done.same += 1
            return False
        if row["key"] == before["key"] and _said(row) == _said(before):
            self.done.same += 1  # touched: the stamp alone is new
            return True
        self.done.changed += 1
        return True

    def _table(self, rows: list[dict[str, Any]], view: View) -> pa.Table:
        import pyarrow as pa

        from clearsight.index.metadata import typed_columns

        raw_ND = np.stack([row["raw"] for row in rows]).astype(np.float32)
        modality_N = np.array([row["modality"] for row in rows], dtype=str)
        vector_NE = self.fitted(view.repair).rows(raw_ND, modality_N)
        columns: dict[str, pa.Array] = {}
        for name in ("id", "key", "source", "stamp", "modality", "text"):
            columns[name] = pa.array([row[name] for row in rows], pa.string())
        columns["thumbnail"] = pa.array([row["thumbnail"] for row in rows], pa.binary())
        columns["raw"], columns["vector"] = fixed(raw_ND), fixed(vector_NE)
        metadata = {name for row in rows for name in row if name.startswith(META)}
        told = typed_columns({name: row.get(name) for name in metadata} for row in rows)
        for name, kind in told.items():
            known = view.fields.get(name.removeprefix(META))
            values = [row.get(name) for row in rows]
            columns[name] = pa.array(values, arrow_type(kind) if known is None else known)
        return pa.table(columns)


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row a person sees."""
    told = {name: row.get(name) for name in ("text", "source", "modality")}
    return told | {name: value for name, value in row.items() if name.startswith(META) and value is not None}


def fixed(rows_ND: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """Vectors as a column."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(rows_ND, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows_ND.shape[1])


def _holders(view: View, keys: set[str]) -> dict[str, str]:
    """Content key -> id of a row that holds it."""
    found: dict[str, str] = {}
    for batch in view.read(["key", "id"], keys=sorted(keys)):
        found.update(zip(batch.column("key").to_pylist(), batch.column("id").to_pylist(), strict=True))
    return found


def _rows(view: View, ids: set[str]) -> dict[str, dict[str, Any]]:
    """Rows that are there, without their repaired vectors."""
    from clearsight.index.metadata import columns_of

    columns = [
        "id",
        "key",
        "source",
        "stamp",
        "modality",
        "text",
        "thumbnail",
        "raw",
        *columns_of(view.fields),
    ]
    found: dict[str, dict[str, Any]] = {}
    for batch in view.read(columns, ids=sorted(ids)):
        raw_ND = matrix(batch.column("raw"))
        plain = batch.drop_columns(["raw"]).to_pylist()
        found.update((row["id"], {**row, "raw": raw_D}) for row, raw_D in zip(plain, raw_ND, strict=True))
    return found
