"""A table of items in, a table of rows out: one batch of an index, the same under every engine.

Columns of the table that comes in (all but `id` may be missing or null; an item needs a text or an image):

| column | holds |
|---|---|
| id | string: unique in the index |
| text, instruction | string |
| image | encoded bytes |
| text_file, image_file | string: paths, read where the batch is embedded |
| source, stamp | string: as in the store |
| meta_... | metadata |

As many rows go out, in the same order, whatever fails: an engine that does a batch again after a worker died
finds each row where it was.

Legend of shapes: N rows, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.index.fitted import Fitted
from clearsight.index.folder import Entry
from clearsight.index.metadata import arrow_type
from clearsight.index.pictures import thumbnail_of
from clearsight.index.reading import Embedded, Ready, read, vectors_of
from clearsight.index.settings import Settings
from clearsight.models.batching import ahead
from clearsight.store.door import COLUMNS, META
from clearsight.types import unique_ids

if TYPE_CHECKING:
    from clearsight.models.encoder import Encoder

ITEM_COLUMNS = ("id", "source", "stamp", "text", "text_file", "image", "image_file", "instruction")
TOLD = {"fault": pa.string(), "cut": pa.int64()}
"""Columns beside those of the store: why an item has no row, and how many tokens of its text were cut."""


@dataclass(frozen=True, eq=False)
class BatchSettings:
    """Everything that makes the rows of an index, as values that can be sent to another machine.

    Attributes:
        index: what the index is made with.
        fitted: the repair in force.
        model: where the model lies on the machines that embed, if not where the index has it from.
        device: None takes a GPU where there is one.
    """

    index: Settings
    fitted: Fitted = field(default_factory=Fitted)
    model: str | None = None
    device: str | None = None
    trust_remote_code: bool = False


class EmbedBatch:
    """Embeds tables of items; the model is loaded once, when it is made.

    Args:
        settings: what the rows are made with.
        encoder: in place of loading the model.

    Raises:
        ModelError: the model cannot be loaded. DataError: it gives other vectors than the index holds.
    """

    def __init__(self, settings: BatchSettings, encoder: Encoder | None = None) -> None:
        from clearsight.index import model

        self.settings = settings
        wanted = settings.index
        if encoder is None:
            encoder = model.encoder_of(
                settings.model or wanted.model,
                device=settings.device,
                trust_remote_code=settings.trust_remote_code,
                **wanted.encoder,
            )
        model.same_vectors(encoder, wanted, Path(wanted.model))
        self._encoder = replace(encoder, on_error="skip")
        self._embedded = Embedded(wanted.embed, model.reads(encoder))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of the store (`COLUMNS`, metadata as it came) and `TOLD`, one for each row of the batch.

        A row with a `fault` has neither key nor vectors; the others do not suffer from it.

        Raises:
            DataError: the batch lacks a column or holds one of another type.
        """
        entries = entries_of(batch)
        there: dict[int, _Read] = {}
        fault: list[str | None] = [None] * len(entries)
        work = ahead(self._read, entries, workers=self._encoder.threads, depth=64)
        for place, (_, future) in enumerate(work):
            try:
                there[place] = future.result()
            except DataError as error:
                fault[place] = _said(error)
        raw_of, refused, cut = vectors_of([one.ready for one in there.values()], self._encoder)
        for place in [place for place, one in there.items() if one.ready.key in refused]:
            fault[place] = refused[there.pop(place).ready.key]
        return self._table(batch, entries, there, raw_of, fault, cut)

    def _read(self, entry: Entry) -> _Read:
        ready = read(entry, self._embedded)
        image = ready.item.image
        return _Read(ready, None if image is None else thumbnail_of(image, item_id=entry.id))

    def _table(
        self,
        batch: pa.Table,
        entries: Sequence[Entry],
        found: Mapping[int, _Read],
        raw_of: Mapping[str, NDArray[np.float32]],
        fault: Sequence[str | None],
        cut: Mapping[str, int],
    ) -> pa.Table:
        there = [found.get(place) for place in range(len(entries))]
        ready = [None if one is None else one.ready for one in there]
        good_N = np.array([one is not None for one in there], dtype=bool)
        raw_ND = np.zeros((len(entries), self.settings.index.width), np.float32)
        for place, had in found.items():
            raw_ND[place] = raw_of[had.ready.key]
        shown_N = np.array(["image" if one is None else one.embedded.modality for one in ready], dtype=str)
        fitted = self.settings.fitted
        vector_NE = fitted.rows(raw_ND, shown_N) if entries else fitted(raw_ND, "image", "candidate")
        columns = {
            "id": pa.array([entry.id for entry in entries], pa.string()),
            "key": pa.array([one and one.key for one in ready], pa.string()),
            "source": pa.array([entry.source for entry in entries], pa.string()),
            "stamp": pa.array([one and one.stamp for one in ready], pa.string()),
            "modality": pa.array([one and one.embedded.modality for one in ready], pa.string()),
            "text": pa.array([one and one.item.text for one in ready], pa.string()),
            "thumbnail": pa.array([one and one.thumbnail for one in there], pa.binary()),
            "raw": _vectors(raw_ND, good_N),
            "vector": _vectors(vector_NE, good_N),
        }
        told = {
            "fault": pa.array(fault, TOLD["fault"]),
            "cut": pa.array([cut.get(one.key, 0) if one else 0 for one in ready], TOLD["cut"]),
        }
        metadata = {name: batch.column(name) for name in batch.column_names if name.startswith(META)}
        return pa.table({**{name: columns[name] for name in COLUMNS}, **metadata, **told})


