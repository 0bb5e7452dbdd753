"""Pools that do not fit in memory: embedded slice by slice into the store, then read from there.

Legend of shapes: N items, K items of a slice that could be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from clearsight.errors import UsageError
from clearsight.names import Names
from clearsight.progress import Silent
from clearsight.types import MODALITIES, ids_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clearsight.models.encoder import Encoder
    from clearsight.progress import Progress
    from clearsight.store import StoredRows
    from clearsight.store.keys import Digests
    from clearsight.types import Item, Modality, Role

SLICE_ITEMS = 4096
"""Items held at once, with their images where they come as bytes."""
SLICES_A_PART = 4
"""A part has at least so many slices where it can, so that parts of a small pool are alike too."""


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

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Shard(1, 1)


@dataclass(frozen=True)
class Part:
    """What became of a part of a pool: so many items have their vectors in the store, others were refused."""

    items: int
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Slice:
    """Items of one slice that are in the store: their places in the pool, keys and modalities."""

    place_K: NDArray[np.int64]
    digests_K: Digests
    kind_K: NDArray[np.uint8]


def embed_pool(
    encoder: Encoder,
    items: Sequence[Item],
    role: Role = "candidate",
    *,
    side: Role | None = None,
    counterpart: Modality | None = None,
    slice_items: int = SLICE_ITEMS,
    progress: Progress | None = None,
) -> StoredRows:
    """Embed a pool into the encoder's cache, holding one slice of it at a time.

    What is in the cache is not computed again: a call that was interrupted goes on where it stopped, and
    parts embedded before (`embed_part`) are found done. Items refused under `on_error="skip"` have no row;
    `skipped` says why.

    Args:
        role: how the prompt words the items. side: what the rows are in the task, where that differs.

    Returns:
        The pool's vectors, read from the store as they are asked for.

    Raises:
        UsageError: the encoder has no cache, the slice is empty, or the model does not read the items.
        ItemError, DataError: as `Encoder.embed`.
    """
    from clearsight.store import StoredRows, digests

    work = _Work(encoder, items, role, counterpart, WHOLE, slice_items, progress)
    done = [_Slice(np.zeros(0, np.int64), digests([]), np.zeros(0, np.uint8)), *work]
    ids = Names.of(ids_of(items))
    if work.skipped:
        ids = Names(ids.column.take(np.concatenate([part.place_K for part in done])))
    return StoredRows(
        work.store,
        np.concatenate([part.digests_K for part in done]),
        ids,
        side=side or role,
        modality_N=np.concatenate([part.kind_K for part in done]),
        skipped=work.skipped,
    )


def embed_part(
    encoder: Encoder,
    items: Sequence[Item],
    role: Role = "candidate",
    *,
    shard: Shard,
    counterpart: Modality | None = None,
    slice_items: int = SLICE_ITEMS,
    progress: Progress | None = None,
) -> Part:
    """Embed the slices of a shard into the encoder's cache, for `embed_pool` to find.

    Parts may be embedded by several processes, one after the other or at once: they meet in the same store.

    Raises:
        UsageError, ItemError, DataError: as `embed_pool`.
    """
    work = _Work(encoder, items, role, counterpart, shard, slice_items, progress)
    return Part(sum(len(part.place_K) for part in work), work.skipped)


class _Work:
    """Slice after slice, each given once its vectors are in the store; what was refused is in `skipped`."""

    def __init__(
        self,
        encoder: Encoder,
        items: Sequence[Item],
        role: Role,
        counterpart: Modality | None,
        shard: Shard,
        slice_items: int,
        progress: Progress | None,
    ) -> None:
        from clearsight.store import VectorTable

        if encoder.cache is None:
            raise UsageError(
                "A pool is embedded into a cache.", where="cache", do="Give the encoder a folder."
            )
        if slice_items < 1:
            raise UsageError(
                f"A slice holds {slice_items} items.", where="slice_items", do="Give at least 1."
            )
        encoder.check(items)
        self.encoder, self.items, self.role, self.counterpart = encoder, items, role, counterpart
        self.firsts, self.size = _slices(len(items), shard, slice_items)
        self.progress = progress or Silent()
        self.store = VectorTable.shared(encoder.cache, encoder.origin(counterpart=counterpart))
        self.skipped: dict[str, str] = {}

    def __iter__(self) -> Iterator[_Slice]:
        sizes = [min(self.size, len(self.items) - first) for first in self.firsts]
        self.progress.start(sum(sizes), f"{self.role}s, slice by slice")
        try:
            for first, size in zip(self.firsts, sizes, strict=True):
                yield self._slice(first)
                self.progress.advance(size)
        finally:
            self.progress.close()

    def _slice(self, first: int) -> _Slice:
        from clearsight.store import digests

        part = list(self.items[first : first + self.size])
        keys = _keys(self.encoder, part, self.role, self.skipped)
        digests_K = digests(list(keys.values()))
        missing_K = ~self.store.has(digests_K)
        wanted = [part[n] for n, absent in zip(keys, missing_K, strict=True) if absent]
        if wanted:
            self.skipped.update(self._embed(wanted))
        place_K = np.fromiter(keys, np.int64, len(keys))
        good_K = np.array([part[n].id not in self.skipped for n in keys], dtype=bool)
        kinds = [MODALITIES.index(part[n].modality) for n in place_K[good_K]]
        return _Slice(first + place_K[good_K], digests_K[good_K], np.array(kinds, np.uint8))

    def _embed(self, wanted: Sequence[Item]) -> Mapping[str, str]:
        """What was refused, and why."""
        try:
            self.encoder.check(wanted)
        except UsageError as error:  # the pool as a whole was not refused: these may be left out
            return dict.fromkeys((item.id for item in wanted), error.what)
        return self.encoder.embed(wanted, self.role, counterpart=self.counterpart).skipped


def _slices(count: int, shard: Shard, slice_items: int) -> tuple[range, int]:
    """Where the slices of a shard begin, and their size."""
    if shard != WHOLE:
        slice_items = max(1, min(slice_items, count // (shard.of * SLICES_A_PART)))
    return range((shard.number - 1) * slice_items, count, shard.of * slice_items), slice_items


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
