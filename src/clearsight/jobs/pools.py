"""Pools that do not fit in memory: embedded slice by slice into the store, then read from there.

Legend of shapes: N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clearsight.errors import UsageError
from clearsight.names import Names
from clearsight.progress import Silent
from clearsight.types import MODALITIES, ids_of

if TYPE_CHECKING:
    from clearsight.models.encoder import Encoder
    from clearsight.progress import Progress
    from clearsight.store import StoredRows
    from clearsight.types import Item, Modality, Role

SLICE_ITEMS = 4096
"""Items held at once, with their images where they come as bytes."""


@dataclass(frozen=True)
class Shard:
    """The i-th of n parts of a pool, 1 <= i <= n: every n-th slice, so that parts take equally long.

    Raises:
        UsageError: i is not one of 1..n.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UsageError(
                f"There is no shard {self.number} of {self.of}.",
                where="--shard",
                do="Give i/n with i from 1 to n, for example 1/4.",
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard from words such as "2/8". Raises UsageError."""
        number, slash, of = text.partition("/")
        if not (slash and number.strip().isdecimal() and of.strip().isdecimal()):
            raise UsageError(f"'{text}' is not a shard.", where="--shard", do="Give i/n, for example 1/4.")
        return cls(int(number), int(of))


WHOLE = Shard(1, 1)


def embed_pool(
    encoder: Encoder,
    items: Sequence[Item],
    role: Role = "candidate",
    *,
    counterpart: Modality | None = None,
    shard: Shard = WHOLE,
    slice_items: int = SLICE_ITEMS,
    progress: Progress | None = None,
) -> StoredRows | None:
    """Embed a pool into the encoder's cache, holding one slice of it at a time.

    What is in the cache is not computed again: a call that was interrupted goes on where it stopped, and
    parts embedded by several processes, one after the other or at once, meet in the same store. Items
    refused under `on_error="skip"` have no row; `skipped` says why.

    Args:
        shard: embed only these slices; another call, without a shard, then finds them done.

    Returns:
        The pool's vectors, read from the store as they are asked for; None for a part of it.

    Raises:
        UsageError: the encoder has no cache, or the slice is empty.
        ItemError, DataError: as `Encoder.embed`.
    """
    from clearsight.store import StoredRows, VectorStore, digests

    if encoder.cache is None:
        raise UsageError("A pool is embedded into a cache.", where="cache", do="Give the encoder a folder.")
    if slice_items < 1:
        raise UsageError(f"A slice holds {slice_items} items.", where="slice_items", do="Give at least 1.")
    store = VectorStore.open(encoder.cache, encoder.origin(counterpart=counterpart))
    skipped: dict[str, str] = {}
    kept, digest_parts, kinds = [], [digests([])], [np.zeros(0, np.uint8)]
    told = progress or Silent()
    told.start(
        sum(len(items[first : first + slice_items]) for first in _firsts(items, shard, slice_items)),
        f"{role}s, slice by slice",
    )
    try:
        for first in _firsts(items, shard, slice_items):
            part = list(items[first : first + slice_items])
            keys = _keys(encoder, part, role, skipped)
            digests_K = digests(list(keys.values()))
            missing_K = ~store.has(digests_K)
            wanted = [part[n] for n, absent in zip(keys, missing_K, strict=True) if absent]
            if wanted:
                done = encoder.embed(wanted, role, counterpart=counterpart)
                skipped.update(done.skipped)
            if shard == WHOLE:
                place_K = np.fromiter(keys, np.int64, len(keys))
                good_K = np.array([part[n].id not in skipped for n in keys], dtype=bool)
                kept.append(first + place_K[good_K])
                digest_parts.append(digests_K[good_K])
                kinds.append(
                    np.array([MODALITIES.index(part[n].modality) for n in place_K[good_K]], np.uint8)
                )
            told.advance(len(part))
    finally:
        told.close()
    if shard != WHOLE:
        return None
    ids = Names.of(ids_of(items))
    if skipped:
        ids = Names(ids.column.take(np.concatenate(kept) if kept else np.zeros(0, np.int64)))
    return StoredRows(
        store, np.concatenate(digest_parts), ids, side=role, modality_N=np.concatenate(kinds), skipped=skipped
    )


def _firsts(items: Sequence[Item], shard: Shard, slice_items: int) -> range:
    """Where the slices of a shard begin."""
    return range((shard.number - 1) * slice_items, len(items), shard.of * slice_items)


def _keys(encoder: Encoder, part: Sequence[Item], role: Role, skipped: dict[str, str]) -> dict[int, str]:
    """Place -> key; items that cannot be read are refused as the encoder refuses them."""
    from clearsight.errors import ItemError
    from clearsight.models.batching import ahead
    from clearsight.models.call import vector_key

    def key(place: int) -> str:
        return vector_key(part[place], role)

    keys: dict[int, str] = {}
    workers = encoder.threads if any(item.image is not None for item in part) else 0
    for place, future in ahead(key, range(len(part)), workers=workers, depth=256):
        try:
            keys[place] = future.result()
        except ItemError as error:
            if encoder.on_error == "raise":
                raise
            skipped[part[place].id] = f"{error.what} {error.do or ''}".strip()
    return keys