@dataclass(frozen=True, slots=True)
class _Read:
    """An item whose contents were read, and its small picture."""

    ready: Ready
    thumbnail: bytes | None


def entries_of(batch: pa.Table) -> list[Entry]:
    """The rows of a table of items, their files not yet read.

    Raises:
        DataError: no column `id`, one of another type, a row without an id, or an id twice.
    """
    unknown = [n for n in batch.column_names if n not in ITEM_COLUMNS and not n.startswith(META)]
    if unknown or "id" not in batch.column_names:
        what = f"has a column '{unknown[0]}'" if unknown else "has no column 'id'"
        do = f"Give {', '.join(ITEM_COLUMNS)}, and metadata under names that begin with '{META}'."
        raise DataError(f"The table of items {what}.", do=do)
    given = {name: batch.column(name) for name in ITEM_COLUMNS if name in batch.column_names}
    for name, column in given.items():
        fits = _is_bytes(column.type) if name == "image" else _is_text(column.type)
        if not fits and not pa.types.is_null(column.type):
            do = "Give texts; images as encoded bytes."
            raise DataError(f"The column '{name}' holds {column.type}.", do=do)
    values = {name: column.to_pylist() for name, column in given.items()}
    entries = []
    for place, item_id in enumerate(values.pop("id")):
        if item_id is None:
            raise DataError(
                "A row has no id.", where=f"row {place + 1} of the batch", do="Give every row one."
            )
        facts = {name: column[place] for name, column in values.items()}
        text_file, image_file = facts.pop("text_file", None), facts.pop("image_file", None)
        if text_file is not None:
            facts["text_file"] = Path(text_file)
        if image_file is not None and facts.get("image") is None:
            facts["image"] = Path(image_file)
        entries.append(Entry(item_id, **{"source": None, "stamp": None, **facts}))
    unique_ids((entry.id for entry in entries), what="item")
    return entries


def items_table(entries: Sequence[Entry], kinds: Mapping[str, str]) -> pa.Table:
    """The table of items of entries: what `entries_of` reads, and their metadata.

    Args:
        kinds: metadata column -> name of its type.
    """

    def path(given: object) -> str | None:
        return None if given is None or isinstance(given, bytes) else os.fspath(given)  # type: ignore[call-overload]

    def words(values: Sequence[str | None]) -> pa.Array:
        return pa.array(values, pa.string())

    pictures = [entry.image for entry in entries]
    columns = {
        "id": words([entry.id for entry in entries]),
        "source": words([entry.source for entry in entries]),
        "stamp": words([entry.stamp for entry in entries]),
        "text": words([entry.text for entry in entries]),
        "text_file": words([path(entry.text_file) for entry in entries]),
        "image": pa.array([one if isinstance(one, bytes) else None for one in pictures], pa.binary()),
        "image_file": words([path(one) for one in pictures]),
        "instruction": words([entry.instruction for entry in entries]),
    }
    metadata = {
        META + name: pa.array([entry.metadata.get(name) for entry in entries], arrow_type(kind))
        for name, kind in kinds.items()
    }
    return pa.table({**columns, **metadata})


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _said(fault: DataError) -> str:
    return f"{fault.what} {fault.do or ''}".strip()


def _vectors(rows_ND: NDArray[np.float32], good_N: NDArray[np.bool_]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows_ND, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows_ND.shape[1], mask=pa.array(~good_N))
