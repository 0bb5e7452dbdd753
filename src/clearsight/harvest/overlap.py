"""Training while harvesting: a thread fills the folder, the stream reads what is there.

Legend of shapes: D width, B rows of a batch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from clearsight.errors import UsageError
from clearsight.harvest.config import HarvestConfig
from clearsight.harvest.produce import Harvest
from clearsight.harvest.shards import Shard, Shards
from clearsight.harvest.stream import BUFFER_ROWS, ShuffledStream
from clearsight.models.encoder import Encoder
from clearsight.progress import Progress, Silent
from clearsight.types import Item, Modality, Role


def harvest_stream(
    encoder: Encoder,
    items: Sequence[Item],
    folder: str | os.PathLike[str],
    *,
    role: Role = "candidate",
    counterpart: Modality | None = None,
    config: HarvestConfig | None = None,
    progress: Progress | None = None,
    buffer: int = BUFFER_ROWS,
    seed: int = 0,
    epochs: int = 1,
    token_types: Collection[str] | str | None = None,
    norm_limit: float | None = None,
    device: torch.device | str = "cpu",
) -> HarvestStream:
    """A stream whose first epoch trains on shards as the model gives them; later epochs need no model.

    Its batches are those of `ShuffledStream` over the finished harvest, bit by bit, however fast either side
    is, and whether or not the folder was harvested before, in part or as a whole.

    Args:
        encoder, items, folder, role, counterpart, config, progress: as for `harvest`. The model belongs to
            the stream while its batches are read.
        buffer, seed, epochs, token_types, norm_limit, device: as for `ShuffledStream`.

    Raises:
        UsageError: as `harvest` and `ShuffledStream`, at once.
    """
    work = Harvest(encoder, items, folder, role=role, counterpart=counterpart, config=config)
    arriving = Arriving(work, progress or Silent())
    stream = ShuffledStream(
        arriving,
        buffer=buffer,
        seed=seed,
        epochs=epochs,
        token_types=token_types,
        norm_limit=norm_limit,
        device=device,
    )
    return HarvestStream(arriving, stream)


class HarvestStream:
    """See `harvest_stream`."""

    def __init__(self, arriving: Arriving, stream: ShuffledStream) -> None:
        self._arriving, self._stream = arriving, stream

    @property
    def width(self) -> int:
        """D."""
        return self._stream.width

    def batches(self, size: int, *, first: int = 0) -> Iterator[Tensor]:
        """As `ShuffledStream.batches`. The harvest goes on while they are read, one reader at a time; it
        stops with the reader, and goes on with the next.

        Raises:
            ItemError, DataError: what stopped the harvest, when the rows before it have been given.
        """
        with self._arriving:
            yield from self._stream.batches(size, first=first)

    def shards(self) -> Shards:
        """The finished harvest.

        Raises:
            DataError: it is not finished.
        """
        return Shards.open(self._arriving.work.folder)


class Arriving:
    """The shards of a harvest that a thread carries on, as a `ShardSource` that waits for them."""

    def __init__(self, work: Harvest, progress: Progress) -> None:
        self.work, self._progress = work, progress
        self._changed = threading.Condition()
        self._shards: list[Shard] = []
        self._ended = True
        self._stop = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def width(self) -> int:
        return self.work.states.width

    @property
    def dtype(self) -> torch.dtype:
        return self.work.dtype

    def __enter__(self) -> Arriving:
        if self._thread is not None and self._thread.is_alive():
            raise UsageError(
                "The stream is being read already.", do="Close the other iterator first: batches.close()."
            )
        self._shards, self._ended, self._stop, self._error = [], False, False, None
        self._thread = threading.Thread(target=self._produce, name="harvest", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        if self._thread is not None:
            self._thread.join()

    def shard(self, number: int) -> Shard | None:
        """See `ShardSource`.

        Raises:
            ItemError, DataError: the harvest has stopped before this shard.
        """
        with self._changed:
            self._changed.wait_for(lambda: number < len(self._shards) or self._ended)
            if number < len(self._shards):
                return self._shards[number]
            if self._error is not None:
                raise self._error
            return None

    def _produce(self) -> None:
        error: BaseException | None = None
        try:
            for shards in self.work.run(self._progress):
                if shards:
                    with self._changed:
                        self._shards += shards
                        self._changed.notify_all()
                if self._stop:
                    break
        except BaseException as stopped:
            error = stopped
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()
