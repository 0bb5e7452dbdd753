"""The items of each step, opened and prepared by threads before the step begins.

Legend of shapes: M members of a step in this process, U distinct items.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import torch
from PIL import Image

from clearsight.data.content import content_key
from clearsight.data.images import open_image
from clearsight.errors import ItemError
from clearsight.models.batching import ahead
from clearsight.models.feed import Prepares
from clearsight.models.prepare import Prepared
from clearsight.training.pairs import Member, Pairs, Place
from clearsight.training.plan import Plan
from clearsight.training.said import Said, Saying, to_say
from clearsight.types import Item

AHEAD_BYTES = 1 << 30
"""Prepared items of later steps that may wait, in bytes; a step's own are all in memory."""
_DEPTH = 1 << 16

OnError: TypeAlias = Literal["raise", "skip"]


class Ready(NamedTuple):
    """An item that is ready: its tokens and pixels, and a code of its content (63 bits of its key)."""

    prepared: Prepared
    code: int


@dataclass(frozen=True)
class Step:
    """What one process needs for one step.

    Attributes:
        number: of the step, from 0.
        members: pairs, and negatives that stand alone.
        ready: the items of their places, each once.
        said: what is to be said, where the next-token loss takes part.
        skipped: item id -> why it, and its pairs, were left out.
    """

    number: int
    members: tuple[Member, ...]
    ready: dict[Place, Ready]
    said: tuple[Said, ...]
    skipped: dict[str, str]


_Job: TypeAlias = "int | Place | tuple[Place, Place]"
"""The number of a step that begins, an item of it, or a pair of whose text the next-token loss is wanted."""


class Feeding:
    """Steps in order, prepared ahead.

    Args:
        preparer: words an item for the encoder; called in worker threads.
        saying: words what is to be said; None without the next-token loss.
        rank, count: this process among all; the clusters of a step are dealt out in turn.
        workers: threads, at least one: nothing is opened or prepared in the training's own thread.
        square: bring images to squares of so many pixels a side first.
        dtype: of the pixels, as the model will want them.
        on_error: "skip" leaves out pairs of which an item cannot be prepared, and names it.
    """

    def __init__(
        self,
        pairs: Pairs,
        plan: Plan,
        preparer: Prepares,
        *,
        saying: Saying | None = None,
        rank: int = 0,
        count: int = 1,
        workers: int = 1,
        square: int | None = None,
        dtype: torch.dtype = torch.float32,
        on_error: OnError = "raise",
    ) -> None:
        self.pairs, self.plan, self.preparer, self.saying = pairs, plan, preparer, saying
        self.rank, self.count, self.workers = rank, count, max(1, workers)
        self.square, self.dtype, self.on_error = square, dtype, on_error
        self._waiting, self._lock = 0, threading.Lock()

    def steps(self, start: int, stop: int | None = None) -> Iterator[Step]:
        """The steps from `start` on.

        Raises:
            ItemError: an item cannot be prepared (`on_error="raise"`).
        """
        members: dict[int, tuple[Member, ...]] = {}

        def jobs() -> Iterator[_Job]:
            for number in range(start, self.plan.steps if stop is None else stop):
                members[number] = self.members(number)
                yield number
                yield from dict.fromkeys(place for one in members[number] for place in one if place)
                if self.saying is not None:
                    yield from ((one.query, one.positive) for one in members[number] if one.query)

        results = ahead(self._done, jobs(), workers=self.workers, depth=_DEPTH, full=self._full)
        gathered: _Gathered | None = None
        for job, future in results:
            if isinstance(job, int):
                if gathered is not None:
                    yield gathered.step(members.pop(gathered.number))
                gathered = _Gathered(job)
                continue
            assert gathered is not None
            done = future.result()
            self._weigh(-_bytes(done))
            if isinstance(done, ItemError) and self.on_error == "raise":
                raise done
            gathered.take(job, done, self._id(job))
        if gathered is not None:
            yield gathered.step(members.pop(gathered.number))

    def members(self, number: int) -> tuple[Member, ...]:
        """The members of a step that this process works on."""
        clusters = self.plan.clusters(number)[self.rank :: self.count]
        return tuple(member for cluster in clusters.tolist() for member in self.pairs.members(cluster))

    def _done(self, job: _Job) -> Ready | Said | ItemError | None:
        if isinstance(job, int):
            return None
        try:
            done = self._ready(job) if isinstance(job, Place) else self._said(*job)
        except ItemError as error:
            return error
        self._weigh(_bytes(done))
        return done

    def _ready(self, place: Place) -> Ready:
        asked = self.pairs.asked(place)
        code = int(content_key(asked.item)[:16], 16) >> 1
        image = self._image(asked.item)
        prepared = self.preparer(asked.item, asked.role, image, counterpart=asked.counterpart)
        return Ready(self._small(prepared), code)

    def _said(self, query: Place, positive: Place) -> Said | None:
        assert self.saying is not None
        found = to_say(self.pairs.asked(query).item, self.pairs.asked(positive).item)
        if found is None:
            return None
        item, text = found
        said = self.saying(item, text, self._image(item))
        return None if said is None else replace(said, prepared=self._small(said.prepared))

    def _image(self, item: Item) -> Image.Image | None:
        if item.image is None:
            return None
        image = open_image(item.image, item_id=item.id)
        if self.square is None:
            return image
        return image.resize((self.square, self.square), Image.Resampling.BICUBIC)

    def _small(self, prepared: Prepared) -> Prepared:
        pixels = {
            name: value.to(self.dtype) if value.is_floating_point() else value
            for name, value in prepared.pixels.items()
        }
        return replace(prepared, pixels=pixels)

    def _id(self, job: Place | tuple[Place, Place]) -> str:
        return self.pairs.asked(job if isinstance(job, Place) else job[0]).item.id

    def _weigh(self, count: int) -> None:
        with self._lock:
            self._waiting += count

    def _full(self) -> bool:
        return self._waiting >= AHEAD_BYTES


class _Gathered:
    """What has come of a step so far."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._ready: dict[Place, Ready] = {}
        self._said: list[tuple[tuple[Place, Place], Said]] = []
        self._skipped: dict[str, str] = {}

    def take(
        self, job: Place | tuple[Place, Place], done: Ready | Said | ItemError | None, item_id: str
    ) -> None:
        if isinstance(done, ItemError):
            self._skipped[item_id] = f"{done.what} {done.do or ''}".strip()
        elif isinstance(done, Ready) and isinstance(job, Place):
            self._ready[job] = done
        elif isinstance(done, Said) and not isinstance(job, Place):
            self._said.append((job, done))

    def step(self, members: Sequence[Member]) -> Step:
        """The step, without members of which an item was refused."""
        kept = [m for m in members if all(place is None or place in self._ready for place in m)]
        used = {place for member in kept for place in member if place is not None}
        pairs = {(member.query, member.positive) for member in kept}
        return Step(
            self.number,
            tuple(kept),
            {place: one for place, one in self._ready.items() if place in used},
            tuple(one for pair, one in self._said if pair in pairs),
            self._skipped,
        )


def _bytes(done: Ready | Said | ItemError | None) -> int:
    if done is None or isinstance(done, ItemError):
        return 0
    return done.prepared.ids_L.nbytes + sum(
        one.numel() * one.element_size() for one in done.prepared.pixels.values()
    )
