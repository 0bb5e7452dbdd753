"""From an entry to its vector: what is read of it, what of that is embedded, each content once.

Every engine that fills an index goes through here. Legend of shapes: D width of raw vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clearsight.data.content import content_key
from clearsight.errors import DataError, ItemError
from clearsight.index.folder import Entry
from clearsight.index.settings import Embed
from clearsight.types import Item, Modality

if TYPE_CHECKING:
    from clearsight.models.encoder import Encoder


@dataclass(frozen=True)
class Embedded:
    """What of an item is embedded, by an index's rule and by what its model reads."""

    rule: Embed
    reads: frozenset[Modality]

    def __call__(self, item: Item) -> Item:
        """The item as it is embedded.

        Raises:
            ItemError: the model does not read what the rule leaves of it.
        """
        for modality in _WANTED[self.rule]:
            if modality in self.reads and _has(item, modality):
                return _only(item, modality)
        raise ItemError(
            f"The model reads {', '.join(sorted(self.reads))}; the item is {item.modality}.",
            where=item.id,
            do="Give another model, items that it reads, or another --embed.",
        )


def _has(item: Item, modality: Modality) -> bool:
    there = {"text": item.text is not None, "image": item.image is not None}
    return all(there[part] for part in modality.split("+"))


def _only(item: Item, modality: Modality) -> Item:
    return Item(
        item.id,
        item.text if "text" in modality else None,
        item.image if "image" in modality else None,
        item.instruction,
    )


_WANTED: Mapping[Embed, tuple[Modality, ...]] = {
    "auto": ("image", "text"),
    "image": ("image", "text"),
    "text": ("text", "image"),
    "both": ("image+text", "image", "text"),
}
"""What is embedded of an item, the first that it has and the model reads."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An entry that was read: what is kept of it, what is embedded, and the key of that."""

    item: Item
    embedded: Item
    key: str
    entry: Entry
    stamp: str | None

    @property
    def nbytes(self) -> int:
        return len(self.item.image) if isinstance(self.item.image, bytes) else 1 << 10


def read(entry: Entry, embedded: Embedded) -> Ready:
    """The entry's contents, and what of it is embedded.

    Raises:
        DataError: a file that cannot be read, an empty text, nothing that the model reads (mostly ItemError).
    """
    item, stamp = entry.read()
    if "\0" in f"{item.id}{item.text}":
        raise ItemError("The text or id holds the character NUL.", where=entry.id, do="Remove it.")
    shown = embedded(item)
    return Ready(item, shown, content_key(shown), entry, stamp)


def vectors_of(
    ready: Iterable[Ready], encoder: Encoder
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str], dict[str, int]]:
    """By content key, each content embedded once: its vector, or why it has none; and tokens that were cut.

    Raises:
        ItemError: an item that cannot be embedded, where the encoder raises.
    """
    distinct = {one.key: one.embedded for one in ready}
    key_of = {item.id: key for key, item in distinct.items()}
    raw_of: dict[str, NDArray[np.float32]] = {}
    refused: dict[str, str] = {}
    cut: dict[str, int] = {}
    batches = [list(distinct.values())] if distinct else []
    while batches:
        items = batches.pop()
        try:
            found = encoder.embed(items, "candidate", counterpart="text")
        except ItemError:
            raise
        except DataError as fault:  # vectors that are no numbers: of which item, one by one
            if len(items) > 1:
                batches += [[item] for item in items]
            else:
                refused[key_of[items[0].id]] = fault.what
            continue
        raw_of.update((key_of[name], row_D) for name, row_D in zip(found.ids, found.rows_ND, strict=True))
        refused.update((key_of[name], why) for name, why in found.skipped.items())
        cut.update((key_of[name], tokens) for name, tokens in found.cut.items())
    return raw_of, refused, cut
