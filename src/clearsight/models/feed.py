"""Items on their way to the model: opened and prepared by threads, ahead of it, in bounded memory.

Legend of shapes: L tokens of one item.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL.Image import Image

from clearsight.data.images import open_image
from clearsight.errors import ItemError
from clearsight.models.batching import ahead, windows
from clearsight.models.prepare import Prepared
from clearsight.types import Item, Modality, Role

WINDOW_ITEMS = 8192
WINDOW_BYTES = 256 << 20
_TEXTS_AT_ONCE = 64  # handing a text alone to a thread costs a tenth of tokenising it
_DEPTH = 4096


class Prepares(Protocol):
    """Words an item; safe to call in threads."""

    def __call__(
        self, item: Item, role: Role, image: Image | None, *, counterpart: Modality | None = None
    ) -> Prepared: ...


@dataclass(frozen=True, slots=True)
class Fed:
    """An item that is ready: its key in the mapping given to `feed`, and its tokens and pixels."""

    index: int
    prepared: Prepared


def feed(
    items: Mapping[int, Item],
    preparer: Prepares,
    role: Role,
    *,
    counterpart: Modality | None = None,
    workers: int,
    refuse: Callable[[int, ItemError], None],
) -> Iterator[list[Fed]]:
    """Windows of prepared items, those without an image first: within one there is enough to sort by length.

    A window ends at `WINDOW_ITEMS` items or `WINDOW_BYTES` of pixels and ids; about as much again may wait,
    prepared, behind it. Images are opened here and nowhere earlier, and forgotten with their window.

    Args:
        preparer: called in worker threads.
        workers: threads; 0 prepares in the caller's.
        refuse: told of each item that cannot be prepared; may raise.
    """
    texts = [i for i, item in items.items() if item.image is None]
    images = [i for i, item in items.items() if item.image is not None]
    waiting = _Waiting(WINDOW_BYTES)

    def prepare(indices: Sequence[int]) -> list[tuple[int, Prepared | ItemError]]:
        results = [(i, _prepare(items[i], preparer, role, counterpart)) for i in indices]
        waiting.add(sum(_weight(one) for _, one in results))
        return results

    def stream(chunks: Iterator[Sequence[int]]) -> Iterator[Fed]:
        for _, future in ahead(prepare, chunks, workers=workers, depth=_DEPTH, full=waiting.full):
            results = future.result()
            waiting.add(-sum(_weight(one) for _, one in results))
            for index, one in results:
                if isinstance(one, ItemError):
                    refuse(index, one)
                else:
                    yield Fed(index, one)

    text_chunks = (texts[i : i + _TEXTS_AT_ONCE] for i in range(0, len(texts), _TEXTS_AT_ONCE))
    for chunks in (text_chunks, ([i] for i in images)):
        yield from windows(
            stream(chunks), lambda fed: 1 / WINDOW_ITEMS + _weight(fed.prepared) / WINDOW_BYTES, limit=1
        )


def _prepare(
    item: Item, preparer: Prepares, role: Role, counterpart: Modality | None
) -> Prepared | ItemError:
    try:
        image = None if item.image is None else open_image(item.image, item_id=item.id)
        return preparer(item, role, image, counterpart=counterpart)
    except ItemError as error:
        return error


def _weight(prepared: Prepared | ItemError) -> int:
    """Bytes that a prepared item holds."""
    if isinstance(prepared, ItemError):
        return 0
    pixels = sum(one.numel() * one.element_size() for one in prepared.pixels.values())
    sample = 0 if prepared.sample is None else prepared.sample.nbytes
    return prepared.ids_L.nbytes + prepared.kinds_L.nbytes + pixels + sample


class _Waiting:
    """Bytes prepared and not yet taken, counted across threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count

    def full(self) -> bool:
        return self._bytes >= self._limit
