"""One call of the encoder, step by step: key, recall, prepare, pass, keep, give back.

Legend of shapes: N items, U distinct items, W distinct items still to embed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from clearsight.data.content import content_key
from clearsight.errors import ItemError
from clearsight.models.batching import ahead
from clearsight.models.feed import Fed, feed
from clearsight.models.ledger import Ledger, Sheet
from clearsight.pooling import Pooling
from clearsight.progress import Progress
from clearsight.store import VectorTable
from clearsight.types import Embeddings, Item, Modality, Role

if TYPE_CHECKING:
    from clearsight.models.encoder import Encoder

_CAPTIONS_AT_ONCE = 256  # captions are not kept: this many at most are written again after a kill


def vector_key(item: Item, role: Role) -> str:
    """Under what a vector is kept: the item's content and the side that its prompt is worded for.

    Raises:
        ItemError: as `content_key`.
    """
    return f"{content_key(item)}:{role}"


class Call:
    """The items of one call, what is known of them, and what was refused."""

    def __init__(
        self,
        encoder: Encoder,
        items: Sequence[Item],
        role: Role,
        counterpart: Modality | None,
        progress: Progress,
    ) -> None:
        self.encoder, self.items, self.role, self.counterpart = encoder, items, role, counterpart
        self.progress = progress
        self.skipped: dict[str, str] = {}
        self.cut: dict[str, int] = {}
        self.keys: list[str] = []
        """Of the U distinct items; filled by `_key_all`, like the next."""
        self.places: list[list[int]] = []
        """Where each distinct item stands among the items, at least once."""

    def run(self, chosen: Sequence[Pooling]) -> dict[str, Embeddings]:
        """Embeddings by pooling."""
        groups = _by_wording(self.encoder, chosen)
        self.progress.start(len(self.items) * len(groups), "embedding")
        try:
            self._key_all()
            sheets = {pooling.name: self._sheet(pooling) for pooling in chosen}
            for group in groups:
                self._embed(group, {pooling.name: sheets[pooling.name] for pooling in group})
            return {name: self._embeddings(sheet) for name, sheet in sheets.items()}
        finally:
            self.progress.close()

    def _key_all(self) -> None:
        def key(place: int) -> str:
            return vector_key(self.items[place], self.role)

        places: dict[str, list[int]] = {}
        workers = self.encoder.threads if any(item.image is not None for item in self.items) else 0
        for place, future in ahead(key, range(len(self.items)), workers=workers, depth=256):
            try:
                places.setdefault(future.result(), []).append(place)
            except ItemError as error:
                self._refuse([place], error)
        self.keys, self.places = list(places), list(places.values())

    def _sheet(self, pooling: Pooling) -> Sheet:
        origin = self.encoder.origin(pooling.name, counterpart=self.counterpart)
        cache = self.encoder.cache
        store = None if cache is None else VectorTable.shared(cache, origin)
        sheet = Sheet(pooling.name, origin, store, np.zeros(len(self.places), bool))
        sheet.recall(self.keys)
        return sheet

    def _embed(self, group: Sequence[Pooling], sheets: Mapping[str, Sheet]) -> None:
        """Everything that some sheet of the group lacks, for all of them, from one pass."""
        places = self.places
        done_U = np.logical_and.reduce([sheet.done_U for sheet in sheets.values()])
        self.progress.advance(sum(len(places[u]) for u in np.flatnonzero(done_U)))
        work = {int(u): self.items[places[u][0]] for u in np.flatnonzero(~done_U)}
        if not work:
            return

        def refuse(u: int, error: ItemError) -> None:
            self._refuse(places[u], error)

        readout = self.encoder.readout(group)
        with Ledger(
            sheets,
            self.keys,
            [self.items[place[0]].id for place in places],
            [len(place) for place in places],
            progress=self.progress,
            refuse=refuse,
            commit_seconds=self.encoder.commit_seconds,
        ) as ledger:
            for window in self._windows(work, group, refuse):
                for index, rows in readout(window):
                    if isinstance(rows, ItemError):
                        refuse(index[0], rows)
                    else:
                        ledger.add(index, rows)

    def _windows(
        self, work: Mapping[int, Item], group: Sequence[Pooling], refuse: Callable[[int, ItemError], None]
    ) -> Iterator[list[Fed]]:
        encoder = self.encoder
        preparer = encoder.preparer(group[0])
        for items in self._worded(work, refuse):
            for window in feed(
                items,
                preparer,
                self.role,
                counterpart=self.counterpart,
                workers=encoder.threads,
                refuse=refuse,
            ):
                kept = [fed for fed in window if _keeps_a_token(fed, group, refuse)]
                for fed in kept:
                    if fed.prepared.cut:
                        for place in self.places[fed.index]:
                            self.cut[self.items[place].id] = fed.prepared.cut
                if kept:
                    yield kept

    def _worded(
        self, work: Mapping[int, Item], refuse: Callable[[int, ItemError], None]
    ) -> Iterator[Mapping[int, Item]]:
        """The items as they are embedded: all at once, or, described, what has no image and then captions."""
        if self.encoder.source == "item":
            yield work
            return
        yield {u: item for u, item in work.items() if item.image is None}
        pictured = [u for u, item in work.items() if item.image is not None]
        for start in range(0, len(pictured), _CAPTIONS_AT_ONCE):
            chunk = {u: work[u] for u in pictured[start : start + _CAPTIONS_AT_ONCE]}
            described: dict[int, Item] = {}
            for u, caption in self.encoder.captioner.captions(chunk, refuse=refuse).items():
                if caption:
                    described[u] = _described(work[u], caption)
                else:
                    what = "The model has no word for this image."
                    refuse(u, ItemError(what, where=work[u].id, do="Embed the item itself."))
            yield described

    def _refuse(self, places: Sequence[int], error: ItemError) -> None:
        if self.encoder.on_error == "raise":
            raise error
        reason = f"{error.what} {error.do or ''}".strip()
        self.skipped.update((self.items[place].id, reason) for place in places)

    def _embeddings(self, sheet: Sheet) -> Embeddings:
        row_N = np.full(len(self.items), -1)
        for u, places in enumerate(self.places):
            row_N[places] = u
        kept = [n for n, item in enumerate(self.items) if item.id not in self.skipped]
        return Embeddings(
            ids=tuple(self.items[n].id for n in kept),
            rows_ND=sheet.rows_UD[row_N[kept]],
            side_N=np.full(len(kept), self.role),
            modality_N=np.array([self.items[n].modality for n in kept], dtype=str),
            origin=sheet.origin,
            skipped=self.skipped,
            cut=self.cut,
        )


def _by_wording(encoder: Encoder, chosen: Sequence[Pooling]) -> list[list[Pooling]]:
    groups: dict[bool, list[Pooling]] = {}
    for pooling in dict.fromkeys(chosen):
        groups.setdefault(encoder.generation_prompt(pooling), []).append(pooling)
    return list(groups.values())


def _described(item: Item, caption: str) -> Item:
    """The caption in the image's place; an item's own text follows it on a new line."""
    return replace(item, image=None, text=caption if item.text is None else f"{caption}\n{item.text}")


def _keeps_a_token(fed: Fed, group: Sequence[Pooling], refuse: Callable[[int, ItemError], None]) -> bool:
    for pooling in group:
        if pooling.leaves_out and not pooling.keeps(fed.prepared.kinds_L).any():
            refuse(
                fed.index,
                ItemError(
                    f"Pooling '{pooling.name}' leaves no token of this item.", do="Choose another pooling."
                ),
            )
            return False
    return True
